"""The base of all schedulers: rungs, at which trials are compared, and which of them stop or go on.

A scheduler knows nothing but the curves that it was shown, so that one rebuilt from the rows of `epochs` decides as the
one that was killed would have, and a simulated clock can drive it. Rungs are epochs: a schedule means the same whatever
was killed, resumed or run at once.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.objectives.objective import non_domination_ranks

Value: TypeAlias = tuple[tuple[float, ...], ...]
"""The value of an epoch: a key per objective, each such that the smaller is the better one."""


@dataclass(frozen=True)
class Stopped:
    """A trial that was stopped before its last epoch."""

    epochs: int  # finished ones


class Scheduler:
    """Stops nothing, and lets go on what another scheduler had stopped. The base of the others.

    `rungs` are the epochs at which trials are compared.
    """

    def __init__(self, epochs: int, grace: int, factor: int) -> None:
        self.rungs = self.rung_epochs(epochs, grace, factor)
        self.factor = factor
        self._at = {rung: _Rung() for rung in self.rungs}
        self._curves: dict[str, dict[int, Value]] = {}

    def rung_epochs(self, epochs: int, grace: int, factor: int) -> tuple[int, ...]:
        """The epochs below `epochs` at which trials are compared; none of them before `grace`."""
        return ()

    def observe(self, trial: str, epoch: int, value: Value | None) -> None:
        """A trial has finished an epoch. An epoch without a value leaves the trial's standing as it was."""
        curve = self._curves.setdefault(trial, {})
        if value is not None:
            curve[epoch] = value
        if epoch in self._at and (standing := _standing(curve, epoch)) is not None:
            self._at[epoch].put(trial, standing)

    def forget(self, trial: str) -> None:
        """The trial has failed: it takes no other's place at a rung any more."""
        self._curves.pop(trial, None)
        for rung in self._at.values():
            rung.remove(trial)

    def stops(self, trial: str, epoch: int) -> str | None:
        """Why the trial, which has finished so many epochs, shall not go on for now; None where it shall."""
        rung = self._at.get(epoch)
        if rung is None or trial not in rung:
            return None  # not compared here, or without a value by which it could be
        ahead, among = rung.ahead(trial), len(rung)
        if ahead < self.kept(among):
            return None
        return f"after epoch {epoch} behind {ahead} of {among - 1} others"

    def kept(self, among: int) -> int:
        """How many of so many trials at a rung go on; those that are level with the last of them do too."""
        return among

    def resumes(self, stopped: Mapping[str, Stopped], *, nothing_new: bool) -> str | None:
        """Which of the stopped trials goes on now, rather than a new one starts. `nothing_new`: there is no new one."""
        return next(iter(stopped), None)


class _Rung:
    """The trials that came to one epoch, and their values by then."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._ordered: list[Value] = []  # of a single objective, best first: finds a place without comparing all
        self._fronts: dict[str, int] | None = None  # of several, until another trial comes

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, trial: str) -> bool:
        return trial in self._values

    def put(self, trial: str, value: Value) -> None:
        """Add a trial, or replace it."""
        if len(value) == 1:
            self._unplace(trial)
            bisect.insort(self._ordered, value)
        self._values[trial] = value  # a trial that is replaced keeps its place in the order of arrival
        self._fronts = None

    def remove(self, trial: str) -> None:
        """Forget a trial, if it was here."""
        self._unplace(trial)
        self._values.pop(trial, None)
        self._fronts = None

    def _unplace(self, trial: str) -> None:
        value = self._values.get(trial)
        if value is not None and len(value) == 1:
            del self._ordered[bisect.bisect_left(self._ordered, value)]

    def ahead(self, trial: str) -> int:
        """How many trials are strictly better: with several objectives, lie on a better non-dominated front."""
        value = self._values[trial]
        if len(value) == 1:
            return bisect.bisect_left(self._ordered, value)
        fronts = self._ranked()
        return sum(rank < fronts[trial] for rank in fronts.values())

    def best(self, count: int) -> Iterable[str]:
        """The trials with fewer than `count` ahead of them, best first, then in order of arrival."""
        if count < 1:
            return
        if len(self._ordered) == len(self._values):
            last = self._ordered[min(count, len(self._ordered)) - 1]
            yield from sorted((t for t, value in self._values.items() if value <= last), key=self._values.__getitem__)
            return
        fronts = self._ranked()
        for trial in sorted(fronts, key=fronts.__getitem__):
            if self.ahead(trial) >= count:
                return
            yield trial

    def _ranked(self) -> dict[str, int]:
        if self._fronts is None:
            points = [tuple(key for (key,) in value) for value in self._values.values()]
            ranks = non_domination_ranks(points, ["min"] * len(points[0]))
            self._fronts = dict(zip(self._values, ranks, strict=True))
        return self._fronts


def _standing(curve: Mapping[int, Value], epoch: int) -> Value | None:
    """The value of a trial by an epoch: its best so far, or of several objectives the latest, none being the best."""
    by_then: dict[int, Value] = {at: value for at, value in curve.items() if at <= epoch}
    if not by_then:
        return None
    latest = by_then[max(by_then)]
    return min(by_then.values()) if len(latest) == 1 else latest
