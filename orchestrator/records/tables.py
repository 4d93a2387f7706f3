"""The two tables of a sweep, `trials` and `epochs`: a file for each trial, and one of many that have ended.

They have one writer, the driver. A trial's own file holds all its rows, and counts before the compacted one: so a kill
between writing the one and deleting the other loses nothing and doubles nothing. A reader that meets a broken or
foreign file names it and goes on.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records import arrays, layout, migrations, schema
from orchestrator.records.columns import EPOCH_COLUMNS, EPOCH_KEY, EPOCHS, TRIALS, Attempt, Kind, Row, as_int
from orchestrator.records.errors import StoreError
from orchestrator.records.location import RemoteError
from orchestrator.records.parquet_files import UNREADABLE, ParquetFiles
from orchestrator.records.place import Place
from orchestrator.records.states import ENDED, meaning_of

if TYPE_CHECKING:
    import pandas as pd  # takes a second to import, and who only asks for rows or columns does without

logger = logging.getLogger(__name__)

COMPACT_FROM = 256  # files of ended trials from which on the driver compacts

Turn: TypeAlias = Callable[[str], AbstractContextManager[bool]]
"""Says, by the name of a trial's file, whether its rows may be written, and keeps others from it meanwhile."""

_NAMED = 5  # trials in a message


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

    def rows(self) -> list[Row]:
        """The rows as plain mappings, None where a value is null."""
        return arrays.rows(self.columns)


class Tables:
    """`trials` and `epochs`."""

    def __init__(self, place: Place, files: ParquetFiles) -> None:
        self._place = place
        self._files = files
        self._there: dict[str, schema.Columns] = {}  # by table: the columns that the folder's files have

    # --- one trial

    def attempts_of(self, trial_id: str) -> list[Row]:
        """The trial's rows of `trials`, first attempt first, each with its configuration; none where it never ran."""
        return self._rows(TRIALS, trial_id)

    def write_attempts(self, attempts: Sequence[Attempt], config: TrialConfig) -> None:
        """Add or replace several rows of one trial at once, so that no kill comes between them."""
        rows: dict[int, Row] = {}
        for earlier in self._rows(TRIALS, config.trial_id, to_write=True):
            rows[as_int(earlier["attempt"])] = earlier
        for attempt in attempts:
            rows[attempt.attempt] = dataclasses.asdict(attempt) | config.flat()
        self._write(TRIALS, config.trial_id, [rows[number] for number in sorted(rows)])

    def epochs_of(self, trial_id: str) -> list[Row]:
        """The trial's rows of `epochs`, in order."""
        return self._rows(EPOCHS, trial_id)

    def reported_epochs(self, config: TrialConfig) -> int:
        """The last epoch up to which, from the trial's first one on without a gap, each has its row."""
        epochs = {as_int(row["epoch"]) for row in self.epochs_of(config.trial_id)}
        return without_a_gap(epochs, config.lineage.epochs_before)

    def add_epoch(self, trial_id: str, attempt: int, metrics: EpochMetrics) -> None:
        """Add the epoch's row, or replace it; rows whose weights are no longer on disk lose their `checkpoint`."""
        kept = None if metrics.checkpoint is None else f"{layout.checkpoints_of(trial_id)}/{metrics.checkpoint}"
        row: Row = {"trial_id": trial_id, "attempt": attempt, **metrics.row(), "checkpoint": kept}
        others = [
            other if other["epoch"] in metrics.kept_epochs else {**other, "checkpoint": None}
            for other in self._rows(EPOCHS, trial_id, to_write=True)
            if other["epoch"] != metrics.epoch
        ]
        rows = sorted([*others, row], key=lambda each: as_int(each["epoch"]))
        self._write(EPOCHS, trial_id, rows)

    def forget_weights(self, trial_id: str, epoch: int) -> None:
        """Have the epoch's row say that its weights are no longer on disk."""
        rows = [
            {**row, "checkpoint": None} if row["epoch"] == epoch else row
            for row in self._rows(EPOCHS, trial_id, to_write=True)
        ]
        self._write(EPOCHS, trial_id, rows)

    # --- all trials

    def trials(self) -> Table:
        """All attempts of all trials."""
        return self._all(TRIALS)

    def trial_ids(self) -> list[str]:
        """The ids of the trials that have a row: the names of their files, and those of the compacted one."""
        listed = self._place.tables(TRIALS.folder)
        own = [PurePosixPath(name).stem for name in listed if name != TRIALS.compacted]
        together = None
        if self._place.may_have(TRIALS.compacted, listed):
            together, _ = self._files.read(TRIALS.compacted, TRIALS.required, ["trial_id"])
        return list(dict.fromkeys([*own, *([] if together is None else map(str, together["trial_id"].to_pylist()))]))

    def latest_attempts(self) -> Table:
        """The last attempt of each trial, which tells its state."""
        table = self.trials()
        return Table(_last_of_each(table.columns, ("trial_id", "attempt"), ("trial_id",)), table.problems)

    def epochs(self, columns: Sequence[str] | None = None) -> Table:
        """Each epoch of each trial once, as its last attempt reported it.

        With `columns` only those, besides trial_id, attempt and epoch; one that no file has is missing.
        """
        wanted = None if columns is None else list(dict.fromkeys([*EPOCH_KEY, *columns]))
        return self._all(EPOCHS, wanted)

    def epoch_columns(self) -> dict[str, pa.DataType]:
        """The columns that `epochs` has, by what the files' ends say of them."""
        columns = dict(EPOCH_COLUMNS)
        for _, each in self._schemas(EPOCHS):
            there = schema.columns_in(migrations.columns_of(each))
            columns |= {name: kind for name, kind in there.items() if name not in columns}
        return columns

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
        return [f"{self._place.path(layout.TRIALS)}: has no row of {names}, whose epochs are passed over; {way_out}"]

    def has_epochs(self) -> bool:
        """Whether any trial has finished an epoch."""
        return bool(self._place.tables(layout.EPOCHS))

    def compact(self, *, at_least: int = COMPACT_FROM) -> int:
        """Bring the rows of all ended trials into one file per table, where that replaces `at_least` files.

        Only for the one who holds the sweep. Return how many files were replaced.
        """
        trials = self.latest_attempts().columns
        ended = set(trials.filter(pc.is_in(trials["state"], pa.array(ENDED)))["trial_id"].to_pylist())
        replaced = 0
        for kind in (EPOCHS, TRIALS):
            own = [name for name in self._place.tables(kind.folder) if PurePosixPath(name).stem in ended]
            if len(own) < at_least:
                continue
            table = self._all(kind)
            concerned = [str(self._place.path(name)) for name in [*own, kind.compacted]]
            if any(path in problem for problem in table.problems for path in concerned):
                continue  # a broken file keeps its place, for whoever can mend it
            rows = table.columns.filter(pc.is_in(table.columns["trial_id"], pa.array(sorted(ended)))).sort_by(
                [(name, "ascending") for name in kind.order]
            )
            self._files.write(kind.compacted, schema.conformed(rows, self._schema(kind, _types(rows))))
            self._place.remove(own)
            replaced += len(own)
        return replaced

    def unify(self, turn: Turn = lambda _: nullcontext(True)) -> list[str]:
        """Write files anew that have other columns than this version gives them; a line on each that cannot be.

        Earlier releases, and those who had other fusions registered, wrote other ones; and readers that know nothing of
        us go by the first file of a folder. Only for the one who holds the sweep, or with a `turn` for each trial.
        Trials that are run by hand at this moment are left alone: they have another writer.
        """
        problems: list[str] = []
        busy: frozenset[str] | None = None
        for kind in (TRIALS, EPOCHS):
            schemas = [each for each in self._schemas(kind) if set(kind.required) <= set(each[1].names)]
            there: dict[str, pa.DataType] = {}
            for _, each in schemas:
                there |= schema.columns_in(migrations.columns_of(each))
            self._there[kind.folder] = there
            wanted = schema.schema_of(kind, there)
            for name in [name for name, each in schemas if not each.equals(wanted)]:
                busy = self._running_by_hand() if busy is None else busy
                trial_id = PurePosixPath(name).stem
                with turn(trial_id) as may:
                    if may and trial_id not in busy:
                        problems += self._conform(kind, name, wanted)
        return problems

    def _conform(self, kind: Kind, name: str, wanted: pa.Schema) -> Iterable[str]:
        table, problem = self._files.read(name, kind.required)
        if table is None:
            return [] if problem is None else [problem]
        try:
            self._files.write(name, schema.conformed(schema.expanded(table), wanted))
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            return [f"{self._place.path(name)}: has columns that do not go with the other files' ({reason})"]
        return []

    def _running_by_hand(self) -> frozenset[str]:
        latest = self.latest_attempts().rows()
        return frozenset(str(row["trial_id"]) for row in latest if row["number"] is None and _runs(row))

    def set_damaged_aside(self) -> list[str]:
        """Move compacted files that cannot be read to where they lie in no reader's way; a line on each.

        Only for the one who holds the sweep. A trial's own file keeps its place until another is written there.
        """
        lines = []
        for kind in (TRIALS, EPOCHS):
            _, problem = self._files.read(kind.compacted, kind.required)
            if problem is not None and UNREADABLE in problem:
                aside = self._place.path(layout.set_aside(self._place, kind.compacted))
                lines.append(f"{problem}. It was moved to {aside}; trials whose rows were in it alone run again")
        return lines

    def _all(self, kind: Kind, columns: list[str] | None = None) -> Table:
        """All rows of a folder, each once, in order; those of the compacted file come first."""
        asked = columns
        if asked is not None and kind is EPOCHS and not set(asked) <= set(EPOCH_COLUMNS):
            columns = [*asked, schema.UNDECLARED]
        tags = self._place.tables(kind.folder)
        files = [name for name in tags if name != kind.compacted]
        with ThreadPoolExecutor(self._place.readers) as pool:
            found = list(pool.map(lambda name: self._files.read(name, kind.required, columns, tags[name]), files))
        problems = tuple(problem for _, problem in found if problem is not None)
        tables = {
            str(self._place.path(name)): table
            for name, (table, _) in zip(files, found, strict=True)
            if table is not None
        }
        known = [name for name in kind.columns if columns is None or name in columns]
        empty = pa.table({name: pa.nulls(0, kind.columns[name]) for name in known})
        whole, clashes = _concatenate(empty, tables)
        whole = _last_of_each(whole, kind.order, kind.unique)
        compacted, problem = None, None
        if self._place.may_have(kind.compacted, tags):
            compacted, problem = self._files.read(kind.compacted, kind.required, columns)
        if problem is not None:
            problems = (*problems, problem)
        if compacted is not None:
            if len(whole):
                newer = pc.is_in(compacted["trial_id"], whole["trial_id"].combine_chunks())
                compacted = compacted.filter(pc.invert(newer))
            compacted_path, whole_path = (str(self._place.path(name)) for name in (kind.compacted, kind.folder))
            whole, more = _concatenate(empty, {compacted_path: compacted, whole_path: whole})
            clashes += more
        whole = schema.expanded(whole)
        if asked is not None:
            whole = whole.select([name for name in whole.column_names if name in asked])
        return Table(whole, problems + clashes)

    def _rows(self, kind: Kind, trial_id: str, *, to_write: bool = False) -> list[Row]:
        name = layout.rows_of(kind.folder, trial_id)
        table, problem = self._files.read(name, kind.required)
        if table is None and problem is not None and to_write:
            # Whatever this is, the next write would bury it.
            aside = self._place.path(layout.set_aside(self._place, name))
            logger.warning("%s It was moved to %s", f"{problem.rstrip('.')}.", aside)
        if table is None:
            table = self._files.read_trial(kind.compacted, trial_id)
        return [] if table is None else arrays.rows(schema.expanded(table))

    def _write(self, kind: Kind, trial_id: str, rows: Sequence[Row]) -> None:
        table = schema.table_of(rows, self._schema(kind, schema.types_in(rows)))
        self._files.write(layout.rows_of(kind.folder, trial_id), table)

    def _schema(self, kind: Kind, needed: schema.Columns) -> pa.Schema:
        """What a file of the table is written with: what this process knows of, and what the folder has already."""
        if kind.folder not in self._there:
            first = next((each for _, each in self._schemas(kind) if set(kind.required) <= set(each.names)), None)
            there = {} if first is None else schema.columns_in(migrations.columns_of(first))
            self._there[kind.folder] = there
        return schema.schema_of(kind, {**self._there[kind.folder], **needed})

    def _schemas(self, kind: Kind) -> Iterator[tuple[str, pa.Schema]]:
        """The files of a table that can be read, each with the columns that it was written with."""
        for name, tag in self._place.tables(kind.folder).items():
            try:
                each = self._place.schema(name, tag)
            except RemoteError as error:
                raise StoreError(str(error)) from None
            except (OSError, pa.ArrowException):
                continue  # whoever reads the rows names it
            if migrations.version_of(each) <= migrations.SCHEMA:
                yield name, each


def without_a_gap(epochs: Container[int], before: int = 0) -> int:
    """The last epoch up to which all are there, from the one after `before` on."""
    reported = before
    while reported + 1 in epochs:
        reported += 1
    return reported


def _runs(row: Row) -> bool:
    return meaning_of(row["state"]).runs


def _types(table: pa.Table) -> schema.Columns:
    return {field.name: field.type for field in table.schema}


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


def _concatenate(empty: pa.Table, tables: Mapping[str, pa.Table]) -> tuple[pa.Table, tuple[str, ...]]:
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
