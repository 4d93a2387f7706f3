"""Tables of the pages in docs/: their rows, and what a field takes in their words."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Literal

from cpcnn_core.config import Scalar

_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "pattern")


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of each row below a heading that begins with a name in code font."""
    section = page.split(f"\n## {head}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def values(annotation: object, constraints: Iterable[object]) -> str:
    """The values of a field in the pages' words, from its type and bounds."""
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


def default_of(cell: str) -> Scalar:
    """The value in a cell, as `--set` would take it."""
    text = cell.strip("`")
    try:
        value: Scalar = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value
