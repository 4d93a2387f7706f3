"""Early stopping: the schedulers, in one table, and what a space file says of one. Pure decisions on learning curves.

`scheduler.py` has the base of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cpcnn_core.errors import UserError
from cpcnn_core.suggest import nearest
from cpcnn_core.validation import mistakes, must_be
from orchestrator.search.scheduler import Scheduler, Stopped

_GRACE_SHARE = 9  # the first rung, unless a space file says otherwise: a ninth of a trial's epochs ...
_LEAST_GRACE = 3  # ... and no epoch before the third, which say more about the warm-up than about the configuration
_LEAST_TRIALS = 5  # a median of fewer says nothing


class ScheduleError(UserError, ValueError):
    """A `scheduler` that cannot be used."""


def _known(name: object) -> object:
    """Refuse a name that no scheduler has, with the nearest one."""
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise ValueError(f"scheduler: {name!r} is no scheduler{nearest(str(name), SCHEDULERS)}")
    return name


class Schedule(BaseModel):
    """What a space file's `scheduler` says: a name, or a mapping of the name and the numbers below."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    name: Annotated[str, BeforeValidator(_known)] = "asha"
    # No trial stops before; None: a ninth of the epochs, at least 3.
    grace_epochs: Annotated[Annotated[int, Field(ge=1)] | None, must_be("a whole number of at least 1")] = None
    # Of the trials at a rung, one in so many goes on.
    reduction_factor: Annotated[int, Field(ge=2), must_be("a whole number of at least 2")] = 3

    @classmethod
    def of(cls, given: object) -> Schedule:
        """Read `"asha"` or `{"name": "asha", "grace_epochs": 3}`. Raise ScheduleError, with the nearest name."""
        try:
            return cls.model_validate(dict(given) if isinstance(given, Mapping) else {"name": given})
        except ValidationError as error:
            raise ScheduleError("\n".join(mistakes(error, cls.model_fields, within="scheduler"))) from None

    def named(self, name: str | None) -> Schedule:
        """A copy under another name, its numbers kept; itself where there is no name. Raise ScheduleError."""
        return self if name is None else Schedule.of({**self.model_dump(), "name": name})

    def scheduler(self, epochs: int) -> Scheduler:
        """A new scheduler for trials of at most so many epochs."""
        grace = self.grace_epochs or max(_LEAST_GRACE, -(-epochs // _GRACE_SHARE))
        return SCHEDULERS[self.name](epochs, grace, self.reduction_factor)


class SuccessiveHalving(Scheduler):
    """ASHA (Li et al. 2020), as far as it stops: at each rung, a trial goes on that is in the best 1/factor so far."""

    def rung_epochs(self, epochs: int, grace: int, factor: int) -> tuple[int, ...]:
        return tuple(_powers(grace, factor, epochs))

    def kept(self, among: int) -> int:
        return max(1, among // self.factor)

    def resumes(self, stopped: Mapping[str, Stopped], *, nothing_new: bool) -> str | None:
        return None


class Promoting(SuccessiveHalving):
    """ASHA as Li et al. wrote it: trials pause at a rung, and go on once they are in its best 1/factor.

    Where nothing new is left to start, at least the best trial of each rung goes on.
    """

    def kept(self, among: int) -> int:
        return among // self.factor

    def resumes(self, stopped: Mapping[str, Stopped], *, nothing_new: bool) -> str | None:
        for epoch in reversed(self.rungs):
            rung = self._at[epoch]
            kept = max(self.kept(len(rung)), int(nothing_new and len(rung) > 0))
            for trial in rung.best(kept):
                if trial in stopped and stopped[trial].epochs == epoch:
                    return trial
        return None


class Median(Scheduler):
    """Stops a trial that by some epoch is worse than the median of all that came so far (Golovin et al. 2017)."""

    def rung_epochs(self, epochs: int, grace: int, factor: int) -> tuple[int, ...]:
        return tuple(range(grace, epochs))

    def kept(self, among: int) -> int:
        return among if among < _LEAST_TRIALS else (among + 1) // 2

    def resumes(self, stopped: Mapping[str, Stopped], *, nothing_new: bool) -> str | None:
        return None


def _powers(first: int, factor: int, below: int) -> Iterable[int]:
    while first < below:
        yield first
        first *= factor


SCHEDULERS: dict[str, type[Scheduler]] = {
    "asha": SuccessiveHalving,
    "promote": Promoting,
    "median": Median,
    "none": Scheduler,
}
