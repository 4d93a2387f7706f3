"""What a sweep is to run, and how running it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from cpcnn_core.errors import RunError, UserError
from orchestrator.records.location import Folder
from orchestrator.records.store import Store
from orchestrator.search.budget import Budget
from orchestrator.search.space import SearchSpace
from orchestrator.training import trainer


class SweepError(UserError):
    """A sweep that cannot start or go on."""


class FailingError(RunError):
    """A sweep whose trials all fail for one cause."""


@dataclass(frozen=True)
class Plan:
    """What to run, and where its results go."""

    name: str
    space: SearchSpace
    results: Folder
    trials: int
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    extend: bool = False  # accept a space that grew since the sweep was begun
    disk: int | None = None  # bytes that its checkpoints may take
    more_epochs: int | None = None  # that each COMPLETE trial goes on for, once the sweep has finished
    retry_failed: bool = False  # run the trials that failed again, before new ones
    pending_minutes: float = 30.0  # on a cluster: for so long no trial may find a place
    max_cost: float | None = None  # on a cluster: what its nodes may cost in all, in the currency of their labels
    trainer: str = trainer.TRAINER  # another one simulates trials
    warm_start: tuple[str, ...] = ()  # names of earlier sweeps in the same folder of results
    confirmation: Mapping[str, JsonValue] | None = None  # of a sweep that confirms a choice: the question
    class_names: tuple[str, ...] = ()  # of the data, once it was read
    announcement: str | None = None  # for the view, once nothing is in the way of the first trial
    way_out: str = "give this sweep another --name"  # where the folder is taken, as the user's command has it

    def __post_init__(self) -> None:
        """A small space may not have as many configurations as trials were asked for."""
        object.__setattr__(self, "trials", int(min(self.trials, self.space.size)))

    @property
    def store(self) -> Store:
        return Store((self.results / self.name).absolute())


@dataclass(frozen=True)
class Outcome:
    """How a run of the driver ended."""

    finished: int  # trials of the sweep that have ended, those of earlier runs included
    ran: bool  # whether there was anything to do
    interrupted: bool  # whether it was stopped before the end
    spent: str | None = None  # the limit of the budget that ended it
