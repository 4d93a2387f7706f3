"""The results of one sweep as files: Parquet for what was measured, JSON for what was asked.

    sweep.json                     what was asked, by which code, on which machine
    trials/<trial_id>.parquet      one row per attempt at the trial
    epochs/<trial_id>.parquet      one row per epoch
    trials/compacted.parquet       the rows of many trials that have ended, likewise in epochs; their own files are gone
    predictions/<trial_id>-0003.parquet   log p(image | class) for each validation image, of one epoch
    checkpoints/<trial_id>/        weights and training state, the core's business
    samples/<trial_id>-0003.png    images drawn after an epoch, one row per class
    logs/<trial_id>.log            what the trial's process said
    set-aside/                     files of `trials` and `epochs` that could not be read

`trials` and `epochs` have one writer, the driver; a trial's process writes its predictions, log and checkpoints. Every
file is written under a temporary name and renamed, or behind a URL put there in one request, so a reader never sees
half of one, and a reader that meets a broken or foreign file names it and goes on. A trial's own file holds all its
rows, and counts before the compacted one: so a kill between writing the one and deleting the other loses nothing and
doubles nothing.

Where the folder is a URL, what must be a file on this machine (the study, a lock, a log that is being written, the
checkpoints of a trial in training) lies `near`, in the cache, and goes from there to the URL. Where it is on a file
system that machines share, the study alone is kept elsewhere, since its write-ahead log would not work there; a copy
lies in the folder.

`docs/results-schema.md` has every column with its unit.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import sqlite3
import types
import typing
import uuid
from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pydantic import BaseModel

from cpcnn_core.config import Scalar, TrialConfig, field_names
from cpcnn_core.errors import UserError
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records import arrays, location
from orchestrator.records.location import Folder, RemoteError, RemotePath, write_atomically
from orchestrator.records.states import ENDED, State

if TYPE_CHECKING:
    import pandas as pd  # takes a second to import, and who only asks for rows or columns does without

logger = logging.getLogger(__name__)

# What a file must have to be one of ours; columns that a later version added are null in an earlier one's rows.
_ATTEMPT_KEY = ("trial_id", "attempt", "state")
_EPOCH_KEY = ("trial_id", "attempt", "epoch")
_PREDICTION_KEY = ("trial_id", "epoch", "image", "label")

OPTION_PREFIX = "model.fusion_options."

COMPACTED = "compacted.parquet"  # no trial id: those have 12 hex digits
COMPACT_FROM = 256  # files of ended trials from which on the driver compacts

SCHEMA = 3
"""The version of the tables, `schema_version` in their metadata.

1 had none; 2 adds compacted files; 3 adds the states INTERRUPTED, PREEMPTED and STOPPED.
"""

_FOLDERS = ("trials", "epochs", "predictions", "checkpoints", "samples", "logs")
_LOCK_FOLDERS = ("tracking.locks",)
# What is there before the first trial runs.
_TO_BEGIN = re.compile(
    r"sweep\.json|study(-\d+)?\.db(-\w+)?|work\.txt|driver-\d+\.json|(driver|tracking)\.lock|tracking\.json"
)
_OF_A_TRIAL = re.compile(r"[0-9a-f]{12}\.(log|lock)")  # of one that came no further than to look whether it is alone
_STUDY_LOGS = ("-wal", "-shm", "-journal")

_SCHEMA_KEY = b"schema_version"
_NAMED = 5  # trials in a message
_UNREADABLE = "not readable as Parquet"
_MENDED = (
    "move it away; the sweep or trial command that the folder belongs to writes it anew, once it has seen that the "
    "rows are of the same data"
)
_READERS = 8  # threads; reading thousands of small files waits for the disk, not for the processor
_REMOTE_READERS = 32  # and much longer for a network
_WHOLE_BYTES = 32 * 2**20  # a file behind a URL up to which one request for all of it beats several for its parts
_EXPECTED = "expected"  # stands for the content of a file that is remembered whatever becomes of it
_REMEMBERED_BYTES = 64 * 2**20  # of such files that are kept in memory while they do not change


class StoreError(UserError):
    """Results that cannot be written or read; the message names the path."""


class NotThereError(StoreError):
    """Results that nobody has written."""


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
    """The folder of one sweep, on disk or behind a URL."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.trials_folder = folder / "trials"
        self.epochs_folder = folder / "epochs"
        self.predictions_folder = folder / "predictions"
        self.checkpoints_folder = folder / "checkpoints"
        self.samples_folder = folder / "samples"
        self.sweep_file = folder / "sweep.json"
        self.near = location.near(folder)
        self.fence: typing.Callable[[], None] | None = None
        """Called before each write; raises StoreError where somebody else has taken over."""
        self._remembered: dict[Folder, tuple[str, bytes]] = {}
        self._warned: set[Folder] = set()  # damaged files that were named already

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return isinstance(self.folder, RemotePath)

    @cached_property
    def study_file(self) -> Path:
        """The driver's study, on a disk of its machine; elsewhere than in the folder it is published there."""
        return location.own_disk(self.folder) / "study.db"

    @property
    def is_begun(self) -> bool:
        """Whether it was asked something, or a trial has left rows in it. Raise RemoteError."""
        tables = (self.trials_folder, self.epochs_folder)
        return self.sweep_file.is_file() or any(True for folder in tables for _ in folder.glob("*.parquet"))

    def patient(self) -> Store:
        """The same for a run that has work to lose: what fails behind a URL is tried again for a while."""
        if isinstance(self.folder, RemotePath):
            return Store(dataclasses.replace(self.folder, patience=location.PATIENCE_SECONDS))
        return self

    def create(self) -> None:
        """Make the folders, or see that the URL can be written to. Raise StoreError where that is not possible."""
        way = "; CPCNN_CACHE names another place" if self.is_remote else ""
        try:
            for name in _FOLDERS:
                (self.near / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.near}: cannot hold results: {error.strerror or error}{way}") from None
        if not os.access(self.near / "trials", os.W_OK):
            raise StoreError(f"{self.near}: cannot hold results: no permission to write{way}")
        if isinstance(self.folder, RemotePath):
            probe = self.folder / f".probe-{uuid.uuid4().hex}"
            try:
                probe.write_bytes(b"")
                probe.unlink(missing_ok=True)
            except RemoteError as error:
                raise StoreError(f"{self.folder}: cannot hold results: {error.strerror}") from None

    def remove(self) -> None:
        """Delete a sweep in which no trial has run: all that was written to get it going, and the folders once empty.

        Only for the one who holds the sweep. Raise RemoteError.
        """
        for folder in dict.fromkeys([self.folder, self.near, self.study_file.parent]):
            files = [folder / name for name in location.names(folder) if _TO_BEGIN.fullmatch(name)]
            location.remove([*files, folder / "logs" / "tracking.log"])
            for within in (folder / "logs", folder / "checkpoints"):
                location.remove([within / name for name in location.names(within) if _OF_A_TRIAL.fullmatch(name)])
        for here in dict.fromkeys([self.near, self.study_file.parent]):
            for made in (*(here / name for name in (*_FOLDERS, *_LOCK_FOLDERS)), here):
                with suppress(OSError):
                    made.rmdir()

    def checkpoint_folder(self, trial_id: str) -> Folder:
        """The folder that the trial's weights and training state are kept in."""
        return self.checkpoints_folder / trial_id

    def training_folder(self, trial_id: str) -> Path:
        """The folder on this machine in which the trial is trained: the same, or what is mirrored there."""
        return self.near / "checkpoints" / trial_id

    def samples_file(self, trial_id: str, epoch: int) -> Folder:
        """The picture of the images that were drawn after an epoch."""
        return self.samples_folder / f"{trial_id}-{epoch:04d}.png"

    def write_samples(self, trial_id: str, epoch: int, write: typing.Callable[[Path], object]) -> None:
        """Have `write` make the picture of what was drawn after an epoch. Raise StoreError."""
        file = self.samples_file(trial_id, epoch)
        if isinstance(file, Path):
            write(file)
            return
        with TemporaryDirectory() as folder:
            made = Path(folder) / file.name
            write(made)
            content = made.read_bytes()
        self._write(file, lambda stream: stream.write(content))

    def log_file(self, trial_id: str) -> Path:
        """The file on this machine that the trial's process writes its log to."""
        return self.near / "logs" / f"{trial_id}.log"

    def fetch_log(self, trial_id: str) -> None:
        """Go on with the log of an earlier attempt on another machine. Raise RemoteError."""
        here = self.log_file(trial_id)
        if isinstance(self.folder, RemotePath) and not here.exists():
            with suppress(FileNotFoundError):
                location.fetch(self.folder / "logs" / here.name, here)

    def publish_log(self, trial_id: str) -> None:
        """Put the log as it is now where the results are. Raise RemoteError."""
        here = self.log_file(trial_id)
        if isinstance(self.folder, RemotePath) and here.exists():
            # What comes next brings all of it again.
            there = dataclasses.replace(self.folder / "logs" / here.name, patience=0.0)
            there.write_bytes(here.read_bytes())

    def log_changed(self, trial_id: str) -> float | None:
        """When the log was written last, by the clock of where it lies; None where there is none to be had."""
        here = self.log_file(trial_id)
        try:
            if isinstance(self.folder, Path) or here.exists():
                return here.stat().st_mtime
            return dataclasses.replace(self.folder / "logs" / here.name, patience=0.0).modified()
        except OSError:
            return None

    def remove_leftovers(self) -> None:
        """Delete what writers that were killed left under temporary names; only for the one who holds the sweep."""
        for folder in (self.near, self.near / "trials", self.near / "epochs"):
            for file in folder.glob(".*.tmp"):
                file.unlink(missing_ok=True)

    def set_damaged_aside(self) -> list[str]:
        """Move compacted files that cannot be read to where they lie in no reader's way; a line on each.

        Only for the one who holds the sweep. A trial's own file keeps its place until another is written there.
        """
        said = []
        for folder, kind in ((self.trials_folder, _TRIALS), (self.epochs_folder, _EPOCHS)):
            _, problem = self._read(folder / COMPACTED, kind.required)
            if problem is not None and _UNREADABLE in problem:
                aside = self._set_aside(folder / COMPACTED)
                said.append(f"{problem}. It was moved to {aside}; trials whose rows were in it alone run again")
        return said

    def set_study_aside(self) -> None:
        """Give the study's files another name, so that the next one to open it starts a new one."""
        number = 1
        while (aside := self.study_file.with_name(f"study-{number}.db")).exists():
            number += 1
        for suffix in (*_STUDY_LOGS, ""):  # the log of what is not yet in the file goes with it
            file = self.study_file.with_name(self.study_file.name + suffix)
            if file.exists():
                file.replace(aside.with_name(aside.name + suffix))

    def publish_study(self) -> None:
        """Put a copy of the study, as it is now, where the results are. Raise StoreError."""
        there = self.folder / "study.db"
        if there == self.study_file or not self.study_file.exists():
            return
        if isinstance(there, RemotePath):
            there = dataclasses.replace(there, patience=0.0)  # nothing waits for it, nor shall it
        with TemporaryDirectory() as folder:
            copy = Path(folder) / "study.db"
            # Not the file's bytes: half of what the study knows may be in its write-ahead log.
            with closing(sqlite3.connect(self.study_file)) as held, closing(sqlite3.connect(copy)) as made:
                held.backup(made)
                made.execute("pragma journal_mode = delete")  # so that a reader need not write beside it
            content = copy.read_bytes()
        # Those of a file that had the name before would be taken for this one's.
        location.remove(there.parent / f"{there.name}{suffix}" for suffix in _STUDY_LOGS)
        self._write(there, lambda stream: stream.write(content))

    # --- what was asked

    def read_sweep(self) -> dict[str, Any] | None:
        """The content of sweep.json, None where there is none. Raise StoreError where it is broken."""
        try:
            content = json.loads(self.sweep_file.read_text())
        except FileNotFoundError:
            return None
        except RemoteError as error:
            raise StoreError(str(error)) from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.sweep_file}: not readable as JSON ({error}); {_MENDED}") from None
        if (strange := _strange(content)) is not None:
            raise StoreError(f"{self.sweep_file}: {strange}; {_MENDED}")
        held: dict[str, Any] = content
        return held

    def sweep_problems(self) -> list[str]:
        """What is wrong with sweep.json, for a reader who does without it."""
        try:
            self.read_sweep()
        except StoreError as error:
            return [str(error)]
        return []

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
        self.write_attempts([attempt], config)

    def write_attempts(self, attempts: Sequence[Attempt], config: TrialConfig) -> None:
        """Add or replace several rows of one trial at once, so that no kill comes between them."""
        earlier = self._rows(self.trials_folder, config.trial_id, _ATTEMPT_KEY, to_write=True)
        rows = {held["attempt"]: held for held in earlier}
        rows |= {attempt.attempt: dataclasses.asdict(attempt) | config.flat() for attempt in attempts}
        # The options of other trials' fusions, columns of the compacted file, are null in this one's rows.
        ordered = [
            {
                name: value
                for name, value in rows[attempt].items()
                if value is not None or not name.startswith(OPTION_PREFIX)
            }
            for attempt in sorted(rows)
        ]
        schema = _schema_of(ordered, _ATTEMPT_COLUMNS | _config_columns())
        self._write_rows(self.trials_folder / f"{config.trial_id}.parquet", ordered, schema)

    def epochs_of(self, trial_id: str) -> list[dict[str, Any]]:
        """The trial's rows of `epochs`, in order."""
        return self._rows(self.epochs_folder, trial_id, _EPOCH_KEY)

    def reported_epochs(self, trial_id: str) -> int:
        """How many epochs, from the first one on without a gap, have their row."""
        return without_a_gap({int(row["epoch"]) for row in self.epochs_of(trial_id)})

    def add_epoch(self, trial_id: str, attempt: int, metrics: EpochMetrics) -> None:
        """Add the epoch's row, or replace it; rows whose weights are no longer on disk lose their `checkpoint`."""
        row: dict[str, Any] = {"trial_id": trial_id, "attempt": attempt} | metrics.row()
        row["checkpoint"] = None if metrics.checkpoint is None else f"checkpoints/{trial_id}/{metrics.checkpoint}"
        earlier = self._rows(self.epochs_folder, trial_id, _EPOCH_KEY, to_write=True)
        rows = [held for held in earlier if held["epoch"] != metrics.epoch]
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
        self._write_table(self._predictions_file(trial_id, epoch), pa.table(columns))

    def predictions_of(self, trial_id: str, epoch: int) -> pd.DataFrame:
        """The predictions of one epoch, for pandas. Raise StoreError where there are none."""
        frame: pd.DataFrame = self.predictions_table(trial_id, epoch).to_pandas()
        return frame

    def predictions_table(self, trial_id: str, epoch: int) -> pa.Table:
        """The predictions of one epoch. Raise StoreError where there are none."""
        path = self._predictions_file(trial_id, epoch)
        table, problem = self._read(path, _PREDICTION_KEY, tag=_EXPECTED if path in self._remembered else None)
        if table is None:
            raise StoreError(problem) if problem else NotThereError(f"{path}: not there")
        return table

    def expect_predictions(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Fetch what lies behind a URL of these trials' epochs all at once, for `predictions_table`."""

        def fetch(file: RemotePath) -> None:
            with suppress(FileNotFoundError):
                self._content(file, _EXPECTED)

        files = [self._predictions_file(trial_id, epoch) for trial_id, epoch in wanted]
        try:
            with ThreadPoolExecutor(_REMOTE_READERS) as pool:
                list(pool.map(fetch, (file for file in files if isinstance(file, RemotePath))))
        except RemoteError as error:
            raise StoreError(str(error)) from error

    def _predictions_file(self, trial_id: str, epoch: int) -> Folder:
        return self.predictions_folder / f"{trial_id}-{epoch:04d}.parquet"

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
        for file, tag in self._files(self.epochs_folder):
            try:
                schema = self._schema(file, tag)
            except RemoteError as error:
                raise StoreError(str(error)) from None
            except (OSError, pa.ArrowException):
                continue  # whoever reads the rows names it
            found |= {field.name: field.type for field in schema if field.name not in found}
        return found

    def orphans(self, trials: pa.Table, epochs: pa.Table) -> list[str]:
        """A line on the trials that have epochs and no row in `trials`, of which nobody knows what was trained."""
        without = pc.invert(pc.is_in(epochs["trial_id"], trials["trial_id"].combine_chunks()))
        if not pc.any(without).as_py():
            return []
        # One that began after `trials` was read has its row by now.
        there = set(self.latest_attempts().columns["trial_id"].to_pylist())
        lost = [name for name in epochs["trial_id"].filter(without).unique().to_pylist() if name not in there]
        if not lost:
            return []
        names = f"{', '.join(lost[:_NAMED])}{f' and {len(lost) - _NAMED} others' if len(lost) > _NAMED else ''}"
        way_out = "the command that ran such a trial writes its row again"
        return [f"{self.trials_folder}: has no row of {names}, whose epochs are passed over; {way_out}"]

    def has_epochs(self) -> bool:
        """Whether any trial has finished an epoch."""
        return bool(self._files(self.epochs_folder))

    def compact(self, *, at_least: int = COMPACT_FROM) -> int:
        """Bring the rows of all ended trials into one file per table, where that replaces `at_least` files.

        Only for the one who holds the sweep. Return how many files were replaced.
        """
        trials = self.latest_attempts().columns
        ended = set(trials.filter(pc.is_in(trials["state"], pa.array(ENDED)))["trial_id"].to_pylist())
        replaced = 0
        for folder, kind in ((self.epochs_folder, _EPOCHS), (self.trials_folder, _TRIALS)):
            own = {file.stem: file for file, _ in self._files(folder) if file.stem in ended}
            if len(own) < at_least:
                continue
            table = self._all(folder, kind)
            if any(str(file) in problem for problem in table.problems for file in [*own.values(), folder / COMPACTED]):
                continue  # a broken file keeps its place, for whoever can mend it
            rows = table.columns.filter(pc.is_in(table.columns["trial_id"], pa.array(sorted(ended)))).sort_by(
                [(name, "ascending") for name in kind.order]
            )
            self._write_table(folder / COMPACTED, rows)
            location.remove(own.values())
            replaced += len(own)
        return replaced

    def _all(self, folder: Folder, kind: _Kind, columns: list[str] | None = None) -> Table:
        """All rows of a folder, each once, in order; those of the compacted file come first."""
        tags = dict(self._files(folder))
        files = [file for file in tags if file.name != COMPACTED]
        with ThreadPoolExecutor(_REMOTE_READERS if self.is_remote else _READERS) as pool:
            found = list(pool.map(lambda file: self._read(file, kind.required, columns, tags[file]), files))
        problems = tuple(problem for _, problem in found if problem is not None)
        tables = {file: table for file, (table, _) in zip(files, found, strict=True) if table is not None}
        known = [name for name in kind.columns if columns is None or name in columns]
        empty = pa.table({name: pa.nulls(0, kind.columns[name]) for name in known})
        whole, clashes = _concatenate(empty, tables)
        whole = _last_of_each(whole, kind.order, kind.unique)
        compacted, problem = None, None
        if isinstance(folder, Path) or folder / COMPACTED in tags:
            compacted, problem = self._read(folder / COMPACTED, kind.required, columns)
        if problem is not None:
            problems = (*problems, problem)
        if compacted is not None:
            if len(whole):
                newer = pc.is_in(compacted["trial_id"], whole["trial_id"].combine_chunks())
                compacted = compacted.filter(pc.invert(newer))
            whole, more = _concatenate(empty, {folder / COMPACTED: compacted, folder: whole})
            clashes += more
        return Table(whole, problems + clashes)

    def _rows(
        self, folder: Folder, trial_id: str, required: tuple[str, ...], *, to_write: bool = False
    ) -> list[dict[str, Any]]:
        path = folder / f"{trial_id}.parquet"
        table, problem = self._read(path, required)
        if table is None and problem is not None and to_write:
            aside = self._set_aside(path)  # whatever this is, the next write would bury it
            logger.warning("%s It was moved to %s", f"{problem.rstrip('.')}.", aside)
        if table is None:
            table = self._read_trial(folder / COMPACTED, trial_id)
        rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
        return rows

    def _set_aside(self, path: Folder) -> Folder:
        """Move a file to where no reader of a whole folder meets it. Return its new place."""
        number = 1
        while (aside := self.folder / "set-aside" / f"{path.parent.name}-{path.stem}-{number}{path.suffix}").is_file():
            number += 1
        if isinstance(path, Path) and isinstance(aside, Path):
            aside.parent.mkdir(exist_ok=True)
            path.replace(aside)
        else:
            aside.write_bytes(path.read_bytes())
            path.unlink()
        return aside

    def _write_rows(self, path: Folder, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        self._write_table(path, pa.Table.from_pylist(rows, schema=schema))

    def _write_table(self, path: Folder, table: pa.Table) -> None:
        metadata = {**(table.schema.metadata or {}), _SCHEMA_KEY: str(SCHEMA).encode()}
        self._write(path, lambda stream: pq.write_table(table.replace_schema_metadata(metadata), stream))

    def _write(self, path: Folder, write: typing.Callable[[typing.BinaryIO], object]) -> None:
        if self.fence is not None:
            self.fence()
        try:
            write_atomically(path, write)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _files(self, folder: Folder) -> list[tuple[Folder, str | None]]:
        """The Parquet files in a folder, in order; behind a URL each with what tells one content from another."""
        if isinstance(folder, Path):
            return [(file, None) for file in sorted(folder.glob("*.parquet"))]
        try:
            return [(folder / name, tag) for name, tag in folder.listing().items() if name.endswith(".parquet")]
        except RemoteError as error:
            raise StoreError(str(error)) from None

    def _read(
        self, path: Folder, required: Iterable[str], columns: list[str] | None = None, tag: str | None = None
    ) -> tuple[pa.Table | None, str | None]:
        """A file's rows, or why there are none; neither where it is not there. Raise StoreError out of reach."""
        try:
            with self._opened(path, tag) as file:
                there = file.schema_arrow.names
                missing = [name for name in required if name not in there]
                if missing:
                    return None, f"{path}: a foreign file, passed over; it has no column {', '.join(missing)}"
                version = _version(file.schema_arrow)
                if version > SCHEMA:
                    return None, f"{path}: passed over; a newer version of this program wrote it (schema {version})"
                # Columns may have had other names in a version from which there are steps.
                whole = columns is None or any(step.concerns(there) for step in _steps(version))
                table = file.read(None if whole else [name for name in columns or () if name in there])
        except FileNotFoundError:
            return None, None
        except RemoteError as error:
            raise StoreError(str(error)) from error
        except (OSError, ValueError, pa.ArrowException) as error:
            return None, f"{path}: {_UNREADABLE}, passed over ({str(error).splitlines()[0]})"
        table = _migrated(table, version)
        return table if columns is None else table.select(
            [name for name in columns if name in table.column_names]
        ), None

    def _read_trial(self, path: Folder, trial_id: str) -> pa.Table | None:
        """The rows of one trial in a compacted file, None where there is no such file."""
        chosen = [("trial_id", "==", trial_id)]
        try:
            # Sorted by trial, the file's own statistics lead to the few row groups that may hold it.
            if isinstance(path, Path):
                table = pq.read_table(path, filters=chosen)
            else:
                with path.open() as stream:
                    table = pq.read_table(stream, filters=chosen)
            return _migrated(table, _version(table.schema))
        except RemoteError as error:
            raise StoreError(str(error)) from error
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            if path not in self._warned:  # else each epoch of a trial would say it
                self._warned.add(path)
                logger.warning("%s: %s, passed over (%s)", path, _UNREADABLE, str(error).splitlines()[0])
            return None

    def _schema(self, path: Folder, tag: str | None) -> pa.Schema:
        if isinstance(path, Path):
            schema = pq.read_schema(path)
        else:
            with self._opened(path, tag) as file:
                schema = file.schema_arrow
        version = _version(schema)
        return schema if version >= SCHEMA else _migrated(schema.empty_table(), version).schema

    @contextmanager
    def _opened(self, path: Folder, tag: str | None) -> Generator[pq.ParquetFile]:
        if isinstance(path, Path):
            # Not read_table(path): it goes through the dataset reader, which costs several times as much for a small
            # file.
            with pq.ParquetFile(path) as file:
                yield file
        elif tag is None and path.name == COMPACTED and (location.size(path) or 0) > _WHOLE_BYTES:
            with path.open() as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
                yield file
        else:
            with pq.ParquetFile(pa.BufferReader(self._content(path, tag))) as file:
                yield file

    def _content(self, path: RemotePath, tag: str | None) -> bytes:
        if tag is None:
            return path.read_bytes()
        held = self._remembered.get(path)
        if held is not None and held[0] == tag:
            return held[1]
        content = path.read_bytes()
        if len(content) + sum(len(kept) for _, kept in list(self._remembered.values())) < _REMEMBERED_BYTES:
            self._remembered[path] = (tag, content)
        return content


def without_a_gap(epochs: Container[int]) -> int:
    """How many of the epochs there are, from the first one on without a gap."""
    reported = 0
    while reported + 1 in epochs:
        reported += 1
    return reported


def sweeps(results: Folder) -> list[Store]:
    """The sweeps under a results folder, by name. Raise StoreError where it is out of reach."""
    try:
        found: list[Folder] = sorted(results.iterdir(), key=str) if results.is_dir() else []
        # One that was killed before it had begun is none yet.
        return [store for store in map(Store, found) if store.is_begun]
    except RemoteError as error:
        raise StoreError(str(error)) from None


def config_of(row: Mapping[str, Any]) -> TrialConfig:
    """The configuration in a row of `trials`. Raise ConfigError where it is none of today's."""
    names = field_names()
    flat = {name: row[name] for name in names if name in row}
    # A fusion's options are columns of all rows once one trial has them; in the other trials' rows they are null.
    options = {name: row[name] for name in row if name.startswith(OPTION_PREFIX) and row[name] is not None}
    return TrialConfig.from_record(flat | options)


def _strange(sweep: Any) -> str | None:
    """What keeps the content of sweep.json from being read as one; None where nothing does."""
    if not isinstance(sweep, dict):
        return "holds no JSON object"
    asked, runs = sweep.get("asked", {}), sweep.get("runs", [])
    if not isinstance(asked, dict) or not isinstance(asked.get("settings", {}), dict):
        return "`asked` is no object with settings"
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        return "`runs` is no list of objects"
    return None


def _version(schema: pa.Schema) -> int:
    return int((schema.metadata or {}).get(_SCHEMA_KEY, 1))


@dataclass(frozen=True)
class Migration:
    """What makes a table of the next version of one that has all of the columns `reads`; others stay as they are."""

    reads: tuple[str, ...]
    step: typing.Callable[[pa.Table], pa.Table]

    def concerns(self, columns: Container[str]) -> bool:
        return all(name in columns for name in self.reads)


def _steps(version: int) -> list[Migration]:
    """The steps from a version to SCHEMA."""
    return [_MIGRATIONS[earlier] for earlier in range(version, SCHEMA) if earlier in _MIGRATIONS]


def _migrated(table: pa.Table, version: int) -> pa.Table:
    """The table as version SCHEMA has it: each earlier version's step in turn."""
    for migration in _steps(version):
        if migration.concerns(table.column_names):
            table = migration.step(table)
    return table.replace_schema_metadata(None)


def _with_interruptions(table: pa.Table) -> pa.Table:
    """In version 2 what had been cut short was FAILED, PRUNED or still RUNNING, and its reason said what it was."""
    if "stopped" not in table.column_names:  # of version 1
        table = table.append_column("stopped", pa.nulls(len(table), pa.string()))
    state, error, stopped = (table[name].cast(pa.string()) for name in ("state", "error", "stopped"))
    died = pc.or_(
        pc.starts_with(pc.fill_null(error, ""), "interrupted: "),
        pc.ends_with(pc.fill_null(error, ""), "(the trial was started again)"),
    )
    died = pc.and_(died, pc.is_in(state, pa.array(["FAILED", "RUNNING"])))
    cut = pc.and_(
        pc.equal(state, "PRUNED"), pc.starts_with(pc.fill_null(stopped, ""), "the sweep's budget was spent: ")
    )
    for name, column in {
        "state": pc.if_else(pc.or_(died, cut), "INTERRUPTED", state),
        "stopped": pc.if_else(died, error, stopped),
        "error": pc.if_else(died, pa.scalar(None, pa.string()), error),
    }.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


# By the version that they start from. None starts from 1: 2 only adds files, and columns that it added are null in
# earlier rows anyway.
_MIGRATIONS: dict[int, Migration] = {2: Migration(("state", "error"), _with_interruptions)}


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


def _concatenate(empty: pa.Table, tables: Mapping[Folder, pa.Table]) -> tuple[pa.Table, tuple[str, ...]]:
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
