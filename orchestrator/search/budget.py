"""What a sweep may spend, and what it has spent: hours of wall-clock and of GPUs, over all runs of its command."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from orchestrator.records.columns import Row, as_int, as_number, as_time
from orchestrator.text.formatting import plain

_HOUR = 3600.0


@dataclass(frozen=True)
class Budget:
    """Hours that a sweep may take, those of earlier runs included; None is no limit."""

    hours: float | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class Spent:
    """Hours during which at least one trial ran, and GPU-hours that trials held."""

    hours: float = 0.0
    gpu_hours: float = 0.0


def spent(attempts: Iterable[Row], epochs: Iterable[Row]) -> Spent:
    """What the rows of `trials` and `epochs` say was spent.

    An attempt that nobody ended, its driver having been killed, took as long as the epochs that it reported.
    """
    reported: dict[tuple[str, int], float] = {}
    for row in epochs:
        key = str(row["trial_id"]), as_int(row["attempt"])
        reported[key] = reported.get(key, 0.0) + (as_number(row["seconds"]) or 0.0)
    intervals, gpu_seconds = [], 0.0
    for row in attempts:
        begun = as_time(row["started"]).timestamp()
        seconds = as_number(row["seconds"])
        if seconds is None:
            seconds = reported.get((str(row["trial_id"]), as_int(row["attempt"])), 0.0)
        intervals.append((begun, begun + seconds))
        gpu_seconds += seconds * (as_number(row.get("gpus")) or 0.0)
    return Spent(_covered(intervals) / _HOUR, gpu_seconds / _HOUR)


class BudgetMeter:
    """Counts on from what was spent, while trials run."""

    def __init__(self, budget: Budget, earlier: Spent, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._spent = earlier
        self._clock = clock
        self._last: float | None = None

    def tick(self, running: int, gpus: float) -> str | None:
        """So many trials have run since the last tick, with `gpus` in all. Return which limit is reached, if one is.

        While none runs, since machines are still to come, no hours pass.
        """
        now = self._clock()
        hours = 0.0 if self._last is None or not running else (now - self._last) / _HOUR
        self._last = now
        self._spent = Spent(self._spent.hours + hours, self._spent.gpu_hours + hours * gpus)
        return self.exhausted()

    def exhausted(self) -> str | None:
        """The limit that is reached, in words."""
        if self._spent.hours >= (math.inf if self._budget.hours is None else self._budget.hours):
            return f"--hours {plain(self._budget.hours)}"
        if self._spent.gpu_hours >= (math.inf if self._budget.gpu_hours is None else self._budget.gpu_hours):
            return f"--gpu-hours {plain(self._budget.gpu_hours)}"
        return None


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
