"""The checkpoints and the log of a trial in training, on their way from this machine's disk to a URL.

The core commits each epoch in a folder on disk. What it committed is put behind the URL in this order: the weights and
an index that names them, before the epoch is reported, so that no row names weights that cannot be had; then, while the
next epoch trains, the training state, which is several times as large, and an index that names it too; then what no
index names is deleted. An index comes after the files that it names, so what is there is never half.

The next epoch is not reported before that is done. So a machine that is lost takes with it, besides the epoch that it
was training, the state of one epoch at most, which is trained again; its row and its weights stay.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from cpcnn_core import checkpoint_index
from cpcnn_core.checkpoint_index import INDEX as INDEX
from cpcnn_core.checkpoint_index import DamagedIndexError, Index
from cpcnn_core.errors import UserError
from cpcnn_core.files import sha256
from orchestrator.records import location
from orchestrator.records.lease import Lease, LeaseLostError
from orchestrator.records.location import Folder, RemotePath
from orchestrator.records.store import Store

logger = logging.getLogger(__name__)

CLAIM = "claim"  # what the lease of whoever trains the trial is called

LOG_SECONDS = 30.0  # between two copies of the log


class TrialBusyError(UserError):
    """Another process is training this very trial."""


@contextmanager
def opened(store: Store, trial_id: str) -> Generator[Mirror | None]:
    """The mirror of the trial's checkpoints, its folder on disk brought up to date; None where they stay on disk.

    From here on no other process puts anything there. Raise RemoteError.
    """
    remote = store.checkpoint_folder(trial_id)
    if isinstance(remote, Path):
        yield None
        return
    mirror = Mirror(store, trial_id, remote)
    try:
        mirror.fetch()
        yield mirror
    finally:
        mirror.close()


class Mirror:
    """One trial's checkpoints and log, here and there."""

    def __init__(self, store: Store, trial_id: str, remote: RemotePath) -> None:
        self._remote = remote
        self._claim = Lease.stolen(remote, CLAIM)
        self.store = Store(store.folder, self._check)
        """The store for whoever trains the trial: it refuses to write once another process does."""
        self._trial_id = trial_id
        self._folder = store.training_folder(trial_id)
        self._there: Index = {}  # the index that was put there last
        self._content = b""  # its bytes
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._sending: Future[None] | None = None
        self._over = threading.Event()
        self._talking = threading.Thread(target=self._talk, name="mirror-log", daemon=True)
        self._talking.start()

    def fetch(self) -> None:
        """Take over what is there, unless what is here goes on from it. Raise RemoteError."""
        self.store.fetch_log(self._trial_id)
        self._there, self._content = self._read_index()
        here, _ = _read(self._folder / INDEX)
        if here is not None and (not self._there or _goes_on(here, self._there)):
            if here != self._there:
                self.publish()  # a process on this machine was killed before it could
            return
        if not self._there:
            return
        location.remove_tree(self._folder)
        self._folder.mkdir(parents=True)
        for name, checksum in sorted(_states(self._there).items(), reverse=True):
            try:
                location.fetch(self._remote / name, self._folder / name)
            except FileNotFoundError:
                logger.warning("checkpoint %s: missing; going back to the one before", self._remote / name)
                continue
            if sha256(self._folder / name) == checksum:
                break  # training goes on from the newest one
            logger.warning("checkpoint %s: damaged; going back to the one before", self._remote / name)
        content = self._content
        location.write_atomically(self._folder / INDEX, lambda stream: stream.write(content))
        logger.info("fetched the checkpoints of %s", self._remote)

    def publish(self, *, last: bool = False) -> None:
        """Send what was committed since: the weights at once, the rest in a thread, or after the `last` epoch at once.

        First wait until what the call before sent has arrived. Raise RemoteError where it cannot be sent, and
        TrialBusyError where another process trains the trial.
        """
        self._wait()
        here, _ = _read(self._folder / INDEX)
        if here is None:
            return
        self._check()
        if self._content and self._read_index()[1] != self._content:
            # A process that lost its claim put something there a moment later; what is here is what counts.
            self._there = {}
        there = _weights(self._there) | _states(self._there)
        self._send(self._missing(_weights(here), there))
        # The states that were there before stay until the new one has arrived.
        self._commit({**here, "states": self._there.get("states", {})})
        self._sending = self._pool.submit(self._finish, here, self._missing(_states(here), there))
        if last:
            self._wait()

    def close(self) -> None:
        """Wait until everything has arrived; what did not is said in the log."""
        complete = False
        try:
            self._wait()
            complete = _read(self._folder / INDEX)[0] in (None, self._there)
        except (OSError, TrialBusyError) as error:
            logger.error("the state of the last epoch has not arrived at %s: %s", self._remote, error)  # noqa: TRY400
        self._pool.shutdown()
        self._over.set()
        self._talking.join()
        if complete:
            location.remove_tree(self._folder)  # whoever trains it next may be on any machine

    def _finish(self, here: Index, states: dict[str, BinaryIO]) -> None:
        self._send(states)
        self._check()
        self._commit(here)
        named = {INDEX, *_weights(here), *_states(here)}
        names = [name for name in self._remote.listing() if name not in named and not name.startswith(CLAIM)]
        if names:
            self._check()
            location.remove(self._remote / name for name in names)

    def _check(self) -> None:
        try:
            self._claim.look()
        except LeaseLostError as error:
            raise TrialBusyError(
                f"{self._remote}: another process trains trial {self._trial_id} now: {error}"
            ) from None

    def _talk(self) -> None:
        """Show the log, and by it that this process lives."""
        shown = None
        while True:
            over = self._over.wait(LOG_SECONDS)
            try:
                if (changed := self.store.log_changed(self._trial_id)) != shown:
                    self.store.publish_log(self._trial_id)
                    shown = changed
            except OSError as error:
                logger.warning("the log has not arrived: %s", error)
            if over:
                return

    def _missing(self, named: dict[str, str], there: dict[str, str]) -> dict[str, BinaryIO]:
        """The named files that are here and not there; open, since they may lose their names before they are sent."""
        return {
            name: (self._folder / name).open("rb")
            for name, checksum in named.items()
            if there.get(name) != checksum and (self._folder / name).exists()
        }

    def _send(self, files: dict[str, BinaryIO]) -> None:
        with ExitStack() as stack:
            for stream in files.values():
                stack.enter_context(stream)
            for name, stream in files.items():
                self._check()
                (self._remote / name).upload(stream)

    def _commit(self, index: Index) -> None:
        content = json.dumps(index, indent=1).encode()
        (self._remote / INDEX).write_bytes(content)
        self._there, self._content = index, content

    def _wait(self) -> None:
        if self._sending is not None:
            sending, self._sending = self._sending, None
            sending.result()

    def _read_index(self) -> tuple[Index, bytes]:
        index, content = _read(self._remote / INDEX)
        return index or {}, content


def _goes_on(here: Index, there: Index) -> bool:
    """Whether the index `here` has behind it all that the one `there` has."""
    history = there["history"]
    if here["history"][: len(history)] != history:
        return False
    return max(_states(here), default="") >= max(_states(there), default="")


def _weights(index: Index) -> dict[str, str]:
    """Names and checksums."""
    return {name: checksum for name, checksum in index.get("weights", {}).items() if checksum is not None}


def _states(index: Index) -> dict[str, str]:
    """Names and checksums; the names are in order of the steps done."""
    return {name: entry["sha256"] for name, entry in index.get("states", {}).items()}


def _read(path: Folder) -> tuple[Index | None, bytes]:
    """The index and its bytes; nothing where there is none, or a damaged one, which the log names.

    Raise CheckpointError where a later version wrote it.
    """
    try:
        content = path.read_bytes()
        return checkpoint_index.parse_files(content, path), content
    except FileNotFoundError:
        pass
    except DamagedIndexError as error:
        logger.warning("checkpoint index %s: damaged (%s)", path, error)
    return None, b""
