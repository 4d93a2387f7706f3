"""The results of one sweep as files: Parquet for what was measured, JSON for what was asked.

    sweep.json                     what was asked, by which code, on which machine
    trials/<trial_id>.parquet      one row per attempt at the trial
    epochs/<trial_id>.parquet      one row per epoch
    trials/compacted.parquet       the rows of many trials that have ended, likewise in epochs; their own files are gone
    predictions/<trial_id>-0003.parquet   log p(image | class) for each validation image, of one epoch
    checkpoints/<trial_id>/        weights and training state, the core's business
    samples/<trial_id>-0003.png    images drawn after an epoch, one row per class
    logs/<trial_id>.log            what the trial's process said

`trials` and `epochs` have one writer, the driver; a trial's process writes its predictions, log and checkpoints. Every
file is written under a temporary name and renamed, so a reader never sees half of one, and a reader that meets a
broken or foreign file names it and goes on. A trial's own file holds all its rows, and counts before the compacted one:
so a kill between writing the one and deleting the other loses nothing and doubles nothing.

`docs/results-schema.md` has every column with its unit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pydantic import BaseModel

from cpcnn_core.config import Scalar, TrialConfig, field_names
from cpcnn_core.files import write_atomically
from cpcnn_core.metrics import EpochMetrics
from orchestrator import arrays

if TYPE_CHECKING:
    import pandas as pd  # takes a second to import, and who only asks for rows or columns does without

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAILED"]
FINISHED: tuple[State, ...] = ("COMPLETE", "PRUNED", "FAILED")

# What a file must have to be one of ours; columns that a later version added are null in an earlier one's rows.
_ATTEMPT_KEY = ("trial_id", "attempt", "state")
_EPOCH_KEY = ("trial_id", "attempt", "epoch")
_PREDICTION_KEY = ("trial_id", "epoch", "image", "label")

OPTION_PREFIX = "model.fusion_options."

COMPACTED = "compacted.parquet"  # no trial id: those have 12 hex digits
COMPACT_FROM = 256  # files of ended trials from which on the driver compacts

CONFIRMATION = "confirmation"  # in the sweep.json of a sweep that confirms a choice

SCHEMA = 2
"""The version of the tables, `schema_version` in their metadata. 1 had none; 2 adds compacted files."""

_SCHEMA_KEY = b"schema_version"
_READERS = 8  # threads; reading thousands of small files waits for the disk, not for the processor


class StoreError(Exception):
    """Results that cannot be written or read; the message names the path."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One row of `trials`: one try at running one trial. A resumed trial has several; the last one tells its state."""

    trial_id: str
    attempt: int  # 1 for the first
    number: int | None  # the trial's number in the study; None where no study asked for it
    state: State
    error: str | None = None  # why it is FAILED
    stopped: str | None = None  # why it is PRUNED
    started: str  # UTC, ISO 8601
    ended: str | None = None
    seconds: float | None = None  # from start to end of this attempt, the process's start apart
    epochs: int = 0  # finished epochs of the trial, those of earlier attempts included
    peak_memory_bytes: int | None = None
    threads: int | None = None  # of torch, on the CPU
    gpus: float | None = None  # held while it ran
    host: str | None = None
    device: str | None = None
    pid: int | None = None
    git_commit: str | None = None


@dataclass(frozen=True)
class Table:
    """What could be read, and one line for each file that could not."""

    columns: pa.Table
    problems: tuple[str, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """The rows for pandas, with Arrow's types, which know null from NaN."""
        import pandas as pd

        frame: pd.DataFrame = self.columns.to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def rows(self) -> list[dict[str, Any]]:
        """The rows as plain mappings, None where a value is null."""
        rows: list[dict[str, Any]] = self.columns.to_pylist()
        return rows


class Store:
    """The folder of one sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials_folder = folder / "trials"
        self.epochs_folder = folder / "epochs"
        self.predictions_folder = folder / "predictions"
        self.checkpoints_folder = folder / "checkpoints"
        self.samples_folder = folder / "samples"
        self.logs_folder = folder / "logs"
        self.study_file = folder / "study.db"
        self.sweep_file = folder / "sweep.json"

    def create(self) -> None:
        """Make the folders. Raise StoreError where that is not possible."""
        try:
            for folder in (
                self.trials_folder,
                self.epochs_folder,
                self.predictions_folder,
                self.checkpoints_folder,
                self.samples_folder,
                self.logs_folder,
            ):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot hold results: {error.strerror or error}") from None
        if not os.access(self.trials_folder, os.W_OK):
            raise StoreError(f"{self.folder}: cannot hold results: no permission to write")

    def checkpoint_folder(self, trial_id: str) -> Path:
        """The folder that the trial's weights and training state lie in."""
        return self.checkpoints_folder / trial_id

    def samples_file(self, trial_id: str, epoch: int) -> Path:
        """The picture of the images that were drawn after an epoch."""
        return self.samples_folder / f"{trial_id}-{epoch:04d}.png"

    def log_file(self, trial_id: str) -> Path:
        """The file that the trial's process writes its log to."""
        return self.logs_folder / f"{trial_id}.log"

    def remove_leftovers(self) -> None:
        """Delete what writers that were killed left under temporary names; only for the one who holds the sweep."""
        for folder in (self.trials_folder, self.epochs_folder):
            for file in folder.glob(".*.tmp"):
                file.unlink(missing_ok=True)

    def set_study_aside(self) -> None:
        """Give the study's files another name, so that the next one to open it starts a new one."""
        number = 1
        while (aside := self.folder / f"study-{number}.db").exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):  # the log of what is not yet in the file goes with it
            file = self.study_file.with_name(self.study_file.name + suffix)
            if file.exists():
                file.replace(aside.with_name(aside.name + suffix))

    # --- what was asked

    def read_sweep(self) -> dict[str, Any] | None:
        """The content of sweep.json, None where there is none. Raise StoreError where it is broken."""
        try:
            content = json.loads(self.sweep_file.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.sweep_file}: not readable as JSON ({error})") from None
        if not isinstance(content, dict):
            raise StoreError(f"{self.sweep_file}: holds no JSON object")
        return content

    def write_sweep(self, content: Mapping[str, Any]) -> None:
        """Write sweep.json."""
        text = json.dumps(content, indent=2) + "\n"
        self._write(self.sweep_file, lambda stream: stream.write(text.encode()))

    # --- one trial

    def attempts_of(self, trial_id: str) -> list[dict[str, Any]]:
        """The trial's rows of `trials`, first attempt first, each with its configuration; none where it never ran."""
        return self._rows(self.trials_folder, trial_id, _ATTEMPT_KEY)

    def write_attempt(self, attempt: Attempt, config: TrialConfig) -> None:
        """Add the attempt's row, or replace it."""
        row = dataclasses.asdict(attempt) | config.flat()
        kept = [held for held in self.attempts_of(attempt.trial_id) if held["attempt"] != attempt.attempt]
        schema = _schema_of([*kept, row], _ATTEMPT_COLUMNS | _config_columns())
        self._write_rows(self.trials_folder / f"{attempt.trial_id}.parquet", [*kept, row], schema)

    def epochs_of(self, trial_id: str) -> list[dict[str, Any]]:
        """The trial's rows of `epochs`, in order."""
        return self._rows(self.epochs_folder, trial_id, _EPOCH_KEY)

    def reported_epochs(self, trial_id: str) -> int:
        """How many epochs, from the first one on without a gap, have their row."""
        held = {row["epoch"] for row in self.epochs_of(trial_id)}
        reported = 0
        while reported + 1 in held:
            reported += 1
        return reported

    def add_epoch(self, trial_id: str, attempt: int, metrics: EpochMetrics) -> None:
        """Add the epoch's row, or replace it; rows whose weights are no longer on disk lose their `checkpoint`."""
        row: dict[str, Any] = {"trial_id": trial_id, "attempt": attempt} | metrics.row()
        row["checkpoint"] = None if metrics.checkpoint is None else f"checkpoints/{trial_id}/{metrics.checkpoint}"
        rows = [held for held in self.epochs_of(trial_id) if held["epoch"] != metrics.epoch]
        for held in rows:
            if held["epoch"] not in metrics.kept_epochs:
                held["checkpoint"] = None
        rows = sorted([*rows, row], key=lambda held: int(held["epoch"]))
        schema = _schema_of(rows, _EPOCH_COLUMNS)
        self._write_rows(self.epochs_folder / f"{trial_id}.parquet", rows, schema)

    def write_predictions(
        self,
        trial_id: str,
        epoch: int,
        *,
        images: Sequence[str],
        labels: Sequence[int],
        log_likelihood: Sequence[Sequence[float]],
    ) -> None:
        """Write log p(image | class), nats, images x classes, as columns log_p_0, log_p_1, ..."""
        columns: dict[str, pa.Array] = {
            "trial_id": pa.array([trial_id] * len(images), pa.string()),
            "epoch": pa.array([epoch] * len(images), pa.int32()),
            "image": pa.array(images, pa.string()),
            "label": pa.array(labels, pa.int64()),
        }
        for label, column in enumerate(zip(*log_likelihood, strict=True)):
            columns[f"log_p_{label}"] = pa.array(column, pa.float64())
        self._write_table(self.predictions_folder / f"{trial_id}-{epoch:04d}.parquet", pa.table(columns))

    def predictions_of(self, trial_id: str, epoch: int) -> pd.DataFrame:
        """The predictions of one epoch, for pandas. Raise StoreError where there are none."""
        frame: pd.DataFrame = self.predictions_table(trial_id, epoch).to_pandas()
        return frame

    def predictions_table(self, trial_id: str, epoch: int) -> pa.Table:
        """The predictions of one epoch. Raise StoreError where there are none."""
        path = self.predictions_folder / f"{trial_id}-{epoch:04d}.parquet"
        table, problem = _read(path, _PREDICTION_KEY)
        if table is None:
            raise StoreError(problem or f"{path}: not there")
        return table

    # --- all trials

    def trials(self) -> Table:
        """All attempts of all trials."""
        return self._all(self.trials_folder, _TRIALS)

    def latest_attempts(self) -> Table:
        """The last attempt of each trial, which tells its state."""
        table = self.trials()
        return Table(_last_of_each(table.columns, ("trial_id", "attempt"), ("trial_id",)), table.problems)

    def epochs(self, columns: Sequence[str] | None = None) -> Table:
        """Each epoch of each trial once, as its last attempt reported it.

        With `columns` only those, besides trial_id, attempt and epoch; one that no file has is missing.
        """
        wanted = None if columns is None else list(dict.fromkeys([*_EPOCH_KEY, *columns]))
        return self._all(self.epochs_folder, _EPOCHS, wanted)

    def epoch_columns(self) -> dict[str, pa.DataType]:
        """The columns that `epochs` has, by what the files' ends say of them."""
        found = dict(_EPOCH_COLUMNS)
        for file in sorted(self.epochs_folder.glob("*.parquet")):
            try:
                schema = pq.read_schema(file)
            except (OSError, pa.ArrowException):
                continue  # whoever reads the rows names it
            found |= {field.name: field.type for field in schema if field.name not in found}
        return found

    def compact(self, *, at_least: int = COMPACT_FROM) -> int:
        """Bring the rows of all ended trials into one file per table, where that replaces `at_least` files.

        Only for the one who holds the sweep. Return how many files were replaced.
        """
        trials = self.latest_attempts().columns
        ended = set(trials.filter(pc.is_in(trials["state"], pa.array(FINISHED)))["trial_id"].to_pylist())
        replaced = 0
        for folder, kind in ((self.epochs_folder, _EPOCHS), (self.trials_folder, _TRIALS)):
            own = {file.stem: file for file in folder.glob("*.parquet") if file.stem in ended}
            if len(own) < at_least:
                continue
            table = self._all(folder, kind)
            if any(str(file) in problem for problem in table.problems for file in [*own.values(), folder / COMPACTED]):
                continue  # a broken file keeps its place, for whoever can mend it
            rows = table.columns.filter(pc.is_in(table.columns["trial_id"], pa.array(sorted(ended)))).sort_by(
                [(name, "ascending") for name in kind.order]
            )
            self._write_table(folder / COMPACTED, rows)
            for file in own.values():
                file.unlink(missing_ok=True)
            replaced += len(own)
        return replaced

    def _all(self, folder: Path, kind: _Kind, columns: list[str] | None = None) -> Table:
        """All rows of a folder, each once, in order; those of the compacted file come first."""
        files = sorted(file for file in folder.glob("*.parquet") if file.name != COMPACTED)
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(lambda file: _read(file, kind.required, columns), files))
        problems = tuple(problem for _, problem in found if problem is not None)
        tables = {file: table for file, (table, _) in zip(files, found, strict=True) if table is not None}
        known = [name for name in kind.columns if columns is None or name in columns]
        empty = pa.table({name: pa.nulls(0, kind.columns[name]) for name in known})
        whole, clashes = _concatenate(empty, tables)
        whole = _last_of_each(whole, kind.order, kind.unique)
        compacted, problem = _read(folder / COMPACTED, kind.required, columns)
        if problem is not None:
            problems = (*problems, problem)
        if compacted is not None:
            if len(whole):
                newer = pc.is_in(compacted["trial_id"], whole["trial_id"].combine_chunks())
                compacted = compacted.filter(pc.invert(newer))
            whole, more = _concatenate(empty, {folder / COMPACTED: compacted, folder: whole})
            clashes += more
        return Table(whole, problems + clashes)

    def _rows(self, folder: Path, trial_id: str, required: tuple[str, ...]) -> list[dict[str, Any]]:
        path = folder / f"{trial_id}.parquet"
        table, problem = _read(path, required)
        if table is None and problem is not None and path.exists():
            # Whatever this is, the next write would bury it.
            path.replace(path.with_name(f"{path.name}.broken"))
        if table is None:
            table = _read_trial(folder / COMPACTED, trial_id)
        rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
        return rows

    def _write_rows(self, path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        self._write_table(path, pa.Table.from_pylist(rows, schema=schema))

    def _write_table(self, path: Path, table: pa.Table) -> None:
        metadata = {**(table.schema.metadata or {}), _SCHEMA_KEY: str(SCHEMA).encode()}
        self._write(path, lambda stream: pq.write_table(table.replace_schema_metadata(metadata), stream))

    def _write(self, path: Path, write: typing.Callable[[typing.BinaryIO], object]) -> None:
        try:
            write_atomically(path, write)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def sweeps(results: Path) -> list[Store]:
    """The sweeps under a results folder, by name."""
    found = results.iterdir() if results.is_dir() else ()
    return [Store(folder) for folder in sorted(found) if (folder / "trials").is_dir()]


def config_of(row: Mapping[str, Any]) -> TrialConfig:
    """The configuration in a row of `trials`. Raise ConfigError where it is none of today's."""
    names = field_names()
    flat = {name: row[name] for name in names if name in row}
    # A fusion's options are columns of all rows once one trial has them; in the other trials' rows they are null.
    options = {name: row[name] for name in row if name.startswith(OPTION_PREFIX) and row[name] is not None}
    return TrialConfig.from_flat(flat | options)


def _read(path: Path, required: Iterable[str], columns: list[str] | None = None) -> tuple[pa.Table | None, str | None]:
    try:
        # Not read_table(path): it goes through the dataset reader, which costs several times as much for a small file.
        file = pq.ParquetFile(path)
        there = file.schema_arrow.names
        missing = [name for name in required if name not in there]
        if missing:
            return None, f"{path}: a foreign file, passed over; it has no column {', '.join(missing)}"
        version = int((file.schema_arrow.metadata or {}).get(_SCHEMA_KEY, 1))
        if version > SCHEMA:
            return None, f"{path}: passed over; a newer version of this program wrote it (schema {version})"
        table = file.read(None if columns is None else [name for name in columns if name in there])
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, pa.ArrowException) as error:
        return None, f"{path}: not readable as Parquet, passed over ({str(error).splitlines()[0]})"
    return _migrated(table, version), None


def _migrated(table: pa.Table, version: int) -> pa.Table:
    """The table as version SCHEMA has it: each earlier version's step in turn."""
    for earlier in range(version, SCHEMA):
        table = _MIGRATIONS[earlier](table)
    return table.replace_schema_metadata(None)


# By the version that they start from. 2 only adds files; columns that it added are null in earlier rows anyway.
_MIGRATIONS: dict[int, typing.Callable[[pa.Table], pa.Table]] = {1: lambda table: table}


def _read_trial(path: Path, trial_id: str) -> pa.Table | None:
    try:
        # Sorted by trial, the file's own statistics lead to the few row groups that may hold it.
        return pq.read_table(path, filters=[("trial_id", "==", trial_id)]).replace_schema_metadata(None)
    except (OSError, pa.ArrowException):
        return None


def _last_of_each(table: pa.Table, order: Sequence[str], unique: Sequence[str]) -> pa.Table:
    """The rows in `order`, and of those that agree in `unique` the last."""
    if not len(table):
        return table
    table = table.sort_by([(name, "ascending") for name in order])
    changes = np.zeros(len(table), dtype=bool)
    changes[-1] = True
    for name in unique:
        changes[:-1] |= arrays.bools(pc.not_equal(table[name].slice(1), table[name].slice(0, len(table) - 1)))
    return table if changes.all() else table.filter(arrays.mask(changes))


def _concatenate(empty: pa.Table, tables: Mapping[Path, pa.Table]) -> tuple[pa.Table, tuple[str, ...]]:
    """All rows under the union of the columns; columns that a file lacks are null in its rows."""
    try:
        return pa.concat_tables([empty, *tables.values()], promote_options="permissive"), ()
    except pa.ArrowException:
        # One file's column has a type that does not go with the others': find it, and do without it.
        whole, clashes = empty, []
        for file, table in tables.items():
            try:
                whole = pa.concat_tables([whole, table], promote_options="permissive")
            except pa.ArrowException as error:
                clashes.append(f"{file}: a foreign file, passed over ({str(error).splitlines()[0]})")
        return whole, tuple(clashes)


def _schema_of(rows: Iterable[Mapping[str, Any]], known: Mapping[str, pa.DataType]) -> pa.Schema:
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
def _config_columns() -> dict[str, pa.DataType]:
    columns: dict[str, pa.DataType] = {}
    for section, info in TrialConfig.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            for name, field in info.annotation.model_fields.items():
                columns[f"{section}.{name}"] = _annotated(field.annotation)
        else:
            columns[section] = _annotated(info.annotation)
    return columns


_ATTEMPT_COLUMNS: dict[str, pa.DataType] = {
    name: _annotated(annotation) for name, annotation in typing.get_type_hints(Attempt).items()
}
_EPOCH_COLUMNS: dict[str, pa.DataType] = {"trial_id": pa.string(), "attempt": pa.int64()} | {
    name: _annotated(annotation)
    for name, annotation in typing.get_type_hints(EpochMetrics).items()
    if name not in {"kept_epochs", "extra"}
}


@dataclass(frozen=True)
class _Kind:
    """One of the two tables: the columns it must have and may have, its order, and what a row is unique by."""

    required: tuple[str, ...]
    columns: Mapping[str, pa.DataType]
    order: tuple[str, ...]
    unique: tuple[str, ...]  # the last row in order counts


_TRIALS = _Kind(_ATTEMPT_KEY, _ATTEMPT_COLUMNS, ("trial_id", "attempt"), ("trial_id", "attempt"))
_EPOCHS = _Kind(_EPOCH_KEY, _EPOCH_COLUMNS, ("trial_id", "epoch", "attempt"), ("trial_id", "epoch"))
