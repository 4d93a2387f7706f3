"""The objective: what a sweep optimises, and what one trial's epochs are worth under it.

A space file declares it as a metric's name or in the words of `search_spaces`: `desirability`, `constrained`, `pareto`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from cpcnn_core.class_names import class_in
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import UserError
from cpcnn_core.metrics import DIRECTIONS, HELD_OUT, EpochMetrics, least
from cpcnn_core.suggest import nearest
from orchestrator.text.formatting import plain, settings_apart
from search_spaces import Constrained, Desirability, Goal, Pareto

Direction = Literal["max", "min"]

SCORE = "score"

_LOGIT = math.log(9.0)  # of 0.9
_OF_TIES = 1e-6

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
            case Desirability(goals=goals, tie_break=tie_break):
                _check_metrics((*goals, *tie_break))
                _check_goals(goals)
                _check_goals(tie_break)
                return DesirabilityObjective(SCORE, "max", tuple(goals.items()), tuple(tie_break.items()))
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
            ties = tuple((asked.tie_break or {}).items())
            return DesirabilityObjective(asked.metric, asked.direction, tuple(asked.goals.items()), ties)
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
                other = "or let `sweep --objective` want something else"
                return f"{metric} is not measured while {why}; change that in settings, give {remedy}, {other}"
        return None


@dataclass(frozen=True)
class DesirabilityObjective(Objective):
    """The weighted geometric mean of each metric's desirability, as `score` (Derringer and Suich 1980).

    A metric's desirability rises linearly from 0 at its worst value to 1 at its best, or is logistic between a tenth
    and nine tenths there; weights are Derringer's of 1994.
    """

    goals: tuple[tuple[str, Goal], ...]
    tie_break: tuple[tuple[str, Goal], ...] = ()

    def describe(self) -> dict[str, JsonValue]:
        """All of it, as JSON."""
        described = {**super().describe(), "goals": _described(self.goals)}
        return {**described, "tie_break": _described(self.tie_break)} if self.tie_break else described

    @property
    def reads(self) -> tuple[str, ...]:
        """The metrics that it depends on."""
        return tuple(dict.fromkeys(name for name, _ in (*self.goals, *self.tie_break)))

    def value(self, epoch: Epoch) -> float | None:
        """The score, from the row's metrics: a row of another sweep may hold a score that another objective gave.

        With a `tie_break` a millionth of it is that one's, which orders equals and moves nothing else that can be told.
        """
        score = _geometric_mean(self.goals, epoch)
        if not self.tie_break or score is None:
            return score
        between = _geometric_mean(self.tie_break, epoch)
        return None if between is None else (1 - _OF_TIES) * score + _OF_TIES * between

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

    model_config = ConfigDict(frozen=True, defer_build=True)

    metric: str
    direction: Direction
    goals: dict[str, Goal] | None = None
    tie_break: dict[str, Goal] | None = None
    limits: dict[str, int | float] | None = None
    front: list[str] | None = None


def _described(goals: Iterable[tuple[str, Goal]]) -> dict[str, JsonValue]:
    """Goals as JSON; the shape of a linear one is not told, as before there were others."""
    return {
        name: {key: value for key, value in asdict(goal).items() if (key, value) != ("shape", "linear")}
        for name, goal in goals
    }


def _geometric_mean(goals: Iterable[tuple[str, Goal]], epoch: Epoch) -> float | None:
    """The weighted geometric mean of what each metric of a row is worth; None where one is not known."""
    total = weights = 0.0
    for name, goal in goals:
        measured = _number(epoch, name)
        if measured is None:
            return None
        total += goal.weight * log_desirability(measured, goal)
        weights += goal.weight
    return math.exp(total / weights)


def log_desirability(value: float, goal: Goal) -> float:
    """The logarithm of what a value is worth, which is 0 to 1.

    Linear (Derringer and Suich 1980) is how much of the way from `goal.worst` to `goal.best` it has gone. Curves that
    never reach 0 or 1 are Harrington's (1965, "The desirability function"); the logistic one is Lazic's (2015,
    "Ranking, selecting, and prioritising genes with desirability functions"). It is 0.1 at the worst and 0.9 at the
    best. Its logarithm does not underflow, so that any two values that floats can tell are worth a different amount.
    """
    if goal.shape == "linear":
        share = min(1.0, max(0.0, (value - goal.worst) / (goal.best - goal.worst)))
        return math.log(share) if share > 0 else -math.inf
    worst, best = goal.worst, goal.best
    if goal.shape == "log-logistic":
        if value <= 0:  # as near as a distance can come
            return 0.0
        value, worst, best = (math.log(number) for number in (value, worst, best))
    logit = _LOGIT * (2 * (value - worst) / (best - worst) - 1)
    return -math.log1p(math.exp(-logit)) if logit > 0 else logit - math.log1p(math.exp(logit))


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
        if name in HELD_OUT:
            raise ObjectiveError(f"objective: {HELD_OUT[name]}")
        if class_in(name) is not None:
            raise ObjectiveError(
                f"objective: {name!r} is of one class; a sweep optimises metrics of all classes, and best --metric "
                "chooses by one of a class"
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
