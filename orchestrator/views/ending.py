"""What a sweep shows at its end: its best trials, what to type next, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.choosing.asked import Parted, parted
from orchestrator.objectives.objective import Objective, ParetoObjective
from orchestrator.records import ranking
from orchestrator.records.location import Folder, spelled
from orchestrator.records.ranking import Entry
from orchestrator.records.states import reason_of
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text import calling
from orchestrator.views import leaderboard
from orchestrator.views.board import Board


@dataclass(frozen=True)
class Ending:
    """The trials of a sweep by what became of them."""

    store: Store
    objective: Objective
    trials: Parted
    ranked: list[Entry]  # the sweep's own trials, the best first
    problems: list[str]  # of reading the tables

    def table(self, *, wide: bool = False) -> Board:
        """The best trials; of several objectives, the Pareto front."""
        if isinstance(self.objective, ParetoObjective):
            front = ranking.front(self.trials.own, self.objective)
            return leaderboard.front_table(front, self.objective, wide=wide)
        return leaderboard.table(self.ranked, self.objective, wide=wide)

    @property
    def failed(self) -> list[Entry]:
        """The trials that failed."""
        return [entry for entry in self.trials.own if entry.meaning.failed]

    def next_command(self, results: Folder) -> str | None:
        """The command that checks and exports the winner; None where no trial has one to offer."""
        if not self.ranked or self.ranked[0].meaning.failed:
            return None
        if self.ranked[0].best(self.objective, kept=True) is None:
            return None
        where = [] if results == Path("results") else ["--results", spelled(results)]
        only = ["--where", self.trials.only_own] if self.trials.others else []
        name, metric = self.store.folder.name, self.objective.column
        return calling.again("best", "--metric", metric, "--sweep", name, *only, *where)

    @property
    def failure(self) -> str | None:
        """Why the sweep has no result: no trial came to a good end. None where one did."""
        if any(entry.meaning.ended and not entry.meaning.failed for entry in self.trials.own):
            return None
        reasons = [f"the last one that failed: {reason_of(self.failed[-1].trial)}"] if self.failed else []
        return "; ".join([f"{self.store.folder}: no trial has completed", *reasons])


def read(store: Store, objective: Objective) -> Ending:
    """The ending of the sweep in `store`, from its files."""
    entries, problems = ranking.read([store])
    trials = parted(entries, store.read_sweep() or SweepRecord())
    return Ending(store, objective, trials, ranking.ranked(trials.own, objective), problems)
