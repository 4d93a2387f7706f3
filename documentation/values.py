"""What a field takes and what it is by default, in the words of the pages."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Literal

_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "pattern")


def values(annotation: object, constraints: Iterable[object]) -> str:
    """The values of a field, from its type and bounds."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        [inner] = [part for part in arguments if part is not type(None)]
        return f"{values(inner, constraints)}, or `null`"
    if origin is typing.Annotated:
        [held] = arguments[1:]
        return values(arguments[0], held.metadata)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if annotation is bool:
        return "`true`, `false`"
    bounds = {
        name: found for each in constraints for name in _BOUNDS if (found := getattr(each, name, None)) is not None
    }
    if annotation is str:
        return re.sub(r"\^\[0-9a-f\]\{(\d+)\}\$", r"\1 hex digits", bounds["pattern"])
    return _number(annotation is int, bounds)


def _number(whole: bool, bounds: dict[str, float]) -> str:
    if "multiple_of" in bounds:
        return f"multiple of {bounds['multiple_of']}, from {bounds['ge']}"
    low = f"from {bounds['ge']:g}" if "ge" in bounds else f"above {bounds['gt']:g}"
    high = f", below {bounds['lt']:.15g}" if "lt" in bounds else ""
    if "le" in bounds:
        high = f" to {bounds['le']}" if whole else f", at most {bounds['le']:g}"
    return f"{'whole number' if whole else 'number'} {low}{high}"


def is_number(annotation: object) -> bool:
    """Whether a field is a number, or one or null: such a field has a unit."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, typing.Annotated}:
        return any(is_number(part) for part in typing.get_args(annotation))
    return annotation in (int, float)


def default(value: object) -> str:
    """A default as `--set` takes it."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
