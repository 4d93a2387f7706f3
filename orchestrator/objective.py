"""The objective: what a sweep optimises, and what one trial's epochs are worth under it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cpcnn_core.metrics import DIRECTIONS
from cpcnn_core.suggest import nearest

Direction = Literal["max", "min"]


class ObjectiveError(ValueError):
    """An objective that cannot be optimised."""


@dataclass(frozen=True)
class Objective:
    """One metric and the direction in which it is better."""

    metric: str
    direction: Direction

    @classmethod
    def of(cls, metric: object) -> Objective:
        """The objective called `metric`. Raise ObjectiveError, with the nearest name, for an unknown one."""
        if not isinstance(metric, str) or metric not in DIRECTIONS:
            raise ObjectiveError(f"objective: {metric!r} is no metric{nearest(str(metric), DIRECTIONS)}")
        return cls(metric, "max" if DIRECTIONS[metric] == "max" else "min")

    def value(self, epoch: Mapping[str, Any]) -> float | None:
        """What one row of `epochs` is worth; None where the metric is missing, null or not finite."""
        value = epoch.get(self.metric)
        return float(value) if value is not None and math.isfinite(value) else None

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better, so that the earlier of two equals stays."""
        return value > than if self.direction == "max" else value < than

    def best(self, epochs: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The best row, the earliest of equals; None where no row has a value.

        A trial is worth its best epoch, since that is the checkpoint that would be exported.
        """
        best: Mapping[str, Any] | None = None
        for epoch in sorted(epochs, key=lambda row: int(row["epoch"])):
            value = self.value(epoch)
            if value is None:
                continue
            held = None if best is None else self.value(best)
            if held is None or self.better(value, held):
                best = epoch
        return best
