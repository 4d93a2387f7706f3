"""The space of a sweep as sweep.json records it: its fields, and how each of them varies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, Strict

from cpcnn_core.config import Scalar


class _Recorded(BaseModel):
    # As `sweep_file` has it for the rest of the file: read and written again as it was, with keys of another release.
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)


class RecordedChoice(_Recorded):
    """A field that is one of several options, or fixed where there is one."""

    kind: Literal["choice"]
    # Each option with its branch: the fields that exist only under it. JSON has lists where Python has pairs.
    options: Annotated[tuple[Annotated[tuple[Scalar, RecordedSpace], Strict(False)], ...], Strict(False)]

    def branch(self, value: Scalar) -> RecordedSpace | None:
        """The fields under the option that is the value; None where the value is no option."""
        return next((branch for option, branch in self.options if is_same(option, value)), None)

    def admits(self, value: Scalar) -> bool:
        """Whether the field may have the value."""
        return self.branch(value) is not None


class RecordedInts(_Recorded):
    """A field that is a whole number between bounds."""

    kind: Literal["ints"]
    low: int
    high: int
    step: int

    def admits(self, value: Scalar) -> bool:
        """Whether the field may have the value."""
        return _is_number(value) and self.low <= value <= self.high and not (value - self.low) % self.step


class RecordedFloats(_Recorded):
    """A field that is a number between bounds."""

    kind: Literal["floats"]
    low: float
    high: float
    # All the values that it may have; None where it is continuous.
    steps: Annotated[tuple[float, ...], Strict(False)] | None

    def admits(self, value: Scalar) -> bool:
        """Whether the field may have the value."""
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        return self.steps is None or any(math.isclose(value, step) for step in self.steps)


RecordedField: TypeAlias = Annotated[RecordedChoice | RecordedInts | RecordedFloats, Field(discriminator="kind")]
RecordedSpace: TypeAlias = Mapping[str, RecordedField]

RecordedChoice.model_rebuild()


def is_same(value: Scalar, other: Scalar) -> bool:
    """Whether two values are one, as they are in JSON; to Python, True is 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _is_number(value: Scalar) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
