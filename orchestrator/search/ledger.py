"""The ledger of a running sweep: what each event changes, in the order that survives a kill.

Rows first, study second, view last. Ray Tune's events arrive here through `search.py`; a simulated clock may send the
same ones. After a write that failed nothing more is written: the first error stays in `fatal` for the driver to raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.errors import RunError
from cpcnn_core.metrics import EpochMetrics
from orchestrator.objectives.objective import Objective
from orchestrator.records import stop_requests
from orchestrator.records.ranking import Entry
from orchestrator.records.recording import Place, Recording, close_orphaned
from orchestrator.records.room import Room
from orchestrator.records.states import State, reason_of
from orchestrator.records.stop_requests import StopRequests
from orchestrator.records.store import Row, Store, StoreError, as_int, config_of, without_a_gap
from orchestrator.search import study_file
from orchestrator.search.failures import FailuresInARow
from orchestrator.search.scheduler import Scheduler, Stopped
from orchestrator.search.scheduling import Schedule
from orchestrator.search.study import StudyError, Suggestion

MAX_RESTARTS = 2  # how often a trial whose process died is started again; the next time it is failed

T = TypeVar("T")

Best: TypeAlias = tuple[float, TrialConfig, int]
"""The best value so far, the trial that reached it, and in which epoch."""


class View(Protocol):
    """Whoever watches the sweep."""

    def note(self, text: str) -> None: ...
    def stage(self, text: str) -> None: ...
    def resumed(self, finished: int, best: Best | None) -> None: ...
    def started(self, number: int, config: TrialConfig) -> None: ...
    def epoch(self, number: int, config: TrialConfig, metrics: EpochMetrics, value: float | None) -> None: ...
    def ended(
        self, number: int, config: TrialConfig, state: State, value: float | None, reason: str | None
    ) -> None: ...


class WatcherError(RunError):
    """Raised by a View for an error of whoever it tells; it ends the sweep, whose trials go on another time."""


class Suggesting(Protocol):
    """What knows which trials to run: a study, or what continues a sweep without one."""

    @property
    def is_over(self) -> bool: ...
    @property
    def waiting(self) -> tuple[Suggestion, ...]: ...
    def next(self) -> Suggestion | None: ...
    def put_back(self, suggestion: Suggestion) -> None: ...
    def reopen(self, config: TrialConfig) -> Suggestion | None: ...
    def report(self, number: int, metrics: Row) -> None: ...
    def end(self, number: int, state: State, best: Row | None) -> None: ...


@dataclass
class _Trial:
    config: TrialConfig
    recording: Recording | None = None
    rows: dict[int, Row] = field(default_factory=dict)  # by epoch
    stopped: str | None = None  # why it shall not go on
    by_user: bool = False  # who asked for that


@dataclass(frozen=True)
class _Paused(Stopped):
    """A trial whose end was PRUNED, and which may be reopened."""

    config: TrialConfig


class Ledger:
    """Turns the events of a sweep's trials into rows, into what the study knows, and into what is shown."""

    def __init__(
        self, study: Suggesting, store: Store, objective: Objective, view: View, scheduler: Scheduler | None = None
    ) -> None:
        self.fatal: Exception | None = None
        self.gpus: float | None = None  # that each trial holds
        self.retrying = "the same command with --retry-failed"  # what runs trials that failed again
        self.room: Room | None = None  # that the checkpoints may take on disk
        self.requests = StopRequests(store)  # of trials that the user wants to end
        self._study = study
        self._store = store
        self._objective = objective
        self._view = view
        self._scheduler = scheduler or Schedule(name="none").scheduler(1)
        self._trials: dict[int, _Trial] = {}
        self._paused: dict[str, _Paused] = {}
        self._deaths: Counter[int] = Counter()
        self._saved: dict[int, str] = {}  # where each trial stood when a signal took its process away
        self._alone: set[int] = set()  # those that get a whole GPU
        self._failures = FailuresInARow()

    def recall(self, entries: Sequence[Entry], *, retrying: bool = False) -> None:
        """Show the scheduler the curves of earlier runs, and remember which trials were stopped, and which failed.

        With `retrying` those that failed are run again, and count once they fail again.
        """
        failed = [entry for entry in entries if entry.meaning.failed]
        for entry in sorted(failed, key=lambda entry: str(entry.trial["ended"])) if not retrying else ():
            self._failures.failed(entry.trial_id, str(reason_of(entry.trial)), entry.settings())
        asked = self.requests.look()
        for entry in entries:
            if entry.meaning.ended and entry.trial_id in asked:
                self.requests.done(entry.trial_id)
            if entry.meaning.failed:
                continue
            if entry.meaning.ended:
                self._failures.succeeded()
            try:
                config = config_of(entry.trial)
            except ConfigError:
                continue  # of a version whose configuration was another
            for row in sorted(entry.epochs, key=lambda row: as_int(row["epoch"])):
                self._scheduler.observe(entry.trial_id, as_int(row["epoch"]), self._objective.keys(row))
            if entry.trial["state"] == "PRUNED" and entry.trial["stopped"]:
                self._paused[config.trial_id] = _Paused(len(entry.epochs), config)

    @property
    def is_busy(self) -> bool:
        """Whether a trial is running, which may end so that it has to be suggested again."""
        return bool(self._trials)

    @property
    def hopeless(self) -> str | None:
        """Why another trial would be a waste: the first ones all failed for one cause. None where it would not."""
        if not self._failures.are_enough:
            return None
        trial_ids = self._failures.trial_ids
        return (
            f"{self._store.folder}: {len(trial_ids)} trials in a row failed for one cause, before any had succeeded: "
            f"{self._failures.error.rstrip('.')}. No more are run. The last one's log is "
            f"{self._store.log_file(trial_ids[-1])}. Once the cause is mended, {self.retrying} runs them again"
        )

    @property
    def running(self) -> int:
        """How many trials have a process that runs them; others may wait for a place."""
        return sum(trial.recording is not None for trial in self._trials.values())

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to be asked for, neither a new one nor one that was stopped and may go on."""
        return self._study.is_over and self._resumable(nothing_new=True) is None

    def suggest(self) -> Suggestion | None:
        """The next trial to run: one that may go on again, or a new one; None when there is none, or nothing can be
        written any more.
        """
        return None if self.fatal is not None or self.hopeless is not None else self._guarded(self._suggest)

    def started(self, number: int) -> None:
        """A process has begun, or begun again, to run the trial."""
        self._guarded(lambda: self._started(number))

    def epoch(self, number: int, metrics: EpochMetrics, place: Place) -> bool:
        """The trial has finished an epoch, checkpoint and predictions being on disk. Return whether it stops here."""
        return bool(self._guarded(lambda: self._epoch(number, metrics, place)))

    @property
    def gpus_held(self) -> float:
        """How many GPUs the trials hold together that have a process."""
        held = [number for number, trial in self._trials.items() if trial.recording is not None]
        return sum(self.gpus_of(number) or 0.0 for number in held)

    def gpus_of(self, number: int) -> float | None:
        """How many GPUs a trial gets; None where that is not known yet."""
        return 1.0 if self.is_alone(number) else self.gpus

    def is_alone(self, number: int) -> bool:
        """Whether a trial gets a GPU for itself, where others share them."""
        return number in self._alone

    def asked_to_stop(self, number: int) -> bool:
        """Whether the user wants this trial to end. Once its process does, it is STOPPED."""
        trial = self._trials.get(number)
        if trial is None or trial.config.trial_id not in self.requests.look():
            return False
        trial.by_user, trial.stopped = True, stop_requests.WHY
        return True

    def died(self, number: int, error: str, *, its_fault: bool = True, alone: bool = False) -> None:
        """The trial's process is gone. The trial comes up again as a suggestion, unless that happened too often.

        A machine that was lost or taken away is not the trial's fault, and does not count. A trial that is to be
        `alone` gets a whole GPU from now on: its process was lost together with others', of which one has the fault.
        """
        if alone:
            self._alone.add(number)
        self._guarded(lambda: self._died(number, error, its_fault))

    def preempted(self, number: int, why: str, *, where: str | None = None, goes_on: bool = True) -> None:
        """The trial saved its state, since its process or machine is to be taken away. It comes up as a suggestion.

        Where a signal told its process so, `where` says how far it had come. An attempt that came no further than the
        one before counts as a death: whoever ends processes for their memory would end this one for ever. Where the
        sweep itself is taken away, nothing `goes_on`.
        """
        self._guarded(lambda: self._preempted(number, why, where, goes_on))

    def halt(self, number: int, error: str) -> None:
        """The trial could not write. Nothing more is written, so that it and all others go on where there is room."""
        trial_id = self._trials[number].config.trial_id
        self.fatal = self.fatal or StoreError(
            f"{self._store.folder}: trial {trial_id} could not write: {error}. Make room, or mend the storage; then "
            "the same command goes on"
        )

    def interrupt(self, why: str) -> None:
        """Nothing runs any more: what ran or was left behind waits, and is the first to go on with the next driver."""
        self._guarded(lambda: self._interrupt(why))

    def ended(self, number: int, error: str | None) -> None:
        """The trial will not run any further: failed where there is an error, pruned where epochs are missing."""
        self._guarded(lambda: self._ended(number, error))

    def _suggest(self) -> Suggestion | None:
        while True:
            suggestion = self._reopened(nothing_new=False) or self._study.next() or self._reopened(nothing_new=True)
            if suggestion is None:
                return None
            number, config = suggestion.number, suggestion.config
            again = self._paused.pop(config.trial_id, None)
            # Its rows now, for it may end before a process has begun to run it.
            self._trials[number] = _Trial(config, rows=self._rows(config))
            reported = without_a_gap(self._trials[number].rows, config.lineage.epochs_before)
            if self.asked_to_stop(number):  # of a driver that was killed before it could follow
                self._ended(number, None)
                continue
            # A trial that was left behind may stand at a rung already, its driver killed before it could judge.
            stopped = None if again is not None else self._judge(config, reported)
            if stopped is None:
                return suggestion
            self._trials[number].stopped = stopped
            self._ended(number, None)

    def _interrupt(self, why: str) -> None:
        for suggestion in self._study.waiting:
            close_orphaned(self._store, suggestion.config)
        for number, trial in list(self._trials.items()):
            if trial.recording is None:  # no process has begun to run it since it was suggested
                close_orphaned(self._store, trial.config)
            else:
                trial.recording.finish("INTERRUPTED", stopped=why)
            self._study.put_back(Suggestion(number, trial.config))
            del self._trials[number]
            if trial.recording is not None:
                self._view.ended(number, trial.config, "INTERRUPTED", self._best_value(trial), why)

    def _reopened(self, *, nothing_new: bool) -> Suggestion | None:
        trial_id = self._resumable(nothing_new=nothing_new)
        return None if trial_id is None else self._study.reopen(self._paused[trial_id].config)

    def _resumable(self, *, nothing_new: bool) -> str | None:
        return self._scheduler.resumes(self._paused, nothing_new=nothing_new)

    def _judge(self, config: TrialConfig, epoch: int) -> str | None:
        return self._scheduler.stops(config.trial_id, epoch) if 0 < epoch < config.train.epochs else None

    def _rows(self, config: TrialConfig) -> dict[int, Row]:
        return {as_int(row["epoch"]): row for row in self._store.epochs_of(config.trial_id)}

    def _started(self, number: int) -> None:
        trial = self._trials[number]
        trial.recording = Recording(self._store, trial.config, number, gpus=self.gpus_of(number))
        trial.rows = self._rows(trial.config)
        for row in trial.rows.values():
            self._study.report(number, row)
        self._view.started(number, trial.config)

    def _epoch(self, number: int, metrics: EpochMetrics, place: Place) -> bool:
        trial = self._trials[number]
        row = metrics.row()
        self._recording(number).add(metrics, place)
        trial.rows[metrics.epoch] = row
        self._study.report(number, row)
        self._view.epoch(number, trial.config, metrics, self._objective.value(row))
        self._scheduler.observe(trial.config.trial_id, metrics.epoch, self._objective.keys(row))
        if not trial.by_user:
            trial.stopped = self._judge(trial.config, metrics.epoch)
        if self.room is not None:
            full = self.room.make({each.config.trial_id for each in self._trials.values()})
            if full is not None:
                self._view.note(f"warning: {full}")
        return trial.stopped is not None

    def _died(self, number: int, error: str, its_fault: bool) -> None:
        if self._trials[number].by_user:  # its process was killed for it
            self._ended(number, None)
            return
        self._deaths[number] += its_fault
        if self._deaths[number] > MAX_RESTARTS:
            self._ended(number, error)
            return
        self._put_back(number, "INTERRUPTED", f"{error} (the trial was started again)")

    def _preempted(self, number: int, why: str, where: str | None, goes_on: bool) -> None:
        if where is not None:
            self._deaths[number] += where == self._saved.get(number)
            self._saved[number] = where
        if self._deaths[number] > MAX_RESTARTS and where is not None:
            self._ended(number, f"{why}, and no attempt comes further: something sends that signal again and again")
            return
        trial = self._trials[number]
        self._put_back(number, "PREEMPTED", why)
        if not goes_on:
            self._view.ended(number, trial.config, "PREEMPTED", self._best_value(trial), why)

    def _put_back(self, number: int, state: State, why: str) -> None:
        self._recording(number).finish(state, stopped=why)
        self._study.put_back(Suggestion(number, self._trials.pop(number).config))

    def _ended(self, number: int, error: str | None) -> None:
        trial = self._trials[number]
        done = max(trial.rows, default=0)
        state = _state_of(trial, done, error)
        error = error if state == "FAILED" else None
        value = self._best_value(trial)
        stopped = trial.stopped if state in {"PRUNED", "STOPPED"} else None
        self._recording(number).finish(state, error, stopped=stopped)
        self.requests.done(trial.config.trial_id)
        self._study.end(number, state, self._objective.best(trial.rows.values()))
        if state == "PRUNED" and trial.stopped:
            self._paused[trial.config.trial_id] = _Paused(done, trial.config)
        if error:
            self._scheduler.forget(trial.config.trial_id)
            self._failures.failed(trial.config.trial_id, error, trial.config.flat())
        else:
            self._failures.succeeded()
        del self._trials[number]
        self._view.ended(number, trial.config, state, value, error or trial.stopped)

    def _best_value(self, trial: _Trial) -> float | None:
        best = self._objective.best(trial.rows.values())
        return None if best is None else self._objective.value(best)

    def _recording(self, number: int) -> Recording:
        trial = self._trials[number]
        if trial.recording is None:  # it failed before its process ever came up
            trial.recording = Recording(self._store, trial.config, number, gpus=self.gpus_of(number))
        return trial.recording

    def _guarded(self, action: Callable[[], T]) -> T | None:
        if self.fatal is not None:
            return None
        try:
            with study_file.writing(self._store.study_file):
                return action()
        except (StoreError, StudyError, WatcherError) as error:
            # Tune would take it for a failure of the trial, and go on.
            self.fatal = error
            return None


def _state_of(trial: _Trial, done: int, error: str | None) -> State:
    """The state of a trial that has ended, after so many epochs, with its own error if it has one.

    A process that was killed since the user wanted that has none; one that failed meanwhile has.
    """
    if error:
        return "FAILED"
    if done >= trial.config.train.epochs:
        return "COMPLETE"
    return "STOPPED" if trial.by_user else "PRUNED"
