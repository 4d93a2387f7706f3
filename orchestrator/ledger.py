"""The ledger of a running sweep: what each event changes, in the order that survives a kill.

Rows first, study second, view last. Ray Tune's events arrive here through `search.py`; a simulated clock may send the
same ones. After a write that failed nothing more is written: the first error stays in `fatal` for the driver to raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.objective import Objective
from orchestrator.recording import Place, Recording
from orchestrator.store import State, Store, StoreError
from orchestrator.study import Study, StudyError, Suggestion

MAX_RESTARTS = 2  # how often a trial whose process died is started again; the next time it is failed

T = TypeVar("T")

Best: TypeAlias = tuple[float, TrialConfig, int]
"""The best value so far, the trial that reached it, and in which epoch."""


class View(Protocol):
    """Whoever watches the sweep."""

    def note(self, text: str) -> None: ...
    def resumed(self, finished: int, best: Best | None) -> None: ...
    def started(self, number: int, config: TrialConfig) -> None: ...
    def epoch(self, number: int, config: TrialConfig, metrics: EpochMetrics, value: float | None) -> None: ...
    def ended(self, number: int, config: TrialConfig, state: State, value: float | None, error: str | None) -> None: ...


@dataclass
class _Trial:
    config: TrialConfig
    recording: Recording | None = None
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)  # by epoch


class Ledger:
    """Turns the events of a sweep's trials into rows, into what the study knows, and into what is shown."""

    def __init__(self, study: Study, store: Store, objective: Objective, view: View) -> None:
        self.fatal: Exception | None = None
        self._study = study
        self._store = store
        self._objective = objective
        self._view = view
        self._trials: dict[int, _Trial] = {}
        self._deaths: Counter[int] = Counter()

    @property
    def is_busy(self) -> bool:
        """Whether a trial is running, which may end so that it has to be suggested again."""
        return bool(self._trials)

    def suggest(self) -> Suggestion | None:
        """The next trial to run; None when there is none, or nothing can be written any more."""
        if self.fatal is not None:
            return None
        suggestion = self._guarded(self._study.next)
        if suggestion is not None:
            self._trials[suggestion.number] = _Trial(suggestion.config)
        return suggestion

    def started(self, number: int) -> None:
        """A process has begun, or begun again, to run the trial."""
        self._guarded(lambda: self._started(number))

    def epoch(self, number: int, metrics: EpochMetrics, place: Place) -> None:
        """The trial has finished an epoch, its checkpoint and predictions being on disk."""
        self._guarded(lambda: self._epoch(number, metrics, place))

    def died(self, number: int, error: str) -> None:
        """The trial's process is gone. The trial comes up again as a suggestion, unless that happened too often."""
        self._guarded(lambda: self._died(number, error))

    def ended(self, number: int, error: str | None) -> None:
        """The trial will not run any further: failed where there is an error, pruned where epochs are missing."""
        self._guarded(lambda: self._ended(number, error))

    def _started(self, number: int) -> None:
        trial = self._trials[number]
        trial.recording = Recording(self._store, trial.config, number)
        trial.rows = {row["epoch"]: row for row in self._store.epochs_of(trial.config.trial_id)}
        for row in trial.rows.values():
            self._study.report(number, row)
        self._view.started(number, trial.config)

    def _epoch(self, number: int, metrics: EpochMetrics, place: Place) -> None:
        trial = self._trials[number]
        row = metrics.row()
        self._recording(number).add(metrics, place)
        trial.rows[metrics.epoch] = row
        self._study.report(number, row)
        self._view.epoch(number, trial.config, metrics, self._objective.value(row))

    def _died(self, number: int, error: str) -> None:
        self._deaths[number] += 1
        if self._deaths[number] > MAX_RESTARTS:
            self._ended(number, error)
            return
        self._recording(number).finish("FAILED", f"{error} (the trial was started again)")
        self._study.put_back(Suggestion(number, self._trials.pop(number).config))

    def _ended(self, number: int, error: str | None) -> None:
        trial = self._trials[number]
        done = max(trial.rows, default=0)
        state: State = "FAILED" if error else "COMPLETE" if done >= trial.config.train.epochs else "PRUNED"
        best = self._objective.best(trial.rows.values())
        value = None if best is None else self._objective.value(best)
        self._recording(number).finish(state, error)
        self._study.end(number, state, best)
        del self._trials[number]
        self._view.ended(number, trial.config, state, value, error)

    def _recording(self, number: int) -> Recording:
        trial = self._trials[number]
        if trial.recording is None:  # it failed before its process ever came up
            trial.recording = Recording(self._store, trial.config, number)
        return trial.recording

    def _guarded(self, action: Callable[[], T]) -> T | None:
        if self.fatal is not None:
            return None
        try:
            return action()
        except (StoreError, StudyError) as error:
            # Tune would take it for a failure of the trial, and go on.
            self.fatal = error
            return None
