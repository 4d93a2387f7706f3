"""The columns of the tables: what a row of `trials` and of `epochs` holds, and what it is unique by."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]
from pydantic import BaseModel

from cpcnn_core.config import Scalar, TrialConfig, field_names
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records import layout
from orchestrator.records.states import State

# What a file must have to be one of ours; columns that a later version added are null in an earlier one's rows.
ATTEMPT_KEY = ("trial_id", "attempt", "state")
EPOCH_KEY = ("trial_id", "attempt", "epoch")
PREDICTION_KEY = ("trial_id", "epoch", "image", "label")

OPTION_PREFIX = "model.fusion_options."

Row: TypeAlias = Mapping[str, Scalar]
"""A row of a table: columns are open, since fusions and metrics bring their own."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One row of `trials`: one try at running one trial. A resumed trial has several; the last one tells its state."""

    trial_id: str
    attempt: int  # 1 for the first
    number: int | None  # the trial's number in the study; None where no study asked for it
    state: State
    error: str | None = None  # why it is FAILED
    stopped: str | None = None  # why it is PRUNED, INTERRUPTED, PREEMPTED or STOPPED
    started: str  # UTC, ISO 8601
    ended: str | None = None
    seconds: float | None = None  # from start to end of this attempt, the process's start apart
    epochs: int = 0  # finished epochs of the trial, those of earlier attempts and of trials that it continues included
    peak_memory_bytes: int | None = None
    threads: int | None = None  # of torch, on the CPU
    gpus: float | None = None  # held while it ran
    host: str | None = None
    device: str | None = None
    pid: int | None = None
    git_commit: str | None = None


def attempt_of(row: Row) -> Attempt:
    """The attempt in a row of `trials`."""
    # The columns' types are made of the fields'.
    values: dict[str, Any] = {name: row[name] for name in Attempt.__dataclass_fields__ if name in row}
    return Attempt(**values)


def as_int(value: Scalar) -> int:
    """A value of a column that has a whole number in each row. Raise TypeError where it is null."""
    if value is None:
        raise TypeError("a row lacks what every row has")
    return int(value)


def as_number(value: Scalar) -> float | None:
    """A value of a column of numbers, None where it is null. Raise TypeError where it is a text."""
    if isinstance(value, str):
        raise TypeError(f"{value!r} is no number")
    return value


def config_of(row: Row) -> TrialConfig:
    """The configuration in a row of `trials`. Raise ConfigError where it is none of today's."""
    names = field_names()
    flat = {name: row[name] for name in names if name in row}
    # A fusion's options are columns of all rows once one trial has them; in the other trials' rows they are null.
    options = {name: row[name] for name in row if name.startswith(OPTION_PREFIX) and row[name] is not None}
    return TrialConfig.from_record(flat | options)


def schema_of(rows: Iterable[Row], known: Mapping[str, pa.DataType]) -> pa.Schema:
    """Known columns with their types, then the others in order of appearance with the type of their values."""
    fields: dict[str, pa.DataType] = {}
    for row in rows:
        for name, value in row.items():
            if name in known:
                fields[name] = known[name]
            elif value is not None or name not in fields:
                fields[name] = _type_of(value)
    order = [name for name in known if name in fields] + [name for name in fields if name not in known]
    return pa.schema([(name, fields[name]) for name in order])


def _type_of(value: Scalar) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64()
    return pa.string() if isinstance(value, str) else pa.float64()


def _annotated(annotation: Any) -> pa.DataType:
    """The column type of a field's annotation: `Annotated[int, ...] | None` is int64."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _annotated(arguments[0])
    if origin is Literal:
        return _type_of(arguments[0])
    if origin in {typing.Union, types.UnionType}:
        return _annotated(next(part for part in arguments if part is not type(None)))
    return {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}.get(annotation, pa.string())


@cache
def config_columns() -> dict[str, pa.DataType]:
    """The columns of a configuration."""
    columns: dict[str, pa.DataType] = {}
    for section, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            for name, field in info.annotation.model_fields.items():
                columns[f"{section}.{name}"] = _annotated(field.annotation)
        else:
            columns[section] = _annotated(info.annotation)
    return columns


ATTEMPT_COLUMNS: dict[str, pa.DataType] = {
    name: _annotated(annotation) for name, annotation in typing.get_type_hints(Attempt).items()
}
EPOCH_COLUMNS: dict[str, pa.DataType] = {"trial_id": pa.string(), "attempt": pa.int64()} | {
    name: _annotated(annotation)
    for name, annotation in typing.get_type_hints(EpochMetrics).items()
    if name not in {"kept_epochs", "extra"}
}


@dataclass(frozen=True)
class Kind:
    """One of the two tables: the columns it must have and may have, its order, and what a row is unique by."""

    folder: str
    required: tuple[str, ...]
    columns: Mapping[str, pa.DataType]
    order: tuple[str, ...]
    unique: tuple[str, ...]  # the last row in order counts

    @property
    def compacted(self) -> str:
        """The file of the rows of many trials."""
        return layout.compacted(self.folder)


TRIALS = Kind(layout.TRIALS, ATTEMPT_KEY, ATTEMPT_COLUMNS, ("trial_id", "attempt"), ("trial_id", "attempt"))
EPOCHS = Kind(layout.EPOCHS, EPOCH_KEY, EPOCH_COLUMNS, ("trial_id", "epoch", "attempt"), ("trial_id", "epoch"))
