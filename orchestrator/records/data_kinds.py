"""Which data the trials of a folder are about: only trials of the same data, by the same protocol, compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]

from cpcnn_core.config import Scalar
from orchestrator.records import arrays
from orchestrator.records.columns import Row, as_scalar
from orchestrator.text.formatting import plain, short

DATA = ("data.name", "data.image_size", "data.channels", "data.digest", "protocol")
"""The columns of `trials` that have to agree for any metric to compare."""


Data: TypeAlias = tuple[Scalar, ...]  # values of DATA


def data_of(row: Row) -> Data:
    """What data a row of `trials` is about, and by which protocol: its values of DATA."""
    return _values(row, DATA)


def described(data: Data, *others: Data) -> str:
    """In what the data differs from the others, in words."""
    parts = [
        f"{name} {_value(name, value)}"
        for index, (name, value) in enumerate(zip(DATA, data, strict=True))
        if any(other[index] != value for other in others)
    ]
    return ", ".join(parts)


def _value(name: str, value: Scalar) -> str:
    if name != "data.digest":
        return plain(value)
    return "not recorded" if value is None else short(str(value))


def kinds_of(table: pa.Table, columns: Sequence[str]) -> list[Data]:
    """The different values that the rows of `trials` have in the columns."""
    there = [name for name in columns if name in table.column_names]
    rows = rows_of(table, there) if there else [{}]
    return list(dict.fromkeys(_values(row, columns) for row in rows))


def _values(row: Row, columns: Sequence[str]) -> Data:
    return tuple(DEFAULTS.get(name) if row.get(name) is None else as_scalar(row[name]) for name in columns)


def rows_of(table: pa.Table, names: Sequence[str]) -> list[Row]:
    """The different rows that the table has in these columns."""
    table = table.select(list(names))
    if all(len(table[name].unique()) <= 1 for name in names):  # as nearly always; grouping imports pandas
        table = table.slice(0, 1)
    else:
        table = table.group_by(list(names)).aggregate([])
    return arrays.rows(table)


DEFAULTS = {"protocol": 1}  # of rows that do not say theirs
