"""A folder of results: its tables for pandas, a choice among its trials, and their models."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cpcnn_core.config import Scalar
from orchestrator.choosing import decision as decisions
from orchestrator.choosing import pinned
from orchestrator.choosing.decision import Decision
from orchestrator.choosing.rules import DEFAULT_RULE, Rule
from orchestrator.choosing.selection import Selection
from orchestrator.objectives.objective import Direction
from orchestrator.records import location, trial_ids
from orchestrator.records.errors import StoreError
from orchestrator.records.location import Folder
from orchestrator.records.store import Store, sweeps
from orchestrator.records.tables import Table
from orchestrator.search.settings import absolute

if TYPE_CHECKING:  # they need torch, which takes seconds
    from orchestrator.exporting.folder import Exported
    from orchestrator.python.model import Model


class UnreadableWarning(UserWarning):
    """Files of a table that could not be read; the rest is there."""


@dataclass(frozen=True)
class Results:
    """The results of one sweep or of several, as they are on disk at each look."""

    folder: Folder
    sweeps: tuple[str, ...]  # () for all that the folder holds

    def __post_init__(self) -> None:
        """Raise StoreError where one of the sweeps is not there."""
        self._stores()

    def _stores(self) -> list[Store]:
        found = {store.folder.name: store for store in sweeps(self.folder)}
        for name in self.sweeps:
            if name not in found:
                there = f"there are {', '.join(found)}" if found else "it holds none"
                raise StoreError(f"{self.folder}: no sweep {name}; {there}")
        return [found[name] for name in self.sweeps or found]

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, as its last attempt has it; `sweep` is the sweep's name, the rest as
        docs/results-schema.md has it. Columns have Arrow's types, which know null from NaN.
        """
        return self._frame(lambda store: store.latest_attempts())

    @property
    def attempts(self) -> pd.DataFrame:
        """One row per attempt of a trial."""
        return self._frame(lambda store: store.trials())

    @property
    def epochs(self) -> pd.DataFrame:
        """One row per trial and epoch."""
        return self._frame(lambda store: store.epochs())

    def _frame(self, read: Callable[[Store], Table]) -> pd.DataFrame:
        frames = []
        for store in self._stores():
            table = read(store)
            for problem in table.problems:
                warnings.warn(problem, UnreadableWarning, stacklevel=3)
            frame = table.frame
            frame.insert(0, "sweep", pd.Series([store.folder.name] * len(frame), index=frame.index, dtype="str"))
            frames.append(frame)
        some = [frame for frame in frames if len(frame)] or frames
        return pd.concat(some, ignore_index=True) if some else pd.DataFrame({"sweep": pd.Series(dtype="str")})

    def choose(
        self,
        metric: str = "val_acc",
        *,
        mode: Direction | None = None,
        where: str = "",
        rule: Rule = DEFAULT_RULE,
        trial: str | None = None,
        epoch: int | None = None,
    ) -> Choice:
        """What `cpcnn best` chooses among these sweeps; of all of a folder, among those of its latest question.

        `where` are conditions such as "fid <= 30"; `trial` and `epoch` name what is to be chosen. Raise ChoiceError,
        WhereError.
        """
        selected, conditions = pinned.asked(self.folder, self.sweeps, where, trial, epoch)
        made = decisions.choose(decisions.read(selected, metric, mode=mode, conditions=conditions), rule)
        return Choice(made, selected)

    def model(self, trial: str, epoch: int | None = None) -> Model:
        """The model of a trial, by the beginning of its id; its last kept epoch by default. Raise StoreError."""
        stores = self._stores()
        trial_id = trial_ids.of(stores, trial)
        holders = [store.folder.name for store in stores if trial_id in store.trial_ids()]
        sweep = holders[0] if len(holders) == 1 else None
        from orchestrator.exporting import drawing
        from orchestrator.python.model import Model

        return Model(drawing.load(drawing.weights_file(trial_id, self.folder, sweep=sweep, epoch=epoch))[0])


@dataclass(frozen=True)
class Choice:
    """An epoch of a trial that was chosen, and how sure it is that none is better."""

    decision: Decision
    selection: Selection

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    @property
    def metric(self) -> str:
        return self.decision.epochs.objective.metric

    @property
    def sweep(self) -> str:
        return self._standing.sweep

    @property
    def trial_id(self) -> str:
        return self.decision.trial_id

    @property
    def epoch(self) -> int:
        return self.decision.epoch

    @property
    def value(self) -> float:
        """Of the metric, as it was measured."""
        return self._standing.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the value; None where nothing tells how sure it is."""
        return self._standing.interval

    @property
    def probability_best(self) -> float | None:
        """That the trial is the best one."""
        return self._standing.probability_best

    @property
    def settings(self) -> dict[str, Scalar]:
        """The trial's configuration, flat: `model.fusion` and so on."""
        return dict(self._standing.settings)

    @property
    def sentences(self) -> list[str]:
        """What `cpcnn best` says below its table."""
        first = [] if self.selection.sentence is None else [self.selection.sentence]
        return [*first, *decisions.sentences(self.decision)]

    @property
    def standings(self) -> pd.DataFrame:
        """One row per trial, the chosen one first: value, 95 % interval (`low`, `high`), probability, settings."""
        rows = []
        for one in self.decision.standings():
            low, high = one.interval or (None, None)
            rows.append(
                {
                    "sweep": one.sweep,
                    "trial_id": one.trial_id,
                    "epoch": one.epoch,
                    self.metric: one.value,
                    "low": low,
                    "high": high,
                    "probability_best": one.probability_best,
                    "indistinguishable": one.indistinguishable,
                    "chosen": one.chosen,
                    "state": one.state,
                    **one.settings,
                }
            )
        return pd.DataFrame(rows)

    def model(self) -> Model:
        """The weights that were chosen. Raise StoreError."""
        from orchestrator.exporting import drawing
        from orchestrator.python.model import Model

        entry, epoch = self.decision.epochs.entry(self.decision.row)
        return Model(drawing.load(entry.store.folder / str(epoch["checkpoint"]))[0])

    def export(self, out: str | Path | None = None, *, force: bool = False, data_root: Scalar = None) -> Exported:
        """Write all that is handed in, once the weights measure what was recorded; return the folder and what it gave.

        `out` is a folder that is not there yet, by default one within the sweep's; `force` replaces an earlier export.
        `data_root` is where the data lies now. Raise ExportError, MismatchError.
        """
        from orchestrator.exporting import folder

        entry, epoch = self.decision.epochs.entry(self.decision.row)
        into = folder.usual(entry, epoch, self.metric) if out is None else Path(out)
        root = None if data_root is None else absolute("data.root", data_root)
        described = decisions.describe(self.decision, top=_DESCRIBED) | self.selection.describe()
        return folder.export(entry, epoch, self.metric, into, force=force, data_root=root, choice=described)

    @cached_property  # several properties read it, and it weighs every trial
    def _standing(self) -> decisions.TrialStanding:
        return next(one for one in self.decision.standings() if one.chosen)


_DESCRIBED = 10  # trials of the standings in an export's metrics.json, as `best` writes them


def load_results(folder: str | Path | Folder = "results", sweeps: str | Sequence[str] = ()) -> Results:
    """The results in a folder on this machine or behind a URL, of all its sweeps or of these. Raise StoreError."""
    return Results(location.given(folder), (sweeps,) if isinstance(sweeps, str) else tuple(sweeps))
