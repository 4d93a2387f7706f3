"""The objective: what a sweep optimises, and what one trial's epochs are worth under it.

A space file declares it as a metric's name or in the words of `search_spaces`: `desirability`, `constrained`, `pareto`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import UserError
from cpcnn_core.metrics import DIRECTIONS, EpochMetrics, least
from cpcnn_core.suggest import nearest
from orchestrator.text.formatting import plain, settings_apart
from search_spaces import Constrained, Desirability, Goal, Pareto

Direction = Literal["max", "min"]

SCORE = "score"

# The settings without which a metric is null in every epoch, and a value of theirs that would do.
_MEASURED_WITH = {
    "train_acc": {"eval.train_images": 512},
    "fid": {"eval.fid_every": 1},
    "kid": {"eval.fid_every": 1},
    "fid_infinity": {"eval.fid_every": 1, "eval.fid_extrapolate": True},
}

Epoch: TypeAlias = Mapping[str, object]
"""A row of `epochs`: its metrics by name."""

E = TypeVar("E", bound=Epoch)
T = TypeVar("T")


class ObjectiveError(UserError, ValueError):
    """An objective that cannot be optimised."""


@dataclass(frozen=True)
class Objective:
    """One metric and the direction in which it is better. The subclasses combine several."""

    metric: str
    direction: Direction

    @staticmethod
    def of(declared: object) -> Objective:
        """The objective that a space file declares. Raise ObjectiveError, with the nearest name for an unknown one."""
        match declared:
            case str():
                _check_metrics((declared,))
                return Objective(declared, direction_of(declared))
            case Desirability(goals=goals):
                _check_metrics(goals)
                _check_goals(goals)
                return DesirabilityObjective(SCORE, "max", tuple(goals.items()))
            case Constrained(metric=metric, limits=limits):
                _check_metrics((metric, *limits))
                return ConstrainedObjective(metric, direction_of(metric), tuple(limits.items()))
            case Pareto(metrics=metrics):
                _check_metrics(metrics)
                return ParetoObjective(metrics[0], direction_of(metrics[0]), tuple(metrics))
        raise ObjectiveError(
            f"objective: {declared!r} is neither the name of a metric nor desirability(...), constrained(...) or "
            "pareto(...)"
        )

    @staticmethod
    def from_description(described: Mapping[str, JsonValue]) -> Objective:
        """The inverse of `describe`."""
        asked = _Description.model_validate(described)
        if asked.goals is not None:
            return DesirabilityObjective(asked.metric, asked.direction, tuple(asked.goals.items()))
        if asked.limits is not None:
            return ConstrainedObjective(asked.metric, asked.direction, tuple(asked.limits.items()))
        if asked.front is not None:
            return ParetoObjective(asked.metric, asked.direction, tuple(asked.front))
        return Objective(asked.metric, asked.direction)

    def describe(self) -> dict[str, JsonValue]:
        """All of it, as JSON."""
        return {"metric": self.metric, "direction": self.direction}

    @property
    def reads(self) -> tuple[str, ...]:
        """The metrics that it depends on."""
        return (self.metric,)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Which way each of `values` is better."""
        return (self.direction,)

    @property
    def column(self) -> str:
        """The column of `epochs` by which `best` chooses what this objective would."""
        return self.metric

    def value(self, epoch: Epoch) -> float | None:
        """What one row of `epochs` is worth, in `direction`; None where that is unknown, or the row breaks a limit."""
        return _number(epoch, self.metric)

    def values(self, epoch: Epoch) -> tuple[float, ...] | None:
        """What a study is told of the row: a number for each of `directions`; None where one is not known."""
        value = self.value(epoch)
        return None if value is None else (value,)

    def violations(self, epoch: Epoch) -> dict[str, float]:
        """By how much the row breaks each limit, relative to the limit; 0 or less where it is kept."""
        return {}

    def score(self, metrics: EpochMetrics) -> tuple[float | None, str | None]:
        """The epoch's `score` and `score_error`: larger is better, null with the reason; both None for one metric."""
        return None, None

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better, so that the earlier of two equals stays."""
        return value > than if self.direction == "max" else value < than

    def order(self, epoch: Epoch) -> tuple[float, ...] | None:
        """A key by which rows sort best first; None where the row has no value."""
        values = self.values(epoch)
        if values is None:
            return None
        broken = sum(max(0.0, violation) for violation in self.violations(epoch).values())
        return broken, *_signed(values, self.directions)

    def keys(self, epoch: Epoch) -> tuple[tuple[float, ...], ...] | None:
        """One key for each objective, smaller is better, by which rows are compared; None where there is no value."""
        order = self.order(epoch)
        return None if order is None else (order,)

    def best(self, epochs: Iterable[E]) -> E | None:
        """The best row, the earliest of equals; None where no row has a value.

        A trial is worth its best epoch, since that is the checkpoint that would be exported.
        """
        keyed = [(key, _number_of(row), row) for row in epochs if (key := self.order(row)) is not None]
        return min(keyed, key=lambda item: item[:2])[2] if keyed else None

    def unmeasured(self, config: TrialConfig) -> str | None:
        """Why a trial of this config could never be worth anything, and the way out; None where it can."""
        flat = config.flat()
        for metric in self.reads:
            missing = {field: value for field, value in _MEASURED_WITH.get(metric, {}).items() if not flat[field]}
            if missing:
                why = " and ".join(f"{field} is {plain(flat[field])}" for field in missing)
                remedy = " ".join(f"--set {field}={plain(value)}" for field, value in missing.items())
                return f"{metric} is not measured while {why}; change that in settings, or give {remedy}"
        return None


@dataclass(frozen=True)
class DesirabilityObjective(Objective):
    """The weighted geometric mean of each metric's desirability, as `score` (Derringer and Suich 1980).

    A metric's desirability rises linearly from 0 at its worst value to 1 at its best; weights are Derringer's of 1994.
    """

    goals: tuple[tuple[str, Goal], ...]

    def describe(self) -> dict[str, JsonValue]:
        """All of it, as JSON."""
        return {**super().describe(), "goals": {name: asdict(goal) for name, goal in self.goals}}

    @property
    def reads(self) -> tuple[str, ...]:
        """The metrics that it depends on."""
        return tuple(name for name, _ in self.goals)

    def value(self, epoch: Epoch) -> float | None:
        """The score, from the row's metrics: a row of another sweep may hold a score that another objective gave."""
        total = weights = 0.0
        for name, goal in self.goals:
            measured = _number(epoch, name)
            if measured is None:
                return None
            share = desirability_of(measured, goal)
            total += goal.weight * (math.log(share) if share > 0 else -math.inf)
            weights += goal.weight
        return math.exp(total / weights)

    def score(self, metrics: EpochMetrics) -> tuple[float | None, str | None]:
        """The value, or which metric is missing and why."""
        row = metrics.row()
        value = self.value(row)
        return (value, None) if value is not None else (None, _why_null(row, self.reads))


@dataclass(frozen=True)
class ConstrainedObjective(Objective):
    """The best `metric` among what keeps all `limits`; of what breaks them, the least broken (Deb 2000)."""

    limits: tuple[tuple[str, float], ...]

    def describe(self) -> dict[str, JsonValue]:
        """All of it, as JSON."""
        return {**super().describe(), "limits": dict(self.limits)}

    @property
    def reads(self) -> tuple[str, ...]:
        """The metrics that it depends on."""
        return tuple(dict.fromkeys((self.metric, *(name for name, _ in self.limits))))

    @property
    def column(self) -> str:
        """`score`, which is null where a limit is broken."""
        return SCORE

    def value(self, epoch: Epoch) -> float | None:
        """The metric where every limit is kept."""
        values = self.values(epoch)
        return None if values is None or any(broken > 0 for broken in self.violations(epoch).values()) else values[0]

    def values(self, epoch: Epoch) -> tuple[float, ...] | None:
        """The metric, limits kept or not, so that a study learns from both."""
        value = _number(epoch, self.metric)
        if value is None or any(_number(epoch, name) is None for name, _ in self.limits):
            return None
        return (value,)

    def violations(self, epoch: Epoch) -> dict[str, float]:
        """By how much the row breaks each limit, relative to the limit; a metric that is null counts as broken."""
        broken = {}
        for name, limit in self.limits:
            value = _number(epoch, name)
            beyond = math.inf if value is None else value - limit if direction_of(name) == "min" else limit - value
            broken[name] = beyond / (abs(limit) or 1.0)
        return broken

    def score(self, metrics: EpochMetrics) -> tuple[float | None, str | None]:
        """The metric (its negative where smaller is better), so that the best epoch within the limits is kept."""
        row = metrics.row()
        values = self.values(row)
        if values is None:
            return None, _why_null(row, self.reads)
        broken = self.violations(row)
        for name, limit in self.limits:
            if broken[name] > 0:
                side = "above" if direction_of(name) == "min" else "below"
                value, at = settings_apart([row[name], limit])
                return None, f"{name} {value} is {side} the limit of {at}"
        return (values[0] if self.direction == "max" else -values[0]), None


@dataclass(frozen=True)
class ParetoObjective(Objective):
    """Several metrics at once. Where one row has to stand for a trial, the first metric decides, then the next."""

    metrics: tuple[str, ...]

    def describe(self) -> dict[str, JsonValue]:
        """All of it, as JSON."""
        return {**super().describe(), "front": list(self.metrics)}

    @property
    def reads(self) -> tuple[str, ...]:
        """The metrics that it depends on."""
        return self.metrics

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Which way each of `values` is better."""
        return tuple(direction_of(name) for name in self.metrics)

    def value(self, epoch: Epoch) -> float | None:
        """The first metric, where all are known."""
        values = self.values(epoch)
        return None if values is None else values[0]

    def keys(self, epoch: Epoch) -> tuple[tuple[float, ...], ...] | None:
        """One key for each metric."""
        values = self.values(epoch)
        return None if values is None else tuple((key,) for key in _signed(values, self.directions))

    def values(self, epoch: Epoch) -> tuple[float, ...] | None:
        """All metrics; None where one is not known."""
        found = tuple(value for name in self.metrics if (value := _number(epoch, name)) is not None)
        return found if len(found) == len(self.metrics) else None


class _Description(BaseModel):
    """What `describe` gives, as it comes back from sweep.json."""

    model_config = ConfigDict(frozen=True)

    metric: str
    direction: Direction
    goals: dict[str, Goal] | None = None
    limits: dict[str, int | float] | None = None
    front: list[str] | None = None


def desirability_of(value: float, goal: Goal) -> float:
    """How much of the way from `goal.worst` to `goal.best` the value has gone, from 0 to 1."""
    return min(1.0, max(0.0, (value - goal.worst) / (goal.best - goal.worst)))


def direction_of(metric: str) -> Direction:
    """Which way the metric is better."""
    return "max" if DIRECTIONS[metric] == "max" else "min"


def non_domination_ranks(points: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[int]:
    """The rank of each point: 0 on the Pareto front, 1 on the front of the rest, and so on (Deb et al. 2002)."""
    signed = [_signed(point, directions) for point in points]
    ranks = [0] * len(points)
    fronts: list[list[tuple[float, ...]]] = []
    # Best first by the first coordinate, then the next: nothing is dominated by what comes after it.
    for index in sorted(range(len(points)), key=signed.__getitem__):
        point = signed[index]
        free = (rank for rank, front in enumerate(fronts) if not any(_dominates(other, point) for other in front))
        ranks[index] = next(free, len(fronts))
        if ranks[index] == len(fronts):
            fronts.append([])
        fronts[ranks[index]].append(point)
    return ranks


def pareto_front(items: Iterable[T], point: Callable[[T], Sequence[float]], directions: Sequence[Direction]) -> list[T]:
    """The items whose points no other dominates, best by the first coordinate first; equals all stay."""
    # Best first by the first coordinate, then the next: nothing is dominated by what comes after it.
    front: list[tuple[tuple[float, ...], T]] = []
    for signed, item in sorted(((_signed(point(item), directions), item) for item in items), key=lambda pair: pair[0]):
        if not any(_dominates(other, signed) for other, _ in front):
            front.append((signed, item))
    return [item for _, item in front]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether `one` is nowhere larger than `other`, and somewhere smaller."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _signed(values: Sequence[float], directions: Sequence[Direction]) -> tuple[float, ...]:
    """The values, each such that smaller is better."""
    return tuple(-value if way == "max" else value for value, way in zip(values, directions, strict=True))


def _number_of(epoch: Epoch) -> int:
    number = epoch["epoch"]
    assert isinstance(number, int)
    return number


def _number(epoch: Epoch, metric: str) -> float | None:
    value = epoch.get(metric)
    if isinstance(value, int | float) and math.isfinite(value) and value >= least(metric):
        return float(value)
    return None


def _why_null(row: Epoch, metrics: Iterable[str]) -> str:
    reasons = []
    for name in metrics:
        if _number(row, name) is None:
            given = row.get(f"{name}_error")
            found = "was not measured in this epoch" if row.get(name) is None else f"is {row[name]}"
            reasons.append(f"{name}: {given}" if given else f"{name} {found}")
    return "; ".join(reasons)


def _check_metrics(names: Iterable[str]) -> None:
    for name in names:
        if name == SCORE:
            raise ObjectiveError(
                "objective: 'score' is what desirability(...) makes of other metrics; write "
                "objective = desirability(val_acc=goal(0.25, 0.75), fid=goal(60, 30)), or COURSE_GRADING"
            )
        if name not in DIRECTIONS:
            raise ObjectiveError(f"objective: {name!r} is no metric{nearest(name, DIRECTIONS)}")


def _check_goals(goals: Mapping[str, Goal]) -> None:
    for name, goal in goals.items():
        if (goal.best > goal.worst) != (direction_of(name) == "max"):
            better = "larger" if direction_of(name) == "max" else "smaller"
            raise ObjectiveError(
                f"objective: goal({plain(goal.worst)}, {plain(goal.best)}) of {name}, which is better when {better}: "
                "the worst value comes first"
            )
