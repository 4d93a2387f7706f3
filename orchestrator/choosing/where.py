"""`--where "fid <= 30 and model.nr_filters < 100"`: conditions on the tables' columns, never run as code."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpcnn_core.errors import UserError
from cpcnn_core.metrics import HELD_OUT
from cpcnn_core.suggest import nearest
from orchestrator.records.columns import Cell
from orchestrator.text.formatting import plain, settings_apart

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {  # Any: of numbers and texts as of whole arrays
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(
    r"""\s*(?:(?P<column>[A-Za-z_][\w.+-]*)|`(?P<quoted>(?:[^`]|``)+)`)\s*(?P<operator><=|>=|==|!=|<|>)\s*
    (?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
    |'(?P<single>(?:[^']|'')*)'|"(?P<double>(?:[^"]|"{2})*)")\s*""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[A-Za-z_][\w.+-]*")
_TEXTS = 5  # that are named where a condition asks for another one
_AND = re.compile(r"and\b", re.IGNORECASE)


class WhereError(UserError, ValueError):
    """A condition that cannot be read; the message shows where, and what would be one."""


@dataclass(frozen=True)
class Condition:
    """`column operator value`, the value a number or a text in quotes. A name of other characters is in backticks."""

    column: str
    operator: str
    value: float | str

    def __str__(self) -> str:
        value = _quoted(self.value) if isinstance(self.value, str) else plain(self.value)
        return f"{_column(self.column)} {self.operator} {value}"

    def holds(self, values: Iterable[Cell]) -> NDArray[np.bool_]:
        """Where it holds; never where a value is missing. Raise WhereError where text meets a number."""
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and isinstance(self.value, float):
            compared: NDArray[np.bool_] = _OPERATORS[self.operator](values, self.value) & ~np.isnan(values)
            return compared
        listed = np.asarray(values, dtype=object)
        if any(isinstance(value, datetime) for value in listed):
            return self._holds_of_times(listed)
        there = np.array([value is not None and value == value for value in listed], dtype=bool)  # NaN differs from NaN
        holds = np.zeros(len(listed), dtype=bool)
        if not there.any():
            return holds
        if len({isinstance(value, str) for value in listed[there]} | {isinstance(self.value, str)}) > 1:
            kind = "text, which is compared with text in quotes" if isinstance(self.value, float) else "numbers"
            if all(isinstance(value, bool) for value in listed[there]):
                kind = "true and false, which are compared with 1 and 0"
            raise WhereError(f"--where {self}: {self.column} holds {kind}")
        if isinstance(self.value, str) and self.operator not in {"==", "!="}:
            raise WhereError(f"--where {self}: texts are equal (==) or not (!=)")
        kind_of = str if isinstance(self.value, str) else float
        holds[there] = _OPERATORS[self.operator](listed[there].astype(object if kind_of is str else float), self.value)
        return holds

    def _holds_of_times(self, values: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Where it holds of times; one that is given without a zone is in UTC."""
        try:
            given = datetime.fromisoformat(str(self.value))
        except ValueError:
            example = Condition(self.column, ">=", "2026-01-31 12:00")
            raise WhereError(f"--where {self}: {self.column} holds times, which are compared as in {example}") from None
        asked = given if given.tzinfo else given.replace(tzinfo=UTC)
        compare = _OPERATORS[self.operator]
        return np.array([value is not None and bool(compare(value, asked)) for value in values], dtype=bool)

    def nearest(self, values: Iterable[Cell]) -> str | None:
        """Of values that do not meet it, the one that misses it by least, or the texts that there are; None of none."""
        there = [value for value in values if value is not None and value == value]
        if not there:
            return None
        if isinstance(self.value, str):
            texts = sorted({str(value) for value in there})
            return ", ".join(texts[:_TEXTS]) + (f" and {len(texts) - _TEXTS} others" if len(texts) > _TEXTS else "")
        number = self.value
        numbers = [float(value) for value in there if isinstance(value, int | float)]  # np.float64 is a float
        return settings_apart([min(numbers, key=lambda value: abs(value - number)), number])[0]


def parse(text: str) -> tuple[Condition, ...]:
    """The conditions in `text`, joined by `and`. Raise WhereError."""
    conditions: list[Condition] = []
    at = 0
    while True:
        match = _CONDITION.match(text, at)
        if match is None:
            raise WhereError(
                f"--where {text!r}: cannot be read from {text[at:].strip()[:30]!r} on; expected a column, one of "
                f'{" ".join(_OPERATORS)} and a number or a text in quotes, as in "fid <= 30 and val_acc > 0.8"'
            )
        column = match["column"] or match["quoted"].replace("``", "`")
        conditions.append(Condition(column, match["operator"], _value(match)))
        at = match.end()
        if at == len(text):
            return tuple(conditions)
        joined = _AND.match(text, at)
        if joined is None:
            raise WhereError(f"--where {text!r}: conditions are joined by `and`; found {text[at:].strip()[:30]!r}")
        at = joined.end()


def _value(match: re.Match[str]) -> float | str:
    if match["number"]:
        return float(match["number"])
    if match["single"] is not None:
        return match["single"].replace("''", "'")
    return match["double"].replace('""', '"')


def _column(name: str) -> str:
    """The name of a column as `parse` reads it: in backticks, as pandas has them, where it has blanks or the like."""
    return name if _PLAIN.fullmatch(name) else f"`{name.replace('`', '``')}`"


def _quoted(text: str) -> str:
    """The text as `parse` reads it: a quote within quotes is doubled, as in SQL."""
    return '"' + text.replace('"', '""') + '"'


def check(conditions: Iterable[Condition], columns: Iterable[str]) -> None:
    """Raise WhereError for a column that nothing is chosen by or, with the nearest name, that no table has."""
    known = list(columns)
    for condition in conditions:
        if condition.column in HELD_OUT:
            raise WhereError(f"--where {condition}: {HELD_OUT[condition.column]}")
        if condition.column not in known:
            raise WhereError(f"--where {condition}: no such column{nearest(condition.column, known)}")
