"""Trackers: Weights & Biases and TensorBoard as views of a sweep's tables.

They follow the files and nothing else. So they run in a process of their own, which no trial and no driver waits for;
may be killed, and go on where they stood; and show a sweep that ended long ago as well as one that runs. What was shown
of each trial stands in `tracking.json` of the sweep's folder.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue, TypeAdapter

from cpcnn_core.config import LOCATIONS, Scalar
from orchestrator.objectives.objective import Objective
from orchestrator.records import alone, location
from orchestrator.records.location import Folder, write_atomically
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row, Store, StoreError, as_int
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text import calling
from orchestrator.text.names import identifier

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
    from wandb.sdk.wandb_run import Run

WandbMode: TypeAlias = Literal["online", "offline"]

PROJECT = "cpcnn-sweeps"  # of Weights & Biases, unless WANDB_PROJECT says otherwise
INIT_SECONDS = "20"  # in which its server has to answer, or runs are kept offline; WANDB_INIT_TIMEOUT says otherwise
LAST_SECONDS = 60  # that a sweep's end waits for the trackers
_POLL_SECONDS = 2.0
WARNING = "warning: "  # how a line of the log begins that the user shall see
_LONGEST_GROUP = 128  # characters that Weights & Biases takes
_TAG = re.compile(r"[\w.-][\w./-]*")  # what tensorboardX leaves as it is; it would make one of two others
_NO_METRICS = ("trial_id", "attempt", "epoch", "checkpoint")

Shown: TypeAlias = tuple[int, int | None]
"""What a tracker has shown of a trial: its last epoch, and the attempt whose end it has shown."""

_SHOWN = TypeAdapter(dict[str, dict[str, Shown]])

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where trials are shown."""

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """Show an epoch; `samples` is the picture of what was drawn after it."""
        ...

    def end(self, trial: Entry, best: Row | None) -> None:
        """The trial has ended, for now at least; `best` is its best epoch."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class TensorBoard:
    """Event files in `tensorboard/<trial_id>`."""

    def __init__(self, store: Store) -> None:
        self._folder = store.local_mirror / "tensorboard"
        self._writers: dict[str, SummaryWriter] = {}

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """See `Tracker`."""
        epoch = as_int(row["epoch"])
        writer = self._writer(trial, epoch)
        for name, value in _metrics(row).items():
            writer.add_scalar(_tag(name), value, epoch)
        if samples is not None:
            writer.add_image("samples", _pixels(samples), epoch, dataformats="HWC")
        writer.flush()

    def end(self, trial: Entry, best: Row | None) -> None:
        """See `Tracker`."""
        writer = self._writers.pop(trial.trial_id, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """See `Tracker`."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, trial: Entry, epoch: int) -> SummaryWriter:
        if trial.trial_id not in self._writers:
            from tensorboardX import SummaryWriter

            # Whatever an earlier process wrote of this epoch or a later one is not shown twice.
            folder = str(self._folder / trial.trial_id)
            writer = SummaryWriter(folder, purge_step=epoch, filename_suffix=f".from-{epoch}")
            text = "\n".join(f"    {name}: {value}" for name, value in _settings(trial).items())
            writer.add_text("configuration", text, epoch)
            self._writers[trial.trial_id] = writer
        return self._writers[trial.trial_id]


class Wandb:
    """A run of Weights & Biases per trial, grouped by sweep, with the same id whenever the trial goes on.

    Without a key, or where the server does not answer, runs are kept offline in `wandb/`; `wandb sync` sends them.
    """

    def __init__(self, store: Store, mode: WandbMode) -> None:
        self._store = store
        self._mode: WandbMode = mode
        self._runs: dict[str, Run] = {}

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """See `Tracker`."""
        import wandb

        shown: dict[str, object] = dict(_metrics(row))
        if samples is not None:
            shown["samples"] = wandb.Image(_pixels(samples))
        self._run(trial).log({"epoch": as_int(row["epoch"]), **shown}, step=as_int(row["epoch"]))

    def end(self, trial: Entry, best: Row | None) -> None:
        """See `Tracker`."""
        run = self._run(trial)
        if best is not None:
            run.summary.update({"best_epoch": as_int(best["epoch"])})
            run.summary.update({f"best/{name}": value for name, value in _metrics(best).items()})
        run.summary.update({name: trial.trial[name] for name in ("state", "error", "stopped")})
        del self._runs[trial.trial_id]
        run.finish(exit_code=int(trial.meaning.failed))

    def close(self) -> None:
        """See `Tracker`."""
        while self._runs:
            self._runs.popitem()[1].finish()

    def _run(self, trial: Entry) -> Run:
        if trial.trial_id not in self._runs:
            try:
                self._runs[trial.trial_id] = self._begun(trial)
            except Exception as error:
                if self._mode == "offline":
                    raise
                import wandb

                wandb.teardown()  # its service still waits for the server, and holds the run's id
                self._stay_offline(next(iter(str(error).splitlines()), type(error).__name__))
                self._runs[trial.trial_id] = self._begun(trial)
        return self._runs[trial.trial_id]

    def _begun(self, trial: Entry) -> Run:
        import wandb

        sweep = self._store.folder.name
        run: Run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=sweep if len(sweep) <= _LONGEST_GROUP else identifier(sweep),
            name=trial.trial_id,
            id=f"{identifier(sweep)}-{trial.trial_id}",
            config=_settings(trial),
            dir=str(self._store.local_mirror),
            mode=self._mode,
            # An offline run cannot ask what there is; its id makes it part of the same run when it is sent.
            resume="allow" if self._mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
                x_disable_stats=True,  # they would be this process's
                save_code=False,
            ),
        )
        run.define_metric("*", step_metric="epoch")
        return run

    def _stay_offline(self, reason: str) -> None:
        self._mode = "offline"
        logger.warning(
            "wandb: %s; runs are kept offline from here on. To send them: wandb sync %s/wandb/offline-run-*",
            reason,
            shlex.quote(str(self._store.local_mirror)),
        )


class Follower:
    """Shows each tracker what it has not shown of a sweep yet."""

    def __init__(self, store: Store, trackers: Mapping[str, Tracker]) -> None:
        self._store = store
        self._trackers = dict(trackers)
        self._file = store.folder / "tracking.json"
        self._shown: dict[str, dict[str, Shown]] = self._read()  # by tracker and trial
        self._tags: dict[Folder, str] = {}
        self._objective = Objective.from_description(_described(store))
        self._stale = {str(row["trial_id"]) for row in store.latest_attempts().rows()}

    def step(self) -> None:
        """Show what has come since the last step."""
        changed = self._stale | set(self._changed())
        self._stale = set()
        for trial_id in sorted(changed):
            attempts = self._store.attempts_of(trial_id)
            if attempts:
                trial = Entry(self._store, attempts[-1], tuple(self._store.epochs_of(trial_id)))
                for name in list(self._trackers):
                    self._show(name, trial)

    def close(self) -> None:
        """Show the rest, and let the trackers finish."""
        self.step()
        for name, tracker in self._trackers.items():
            with _reported(name):
                tracker.close()

    def _show(self, name: str, trial: Entry) -> None:
        of_tracker = self._shown.setdefault(name, {})
        last, ended = of_tracker.get(trial.trial_id, (0, None))
        tracker = self._trackers[name]
        attempt = None if trial.meaning.runs else as_int(trial.trial["attempt"])
        rows = [row for row in trial.epochs if as_int(row["epoch"]) > last]
        if not rows and (attempt is None or attempt == ended):
            return
        try:
            for row in rows:
                samples = self._store.samples_file(trial.trial_id, as_int(row["epoch"]))
                tracker.epoch(trial, row, samples if samples.exists() else None)
                of_tracker[trial.trial_id] = (as_int(row["epoch"]), ended)
            if attempt is not None and attempt != ended:
                tracker.end(trial, trial.best(self._objective))
                of_tracker[trial.trial_id] = (max([last, *(as_int(row["epoch"]) for row in rows)]), attempt)
        except Exception:
            # A view that fails must not take the others with it, and the tables have everything.
            logger.exception("%s failed", name)
            logger.warning("%s failed at trial %s and is given up; the tables have everything", name, trial.trial_id)
            del self._trackers[name]
        self._write()

    def _changed(self) -> Iterator[str]:
        for folder in (self._store.trials_folder, self._store.epochs_folder):
            for name, tag in location.listing(folder).items():
                path = folder / name
                # Only a trial's own file; others hold what has ended.
                if path.suffix == ".parquet" and len(path.stem) == 12 and self._tags.get(path) != tag:
                    self._tags[path] = tag
                    yield path.stem

    def _read(self) -> dict[str, dict[str, Shown]]:
        try:
            return _SHOWN.validate_json(self._file.read_bytes())
        except (OSError, ValueError):
            return {}  # shown anew; each tracker knows its epochs apart

    def _write(self) -> None:
        write_atomically(self._file, lambda stream: stream.write(json.dumps(self._shown).encode()))


def trackers(store: Store, *, wandb: WandbMode | None, tensorboard: bool) -> dict[str, Tracker]:
    """Those that are asked for."""
    made: dict[str, Tracker] = {}
    if wandb is not None:
        made["wandb"] = Wandb(store, wandb)
    if tensorboard:
        made["tensorboard"] = TensorBoard(store)
    return made


def track(store: Store, *, wandb: WandbMode | None, tensorboard: bool, until: threading.Event | None = None) -> None:
    """Show what has not been shown yet, and what comes before `until` is set. Raise StoreError where another one does.

    Without `until`, what is there now.
    """
    over = until
    if over is None:
        over = threading.Event()
        over.set()
    try:
        with alone.alone(store.local_mirror / "tracking.lock"):
            follower = Follower(store, trackers(store, wandb=wandb, tensorboard=tensorboard))
            while not over.wait(_POLL_SECONDS):
                follower.step()
            follower.close()
    except alone.BusyError:
        raise StoreError(f"{store.folder}: another process tracks this sweep already") from None


@contextmanager
def following(
    store: Store, *, wandb: WandbMode | None, tensorboard: bool, say: Callable[[str], None]
) -> Iterator[None]:
    """Have another process track the sweep meanwhile; afterwards wait for it, but not for long."""
    options = [*(["--wandb", wandb] if wandb else []), *(["--tensorboard"] if tensorboard else [])]
    if not options:
        yield
        return
    arguments = ["--results", str(store.folder.parent), "--sweep", store.folder.name, *options]
    store.create()
    log = store.log_file("tracking")
    with log.open("ab") as stream:
        begun = stream.tell()
        tracker = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.track", *arguments, "--follow"],
            stdin=subprocess.PIPE,  # its end tells the tracker that this process has ended, however it did
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl-C is for the sweep
        )
    try:
        yield
    finally:
        assert tracker.stdin is not None
        tracker.stdin.close()
        code: int | None = None
        try:
            code = tracker.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            tracker.kill()
            tracker.wait()
        if code != 0:
            what = "is not done" if code is None else "failed"
            say(f"Tracking {what}; {log} says why. The rest: {calling.again('orchestrator.track', *arguments)}")
        for line in log.read_bytes()[begun:].decode(errors="replace").splitlines():
            if line.startswith(WARNING):
                say(line.removeprefix(WARNING))


@contextmanager
def _reported(name: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("%s failed at its end", name)


def _described(store: Store) -> Mapping[str, JsonValue]:
    described = (store.read_sweep() or SweepRecord()).objective
    return Objective("val_acc", "max").describe() if described is None else described


def _tag(name: str) -> str:
    return name if _TAG.fullmatch(name) else identifier(name)


def _metrics(row: Row) -> dict[str, float]:
    numbers = {
        name: float(value)
        for name, value in row.items()
        if name not in _NO_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _settings(trial: Entry) -> dict[str, Scalar]:
    """The configuration, without where things lie on this machine."""
    return {name: value for name, value in trial.settings().items() if name not in LOCATIONS}


def _pixels(file: Folder) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        return np.asarray(image.convert("RGB"))
