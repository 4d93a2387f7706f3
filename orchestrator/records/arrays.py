"""Arrow's tables as rows, its columns as NumPy arrays, and masks back, without pandas.

pyarrow's own conversions (`to_numpy`, `pa.array`, scalars, times) import pandas where it is installed, which takes
longer than all else that a reader of tables does.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from orchestrator.records.columns import TIME, Row

G = TypeVar("G", bound=np.generic)
S = TypeVar("S", bound=np.generic)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows(table: pa.Table) -> list[Row]:
    """The rows as plain mappings, None where a value is null."""
    of_times = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    for name in of_times:
        table = table.set_column(table.column_names.index(name), name, _microseconds(table[name]))
    plain = table.to_pylist()
    for row in plain if of_times else ():
        row.update({name: _time(row[name]) for name in of_times})
    listed: list[Row] = plain
    return listed


def times(column: pa.ChunkedArray) -> list[datetime | None]:
    """A column of times, None where it is null."""
    return [_time(value) for value in _microseconds(column).to_pylist()]


def _microseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(TIME).cast(pa.int64())


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def mask(rows: NDArray[np.bool_]) -> pa.Array:
    """Which rows, for Arrow."""
    return pa.Array.from_buffers(pa.bool_(), len(rows), [None, pa.py_buffer(np.packbits(rows, bitorder="little"))])


def bools(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """A column of booleans, true where it is null."""
    return _joined([_bits(chunk, 1) | ~_valid(chunk) for chunk in column.chunks], np.bool_)


def valid(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where the column is not null."""
    return _joined([_valid(chunk) for chunk in column.chunks], np.bool_)


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column of signed integers or floats as floats, NaN where it is null."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    return _joined([np.where(_valid(chunk), _values(chunk), np.nan) for chunk in column.chunks], np.float64)


def integers(column: pa.ChunkedArray, missing: int = -1) -> NDArray[np.int64]:
    """A column of signed integers, `missing` where it is null."""
    return _joined([np.where(_valid(chunk), _values(chunk), missing) for chunk in column.chunks], np.int64)


def _values(chunk: pa.Array) -> NDArray[np.number]:
    """What lies in the buffer: anything where the value is null."""
    kind = np.dtype(f"{'f' if pa.types.is_floating(chunk.type) else 'i'}{chunk.type.bit_width // 8}")
    return np.frombuffer(chunk.buffers()[1], kind, len(chunk), chunk.offset * kind.itemsize)


def _valid(chunk: pa.Array) -> NDArray[np.bool_]:
    return np.ones(len(chunk), bool) if chunk.null_count == 0 else _bits(chunk, 0)


def _bits(chunk: pa.Array, buffer: int) -> NDArray[np.bool_]:
    packed = np.frombuffer(chunk.buffers()[buffer], np.uint8)
    bits = np.unpackbits(packed, bitorder="little", count=chunk.offset + len(chunk))
    return bits[chunk.offset :].astype(bool)


def _joined(parts: list[NDArray[S]], kind: type[G]) -> NDArray[G]:
    return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)
