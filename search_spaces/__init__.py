"""Search spaces: one question per file, and the few words they are written in.

A space file is a Python file with

- a docstring: the question that the sweep answers, and what it costs;
- `space`: a mapping from configuration fields (`"model.nr_filters"`) to `choice`, `ints` or `floats`;
- `settings`: the fields that stay fixed, where their defaults will not do;
- `trials`: how many configurations a sweep tries;
- `objective`: the metric that it optimises.

`orchestrator.space` interprets it; nothing here knows what a field means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Choice", "Distribution", "Floats", "Ints", "Scalar", "Space", "choice", "floats", "ints"]

Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Choice:
    """One of `options`; where an option has a branch, the branch's fields exist only under that option."""

    options: tuple[Scalar, ...]
    branches: Mapping[Scalar, Space] = field(default_factory=dict)

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

    def __str__(self) -> str:
        extra = (f", step={self.step}" if self.step != 1 else "") + (", log=True" if self.log else "")
        return f"ints({self.low}, {self.high}{extra})"


@dataclass(frozen=True)
class Floats:
    """A number from `low` to `high`; `log` searches its logarithm."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"floats({self.low!r}, {self.high!r}{', log=True' if self.log else ''})"


Distribution: TypeAlias = Choice | Ints | Floats
Space: TypeAlias = Mapping[str, Distribution | Scalar]
"""Fields and how they vary. A plain value stands for a field that is fixed under the branch it stands in."""


def choice(*options: Scalar | Iterable[Scalar] | Mapping[Scalar, Space]) -> Choice:
    """`choice("a", "b")`, `choice(["a", "b"])`, or `choice({"a": {}, "b": {"field": ints(1, 4)}})` with branches."""
    given: tuple[Any, ...] = options
    if len(options) == 1 and isinstance(options[0], Iterable) and not isinstance(options[0], str):
        given = tuple(options[0])
    if not given:
        raise ValueError("choice() has no option to choose from")
    for option in given:
        if not isinstance(option, str | int | float | bool | None):
            raise TypeError(f"choice(): {option!r} is no string, number, truth value or None")
    if len({(type(option), option) for option in given}) < len(given):
        raise ValueError(f"choice(): an option stands twice in {', '.join(map(repr, given))}")
    branches = dict(options[0]) if isinstance(options[0], Mapping) else {}
    for option, branch in branches.items():
        if not isinstance(branch, Mapping):
            raise TypeError(f"choice(): the branch of {option!r} is {branch!r}; it must be a mapping, {{}} for none")
    return Choice(given, {option: dict(branch) for option, branch in branches.items() if branch})


def ints(low: int, high: int, *, step: int = 1, log: bool = False) -> Ints:
    """An integer from `low` to `high`, both included."""
    call = str(Ints(low, high, step, log))
    if not all(_is_number(bound, int) for bound in (low, high, step)):
        raise TypeError(f"{call}: the bounds and the step must be integers")
    if low > high:
        raise ValueError(f"{call}: the low bound is above the high one")
    if step < 1 or (high - low) % step:
        raise ValueError(f"{call}: steps of {step} from {low} do not end at {high}")
    if log and (low < 1 or step != 1):
        raise ValueError(f"{call}: log=True needs a low bound of at least 1 and no step")
    return Ints(low, high, step, log)


def floats(low: float, high: float, *, log: bool = False) -> Floats:
    """A number from `low` to `high`."""
    call = str(Floats(low, high, log))
    if not all(_is_number(bound, int, float) for bound in (low, high)):
        raise TypeError(f"{call}: the bounds must be finite numbers")
    if low > high:
        raise ValueError(f"{call}: the low bound is above the high one")
    if log and low <= 0:
        raise ValueError(f"{call}: log=True needs a low bound above 0")
    return Floats(float(low), float(high), log)


def _is_number(value: object, *kinds: type) -> bool:
    # Space files are not type-checked, and True is an int to Python.
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]
