"""The version of the tables, and what makes a table of this version of one of an earlier release."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from orchestrator.records.columns import TIME

SCHEMA = 4
"""The version of the tables, `schema_version` in their metadata.

1 had none; 2 adds compacted files; 3 adds the states INTERRUPTED, PREEMPTED and STOPPED; 4 has times with their zone
where there were texts, and the same columns in each file of a sweep.
"""

_SCHEMA_KEY = b"schema_version"


def version_of(schema: pa.Schema) -> int:
    """The version that a file was written in."""
    return int((schema.metadata or {}).get(_SCHEMA_KEY, 1))


def stamped(table: pa.Table) -> pa.Table:
    """The table with this version in its metadata."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _SCHEMA_KEY: str(SCHEMA).encode()})


@dataclass(frozen=True)
class Migration:
    """What makes a table of the next version of one that has all of the columns `reads`; others stay as they are."""

    reads: tuple[str, ...]
    step: Callable[[pa.Table], pa.Table]

    def concerns(self, columns: Container[str]) -> bool:
        """Whether it has a table with these columns to change."""
        return all(name in columns for name in self.reads)


def steps(version: int) -> list[Migration]:
    """The steps from a version to SCHEMA."""
    return [_MIGRATIONS[earlier] for earlier in range(version, SCHEMA) if earlier in _MIGRATIONS]


def migrated(table: pa.Table, version: int) -> pa.Table:
    """The table as version SCHEMA has it: each earlier version's step in turn."""
    for migration in steps(version):
        if migration.concerns(table.column_names):
            table = migration.step(table)
    return table.replace_schema_metadata(None)


def columns_of(schema: pa.Schema) -> pa.Schema:
    """The columns that a file of this or an earlier version has when it is read."""
    version = version_of(schema)
    return schema if version >= SCHEMA else migrated(schema.empty_table(), version).schema


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


def _with_times(table: pa.Table) -> pa.Table:
    """In version 3 a time was a text, ISO 8601 in UTC."""
    for name in ("started", "ended"):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(TIME))
    return table


# By the version that they start from. None starts from 1: 2 only adds files, and columns that it added are null in
# earlier rows anyway.
_MIGRATIONS: dict[int, Migration] = {
    2: Migration(("state", "error"), _with_interruptions),
    3: Migration(("started",), _with_times),
}
