"""What a page is about: trials, what was chosen among them, and what their sweeps were asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cpcnn_core.class_names import in_words
from cpcnn_core.config import Scalar
from orchestrator.choosing import candidates
from orchestrator.choosing import decision as decisions
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.choosing.decision import Decision, TrialStanding
from orchestrator.choosing.rules import Rule
from orchestrator.choosing.selection import Selection
from orchestrator.choosing.where import Condition
from orchestrator.objectives.objective import Direction, Objective
from orchestrator.records import ranking
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Store, StoreError, as_time
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.views.page import naming

NAMED = 8
"""How many of the best trials have names, and curves: each has a colour of its own, and more are a tangle."""


@dataclass(frozen=True)
class Subject:
    """Everything that the sections read, read once."""

    selected: Selection
    objective: Objective
    decision: Decision | None  # None where no epoch can be chosen yet
    entries: Sequence[Entry]  # in order of start
    problems: Sequence[str]
    why_none: str = ""  # no epoch can be chosen

    @cached_property
    def records(self) -> list[tuple[Store, SweepRecord]]:
        """The content of each sweep.json, empty where it cannot be read."""
        found = []
        for store in self.selected.stores:
            try:
                found.append((store, store.read_sweep() or SweepRecord()))
            except StoreError:  # `problems` says it
                found.append((store, SweepRecord()))
        return found

    @cached_property
    def varied(self) -> list[str]:
        """The fields in which the trials differ."""
        return ranking.differing([entry.settings() for entry in self.entries])

    @cached_property
    def standings(self) -> list[TrialStanding]:
        """How the trials stand, the chosen one first; none where nothing can be chosen yet."""
        return [] if self.decision is None else self.decision.standings()

    @cached_property
    def ranked(self) -> list[Entry]:
        """The trials that did not fail and have the metric, best first."""
        return [entry for entry in ranking.ranked(self.sound, self.objective) if self.value(entry) is not None]

    @cached_property
    def names(self) -> dict[tuple[str, str], str]:
        """The best trials, by sweep and id, with the same name in all figures: few settings that tell them apart."""
        shown = {(one.sweep, one.trial_id): one.settings for one in self.standings[:NAMED]}
        for entry in self.ranked[:NAMED]:
            shown.setdefault((entry.store.folder.name, entry.trial_id), entry.settings())
        found = naming.names(list(shown.values()), [trial_id for _, trial_id in shown])
        return dict(zip(shown, found, strict=True))

    def name(self, entry: Entry) -> str:
        """The name of one of the best trials."""
        return self.names[entry.store.folder.name, entry.trial_id]

    @cached_property
    def class_names(self) -> Sequence[str]:
        """What the classes are called, as the chosen trial's sweep recorded it, or else any; none where none did."""
        decision = self.decision  # of trials whose data is the same
        chosen = [] if decision is None else [decision.epochs.trials[decision.epochs.trial[decision.row]][0]]
        return next((names for store in [*chosen, *self.selected.stores] if (names := store.class_names())), ())

    def class_of(self, label: int | None) -> str:
        """A class in words."""
        return "" if label is None else in_words(label, self.class_names)

    @property
    def sound(self) -> list[Entry]:
        """The trials that did not fail."""
        return ranking.sound(self.entries)

    def value(self, entry: Entry) -> float | None:
        """The best value of a trial."""
        best = entry.best(self.objective)
        return None if best is None else self.objective.value(best)

    def by_id(self, trial_id: str, sweep: str) -> Entry | None:
        """The trial of that id in that sweep."""
        found = (one for one in self.entries if one.trial_id == trial_id and one.store.folder.name == sweep)
        return next(found, None)

    def varied_settings(self, entry: Entry) -> dict[str, Scalar]:
        """What distinguishes the trial from the others."""
        settings = entry.settings()
        return {field: settings[field] for field in self.varied if field in settings}


def current(
    selected: Selection, metric: str, *, mode: Direction | None, conditions: Sequence[Condition], rule: Rule
) -> Subject:
    """The same as `read` of sweeps that may have only begun: where nothing can be chosen yet, it says why.

    Raise StoreError, ChoiceError for a metric that has no direction, WhereError.
    """
    objective = candidates.objective_of(metric, mode)
    try:
        decision = decisions.choose(decisions.read(selected, metric, mode=mode, conditions=conditions), rule)
    except ChoiceError as error:
        return read(selected, objective, None, why_none=str(error).splitlines()[0])
    return read(selected, objective, decision)


def read(selected: Selection, objective: Objective, decision: Decision | None, *, why_none: str = "") -> Subject:
    """Read the trials. Raise StoreError."""
    entries, problems = ranking.read(selected.stores)
    if not selected.imports:
        entries = [entry for entry in entries if not entry.is_imported]
    entries = [entry for entry in entries if entry.trial["started"] is not None]
    entries.sort(key=lambda entry: as_time(entry.trial["started"]))
    return Subject(selected, objective, decision, entries, problems, why_none)
