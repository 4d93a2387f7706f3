"""The columns of the tables: what a row of `trials` and of `epochs` holds, and what it is unique by."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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
PICTURE_KEY = ("trial_id", "epoch", "kind", "label", "png")

OPTION_PREFIX = "model.fusion_options."

Cell: TypeAlias = Scalar | datetime
"""A value of a table; times have the zone UTC."""

Row: TypeAlias = Mapping[str, Cell]
"""A row of a table: columns are open, since fusions and metrics bring their own."""

TIME: pa.DataType = pa.timestamp("us", tz="UTC")
"""The type of a column of times: Arrow's readers know the moment, whatever their own zone."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One row of `trials`: one try at running one trial. A resumed trial has several; the last one tells its state."""

    trial_id: str
    attempt: int  # 1 for the first
    number: int | None  # the trial's number in the study; None where no study asked for it
    state: State
    error: str | None = None  # why it is FAILED
    stopped: str | None = None  # why it is PRUNED, INTERRUPTED, PREEMPTED or STOPPED
    started: datetime  # with its zone, UTC
    ended: datetime | None = None
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
    values: dict[str, Any] = {  # Any: the columns' types are made of the fields'
        name: row[name] for name in Attempt.__dataclass_fields__ if name in row
    }
    return Attempt(**values)


def as_int(value: Cell) -> int:
    """A value of a column that has a whole number in each row. Raise TypeError where it is null or no number."""
    if value is None:
        raise TypeError("a row lacks what every row has")
    if isinstance(value, datetime):
        raise TypeError(f"{value} is no number")
    return int(value)


def as_number(value: Cell) -> float | None:
    """A value of a column of numbers, None where it is null. Raise TypeError where it is a text or a time."""
    if isinstance(value, str | datetime):
        raise TypeError(f"{value!r} is no number")
    return value


def as_time(value: Cell) -> datetime:
    """A value of a column that has a time in each row. Raise TypeError where it has none."""
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no time")
    return value


def as_scalar(value: Cell) -> Scalar:
    """The value where it may only be what JSON knows: a time as text, ISO 8601 to the millisecond."""
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


def config_of(row: Row) -> TrialConfig:
    """The configuration in a row of `trials`. Raise ConfigError where it is none of today's."""
    names = field_names()
    flat = {name: row[name] for name in names if name in row}
    # Every fusion's options are columns of all rows; those that were not given are null, and stay as they are declared.
    options = {name: row[name] for name in row if name.startswith(OPTION_PREFIX) and row[name] is not None}
    return TrialConfig.from_record(flat | options)


_TYPES: Mapping[object, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), datetime: TIME}


def types_of(annotation: object) -> list[pa.DataType]:
    """The column types of a field's annotation, None apart: `Annotated[int, ...] | None` has int64 alone."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return types_of(arguments[0])
    if origin is Literal:
        return list(dict.fromkeys(kind for value in arguments for kind in types_of(type(value))))
    if origin in {typing.Union, types.UnionType}:
        return list(dict.fromkeys(kind for part in arguments for kind in types_of(part)))
    return [] if annotation is type(None) else [_TYPES.get(annotation, pa.string())]


@cache
def config_columns() -> dict[str, pa.DataType]:
    """The columns of a configuration."""
    columns: dict[str, pa.DataType] = {}
    for section, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            for name, field in info.annotation.model_fields.items():
                if name != "fusion_options":  # a column for each: `schema`
                    [columns[f"{section}.{name}"]] = types_of(field.annotation)
        else:
            [columns[section]] = types_of(info.annotation)
    return columns


ATTEMPT_COLUMNS: dict[str, pa.DataType] = {
    name: types_of(annotation)[0] for name, annotation in typing.get_type_hints(Attempt).items()
}
EPOCH_COLUMNS: dict[str, pa.DataType] = {"trial_id": pa.string(), "attempt": pa.int64()} | {
    name: types_of(annotation)[0]
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
