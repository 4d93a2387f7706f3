"""Search spaces: one question per file, and the few words they are written in.

A space file is a Python file with

- a docstring: the question that the sweep answers, and what it costs;
- `space`: a mapping from configuration fields (`"model.nr_filters"`) to `choice`, `ints` or `floats`;
- `settings`: the fields that stay fixed, where their defaults will not do;
- `trials`: how many configurations a sweep tries;
- `sampler`: what chooses them: "tpe" (the default), "random", "grid", "nsga2" or "gp";
- `objective`: the metric that it optimises, or `desirability`, `constrained` or `pareto` of several; without one,
  `desirability()`, which is `val_acc` and `fid` alike, where FID is measured (`eval.fid_every`), else `val_acc`;
- `scheduler`: which trials are stopped early: "asha" (the default), "promote", "median" or "none", or a mapping
  `{"name": "asha", "grace_epochs": 3, "reduction_factor": 3}`;
- `resources`: what one trial gets, as `{"gpus": 0.5, "cpus": 2}`, `{"gpus": "auto"}` or `{"processes": 4}`;
- `stall_minutes`: after how long without a sign of life a trial is started again;
- `presets`: what is otherwise under a name, `{"cpu": {"settings": {"train.epochs": 2}, "trials": 4}}`, in the words
  above. `--preset cpu` takes it.

`orchestrator.search.space` interprets it; nothing here knows what a field means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

__all__ = [
    "COURSE_GRADING",
    "COURSE_ON_A_CPU",
    "Choice",
    "Constrained",
    "Desirability",
    "Distribution",
    "Floats",
    "Goal",
    "Ints",
    "Pareto",
    "Scalar",
    "Space",
    "choice",
    "constrained",
    "desirability",
    "floats",
    "goal",
    "ints",
    "pareto",
    "soft_goal",
]

Scalar: TypeAlias = str | int | float | bool | None

_STEP_TOLERANCE = 1e-6  # in steps


@dataclass(frozen=True)
class Choice:
    """One of `options`; where an option has a branch, the branch's fields exist only under that option."""

    options: tuple[Scalar, ...]
    branches: Mapping[Scalar, Space] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Space files are not type-checked."""
        if not self.options:
            raise ValueError("choice() has no option to choose from")
        for option in self.options:
            if not isinstance(option, Scalar):
                raise TypeError(f"choice(): {option!r} is no string, number, truth value or None")
        if len({(type(option), option) for option in self.options}) < len(self.options):
            raise ValueError(f"choice(): an option stands twice in {', '.join(map(repr, self.options))}")
        for option, branch in self.branches.items():
            _check_branch(option, branch)
            if option not in self.options:
                listed = ", ".join(map(repr, self.options))
                raise ValueError(f"choice(): there is a branch of {option!r}, which is no option; there are {listed}")

    def __str__(self) -> str:
        parts = []
        for option in self.options:
            branch = self.branches.get(option)
            inner = ", ".join(f"{name}: {value}" for name, value in branch.items()) if branch else ""
            parts.append(f"{option!r}: {{{inner}}}" if branch else repr(option))
        return f"choice({', '.join(parts)})"


@dataclass(frozen=True)
class Ints:
    """An integer from `low` to `high`, both included, in steps of `step`; `log` searches its logarithm."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        """Space files are not type-checked."""
        low, high, step = self.low, self.high, self.step
        if not all(_is_number(bound, int) for bound in (low, high, step)):
            raise TypeError(f"{self}: the bounds and the step must be integers")
        _check_log(self, self.log)
        if low > high:
            raise ValueError(f"{self}: the low bound is above the high one")
        if step < 1 or (high - low) % step:
            raise ValueError(f"{self}: steps of {step} from {low} do not end at {high}")
        if self.log and (low < 1 or step != 1):
            raise ValueError(f"{self}: log=True needs a low bound of at least 1 and no step")

    def __str__(self) -> str:
        extra = (f", step={self.step!r}" if self.step != 1 else "") + (f", log={self.log!r}" if self.log else "")
        return f"ints({self.low!r}, {self.high!r}{extra})"


@dataclass(frozen=True)
class Floats:
    """A number from `low` to `high`, in steps of `step` if given; `log` searches its logarithm."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        """Space files are not type-checked."""
        low, high, step = self.low, self.high, self.step
        if not all(_is_number(bound, int, float) for bound in (low, high, *([] if step is None else [step]))):
            raise TypeError(f"{self}: the bounds and the step must be finite numbers")
        _check_log(self, self.log)
        if low > high:
            raise ValueError(f"{self}: the low bound is above the high one")
        if self.log and (low <= 0 or step is not None):
            raise ValueError(f"{self}: log=True needs a low bound above 0 and no step")
        if step is not None and (step <= 0 or abs((high - low) / step - round((high - low) / step)) > _STEP_TOLERANCE):
            raise ValueError(f"{self}: steps of {step} from {low} do not end at {high}")

    def __str__(self) -> str:
        extra = ("" if self.step is None else f", step={self.step!r}") + (f", log={self.log!r}" if self.log else "")
        return f"floats({self.low!r}, {self.high!r}{extra})"

    def steps(self) -> tuple[float, ...]:
        """The values that a range with a step holds, both ends included."""
        assert self.step is not None
        # Rounded as the bounds were typed: 0.1 + 2 * 0.1 is 0.30000000000000004.
        count = round((self.high - self.low) / self.step)
        return tuple(float(f"{self.low + index * self.step:.12g}") for index in range(count + 1))


Distribution: TypeAlias = Choice | Ints | Floats
Space: TypeAlias = Mapping[str, Distribution | Scalar]
"""Fields and how they vary. A plain value stands for a field that is fixed under the branch it stands in."""


def choice(*options: Scalar | Iterable[Scalar] | Mapping[Scalar, Space]) -> Choice:
    """`choice("a", "b")`, `choice(["a", "b"])`, or `choice({"a": {}, "b": {"field": ints(1, 4)}})` with branches."""
    first = options[0] if len(options) == 1 else None
    if isinstance(first, Mapping):
        for option, branch in first.items():
            _check_branch(option, branch)
        return Choice(tuple(first), {option: dict(branch) for option, branch in first.items() if branch})
    if isinstance(first, Iterable) and not isinstance(first, str):
        return Choice(tuple(first))
    # Anything else that is no scalar, Choice refuses.
    return Choice(options)  # type: ignore[arg-type]


def ints(low: int, high: int, *, step: int = 1, log: bool = False) -> Ints:
    """An integer from `low` to `high`, both included."""
    return Ints(low, high, step, log)


def floats(low: float, high: float, *, log: bool = False, step: float | None = None) -> Floats:
    """A number from `low` to `high`, in steps of `step` if given."""
    checked = Floats(low, high, log, step)
    # As Python's floats, so that 0 and 0.0 are one question.
    return Floats(float(checked.low), float(checked.high), log, None if step is None else float(step))


def _check_branch(option: object, branch: object) -> None:
    """Raise TypeError where a branch is no mapping of fields to how they vary."""
    if not isinstance(branch, Mapping):
        raise TypeError(f"choice(): the branch of {option!r} is {branch!r}; it must be a mapping, {{}} for none")
    for name, value in branch.items():
        if not isinstance(name, str):
            raise TypeError(f"choice(): the branch of {option!r} has a key {name!r}; it must be the name of a field")
        if not isinstance(value, Distribution | Scalar):
            raise TypeError(
                f"choice(): the branch of {option!r} has {name!r}: {value!r}; it must be choice(...), ints(...), "
                "floats(...) or one fixed value"
            )


def _check_log(distribution: Ints | Floats, log: object) -> None:
    """Raise TypeError where `log` is no truth value: a text such as "no" would count as one."""
    if not isinstance(log, bool):
        raise TypeError(f"{distribution}: log must be True or False")


Shape: TypeAlias = Literal["linear", "logistic", "log-logistic"]


@dataclass(frozen=True)
class Goal:
    """What a metric is worth, by its value.

    A linear one is worth nothing at `worst` or beyond, everything at `best` or beyond, and in between its share. A
    logistic one is worth a tenth at `worst` and nine tenths at `best`, and never nothing or everything.
    """

    worst: float
    best: float
    weight: float = 1.0
    shape: Shape = "linear"


@dataclass(frozen=True)
class Desirability:
    """The weighted geometric mean of what each metric is worth (Derringer and Suich 1980).

    Where two are worth the same, `tie_break` decides.
    """

    goals: Mapping[str, Goal]
    tie_break: Mapping[str, Goal] = field(default_factory=dict)


@dataclass(frozen=True)
class Constrained:
    """The best `metric` among what keeps all `limits`, each a metric and the worst value of it that is allowed."""

    metric: str
    limits: Mapping[str, float]


@dataclass(frozen=True)
class Pareto:
    """Several metrics at once: what no other trial beats in all of them. The first one leads where one must."""

    metrics: tuple[str, ...]


def goal(worst: float, best: float, *, weight: float = 1.0) -> Goal:
    """A metric's way from `worst` to `best`, and how much it weighs."""
    call = f"goal({worst!r}, {best!r}, weight={weight!r})"
    if not all(_is_number(value, int, float) for value in (worst, best, weight)):
        raise TypeError(f"{call}: worst, best and weight must be finite numbers")
    if worst == best:
        raise ValueError(f"{call}: worst and best are the same, which leaves nothing to improve")
    if weight <= 0:
        raise ValueError(f"{call}: the weight must be above 0; leave out a metric that does not count")
    return Goal(float(worst), float(best), float(weight))


def soft_goal(worst: float, best: float, *, weight: float = 1.0, log: bool = False) -> Goal:
    """A goal that nothing reaches and nothing misses wholly: worth 0.1 at `worst`, 0.9 at `best`, better always more.

    It is logistic in the value (Lazic 2015), or with `log` in the value's logarithm, for a metric whose ratios count.
    """
    made = goal(worst, best, weight=weight)
    if log and (made.worst <= 0 or made.best <= 0):
        raise ValueError(f"soft_goal({worst!r}, {best!r}, log=True): both must be above 0")
    return replace(made, shape="log-logistic" if log else "logistic")


def desirability(**goals: Goal) -> Desirability:
    """`desirability(val_acc=goal(0.25, 0.75), fid=goal(60, 30, weight=2))`; without goals, soft ones of both."""
    for name, wanted in goals.items():
        if not isinstance(wanted, Goal):
            raise TypeError(f"desirability({name}={wanted!r}): expected {name}=goal(worst, best)")
    return Desirability(goals or _SOFT)


def constrained(metric: str, **limits: float) -> Constrained:
    """`constrained("val_acc", fid=30)`: the best `val_acc` among epochs whose FID is at most 30.

    A limit is the worst value that is allowed: an upper bound for a metric that is better when smaller, else a lower
    one.
    """
    if not limits:
        raise ValueError(f"constrained({metric!r}): name at least one limit, as in constrained('val_acc', fid=30)")
    for name, limit in limits.items():
        if not _is_number(limit, int, float):
            raise TypeError(f"constrained({metric!r}, {name}={limit!r}): the limit must be a finite number")
    return Constrained(metric, {name: float(limit) for name, limit in limits.items()})


def pareto(*metrics: str) -> Pareto:
    """`pareto("val_acc", "fid")`: the front of trials that no other beats in all of these metrics."""
    if len(set(metrics)) < len(metrics) or len(metrics) < 2:
        raise ValueError(f"pareto({', '.join(map(repr, metrics))}): name two or more different metrics")
    return Pareto(metrics)


def _is_number(value: object, *kinds: type) -> bool:
    # Space files are not type-checked, and True is an int to Python.
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


_SOFT = {"val_acc": soft_goal(0.5, 0.9), "fid": soft_goal(400.0, 10.0, log=True)}

COURSE_ON_A_CPU: Mapping[str, Scalar] = {
    "data.image_size": 16,
    "data.train_fraction": 0.2,
    "model.nr_resnet": 1,
    "model.nr_logistic_mix": 5,
    "train.epochs": 4,
    "train.precision": "fp32",  # many CPUs have no units for bf16
    "train.ema_decay": 0.99,
    "eval.every": 2,
    "eval.train_images": 128,
    "eval.fid_every": 2,
}
"""What makes a space of the course's images small enough for a look on a CPU."""

COURSE_GRADING = Desirability({"val_acc": goal(0.25, 0.75), "fid": goal(60.0, 30.0)}, tie_break=_SOFT)
"""The grading scheme of the course: accuracy from 25% to 75%, FID (192 features) from 60 to 30, both alike.

It gives full marks to all from 75% and 30 on. Of such, and of those without any marks, `desirability()` prefers one.
"""
