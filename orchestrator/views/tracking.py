"""Trackers, in one table: other tools as views of a sweep's tables.

They follow the files and nothing else. So they run in a process of their own, which no trial and no driver waits for;
may be killed, and go on where they stood; and show a sweep that ended long ago as well as one that runs. What was shown
of each trial stands in `tracking.json` of the sweep's folder.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pydantic import ConfigDict, JsonValue, TypeAdapter

from cpcnn_core.errors import UserError
from cpcnn_core.suggest import nearest
from orchestrator.objectives.objective import Objective
from orchestrator.records import alone, location
from orchestrator.records.location import Folder, write_atomically
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Store, StoreError, as_int
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text import calling
from orchestrator.views import mlflow_runs, tensorboard, weights_and_biases
from orchestrator.views.mlflow_runs import Mlflow
from orchestrator.views.tensorboard import TensorBoard
from orchestrator.views.tracker import Tracker
from orchestrator.views.weights_and_biases import COURSE_NAMES, Wandb, WandbMode

Asked: TypeAlias = Mapping[str, str]
"""The trackers that a command was asked for, each with its mode, or "" where it has none."""

LAST_SECONDS = 60  # that a sweep's end waits for the trackers
_POLL_SECONDS = 2.0
WARNING = "warning: "  # how a line of the log begins that the user shall see

Shown: TypeAlias = tuple[int, int | None]
"""What a tracker has shown of a trial: its last epoch, and the attempt whose end it has shown."""

_SHOWN = TypeAdapter(dict[str, dict[str, Shown]], config=ConfigDict(defer_build=True))

logger = logging.getLogger(__name__)


class TrackerError(UserError, ValueError):
    """A tracker that there is not, or not in this mode, or not on this machine."""


def _nothing(_store: Store, _mode: str) -> str | None:
    return None


@dataclass(frozen=True)
class Known:
    """A tracker that `--tracker NAME`, `--tracker NAME=MODE` or `--tracker NAME=MODE,OPTION` starts."""

    make: Callable[[Store, str], Tracker]  # is given one of `modes`, or "", and the option after a comma
    modes: tuple[str, ...] = ()  # the first is that of a name alone
    options: tuple[str, ...] = ()  # of which one may follow a mode
    look: Callable[[Store, str], str | None] = _nothing  # what to type to see the sweep in it, from its start on
    send: Callable[[Store, str], str | None] = _nothing  # what to type at its end, to send what is kept here
    module: str | None = None  # what it imports that is not installed with this program
    package: str | None = None  # what the module comes with


TRACKERS: dict[str, Known] = {
    "wandb": Known(Wandb, ("online", "offline"), (COURSE_NAMES,), send=weights_and_biases.send),
    "tensorboard": Known(TensorBoard, look=tensorboard.look),
    "mlflow": Known(Mlflow, look=mlflow_runs.look, module="mlflow", package="mlflow-skinny"),
}


def asked(texts: Iterable[str], *, wandb: WandbMode | None, tensorboard: bool) -> Asked:
    """What the options ask for: `--tracker` as often as it was typed, and the two short ones. Raise TrackerError."""
    short = [*([f"wandb={wandb}"] if wandb else []), *(["tensorboard"] if tensorboard else [])]
    modes: dict[str, str] = {}
    for text in [*short, *texts]:
        name, _, rest = text.partition("=")
        if name not in TRACKERS:
            raise TrackerError(f"--tracker: {name!r} is no tracker{nearest(name, TRACKERS)}")
        modes[name] = _mode(name, TRACKERS[name], rest)
    return modes


def _mode(name: str, known: Known, text: str) -> str:
    """The mode that is asked for, with its option. Raise TrackerError."""
    mode, _, option = text.partition(",")
    if mode and mode not in known.modes:
        raise TrackerError(f"--tracker: {name} has no mode {mode!r}{nearest(mode, known.modes)}")
    if option and option not in known.options:
        raise TrackerError(f"--tracker: {name} has no option {option!r}{nearest(option, known.options)}")
    if known.module is not None and importlib.util.find_spec(known.module) is None:
        raise TrackerError(
            f"--tracker: {name} needs the package {known.package}, which is not here; to install it: "
            f"pip install {known.package}"
        )
    mode = mode or next(iter(known.modes), "")
    return f"{mode},{option}" if option else mode


def to_look(store: Store, asked: Asked) -> list[str]:
    """Lines that say what to type to see the sweep in each tracker that has something to type for it."""
    lines = ((name, TRACKERS[name].look(store, mode)) for name, mode in asked.items())
    return [f"To look at it in {name}: {line}" for name, line in lines if line is not None]


def to_send(store: Store, asked: Asked) -> list[str]:
    """Lines that say what to type to send what each tracker keeps on this machine."""
    lines = ((name, TRACKERS[name].send(store, mode)) for name, mode in asked.items())
    return [f"To send what {name} keeps here: {line}" for name, line in lines if line is not None]


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


def trackers(store: Store, asked: Asked) -> dict[str, Tracker]:
    """Those that are asked for."""
    return {name: TRACKERS[name].make(store, mode) for name, mode in asked.items()}


def track(store: Store, asked: Asked, *, until: threading.Event | None = None) -> None:
    """Show what has not been shown yet, and what comes before `until` is set. Raise StoreError where another one does.

    Without `until`, what is there now.
    """
    over = until
    if over is None:
        over = threading.Event()
        over.set()
    try:
        with alone.alone(store.local_mirror / "tracking.lock"):
            follower = Follower(store, trackers(store, asked))
            while not over.wait(_POLL_SECONDS):
                follower.step()
            follower.close()
    except alone.BusyError:
        raise StoreError(f"{store.folder}: another process tracks this sweep already") from None


@contextmanager
def following(store: Store, asked: Asked, *, say: Callable[[str], None]) -> Iterator[None]:
    """Have another process track the sweep meanwhile; afterwards wait for it, but not for long."""
    if not asked:
        yield
        return
    for line in to_look(store, asked):
        say(line)
    store.create()
    options = [f"--tracker={name}={mode}" if mode else f"--tracker={name}" for name, mode in asked.items()]
    arguments = ["--results", str(store.folder.parent), "--sweep", store.folder.name, *options]
    log = store.log_file("tracking")
    begun = log.stat().st_size if log.is_file() else 0
    try:
        tracker = _started(arguments, log)
    except OSError as error:  # no memory, no disk: a sweep does not end for lack of a view
        say(f"Tracking failed to start ({error}). What it did not show: {calling.again('track', *arguments)}")
        yield
        return
    try:
        yield
    finally:
        what = _ended(tracker)
        if what is not None:
            say(f"Tracking {what}; {log} says why. The rest: {calling.again('track', *arguments)}")
        for line in log.read_bytes()[begun:].decode(errors="replace").splitlines():
            if line.startswith(WARNING):
                say(line.removeprefix(WARNING))
        for line in to_send(store, asked):
            say(line)


def _started(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """The process that tracks. Raise OSError."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.track", *arguments, "--follow"],
            stdin=subprocess.PIPE,  # its end tells the tracker that this process has ended, however it did
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # Ctrl-C is for the sweep
        )


def _ended(tracker: subprocess.Popen[bytes]) -> str | None:
    """Tell the process that nothing more comes, and wait for it. What went wrong with it, None where nothing did."""
    assert tracker.stdin is not None
    tracker.stdin.close()
    try:
        return None if tracker.wait(LAST_SECONDS) == 0 else "failed"
    except subprocess.TimeoutExpired:
        tracker.kill()
        tracker.wait()
        return "is not done"


@contextmanager
def _reported(name: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("%s failed at its end", name)


def _described(store: Store) -> Mapping[str, JsonValue]:
    described = (store.read_sweep() or SweepRecord()).objective
    return Objective("val_acc", "max").describe() if described is None else described
