"""The schema that all files of a table are written with, so that any reader of Parquet gets a folder whole.

Such readers go by the first file of a folder. So each file has the options of every registered fusion and what each of
them logs, null where a trial's own is another. What nobody has declared lies in one more column, a map.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from orchestrator.records.columns import EPOCHS, OPTION_PREFIX, TRIALS, Kind, Row, config_columns, types_of
from orchestrator.records.errors import StoreError

if TYPE_CHECKING:
    from cpcnn_core.fusion import Fusion  # takes torch, which readers of results do without

Columns: TypeAlias = Mapping[str, pa.DataType]

UNDECLARED = "extra"
"""The column of `epochs` for metrics that no fusion has declared: name -> value."""

_MAP = pa.map_(pa.string(), pa.float64())
_NAMES = b"extra"  # in a file's metadata: the keys in that column, so that they need not be read to be known
_OF_CLASS = re.compile(r"(val_acc|fid)\.(.+)", re.DOTALL)


def schema_of(kind: Kind, there: Columns) -> pa.Schema:
    """What each file of the table has, where one has the columns `there`.

    Raise StoreError where a fusion's option has no type that a column can have.
    """
    from cpcnn_core.fusion import FUSIONS

    declared = dict(_declared(kind.folder, tuple(FUSIONS.items())))
    classes = sorted({match[2] for name in there if (match := _OF_CLASS.fullmatch(name))})
    if kind is EPOCHS:
        declared |= {f"{metric}.{name}": pa.float64() for metric in ("val_acc", "fid") for name in classes}
    others = {
        name: type_
        for name, type_ in sorted(there.items())
        if name not in declared and name != UNDECLARED and not (kind is EPOCHS and _is_number(type_))
    }
    last = {UNDECLARED: _MAP} if kind is EPOCHS else {}
    return pa.schema([*declared.items(), *others.items(), *last.items()])


@lru_cache(maxsize=4)
def _declared(folder: str, fusions: tuple[tuple[str, type[Fusion]], ...]) -> Columns:
    """The columns of a table that are known before any row: of fusions, those of the registered ones."""
    if folder == EPOCHS.folder:
        logged = [f"fusion.{name}.{quantity}" for name, fusion in fusions for quantity in fusion.Diagnostics]
        return {**EPOCHS.columns, **dict.fromkeys(logged, pa.float64())}
    options = {
        f"{OPTION_PREFIX}{name}.{option}": _one_type(f"{OPTION_PREFIX}{name}.{option}", field.annotation)
        for name, fusion in fusions
        for option, field in fusion.Options.model_fields.items()
    }
    return {**TRIALS.columns, **config_columns(), **options}


def _one_type(option: str, annotation: object) -> pa.DataType:
    kinds = types_of(annotation)
    if set(kinds) == {pa.int64(), pa.float64()}:
        return pa.float64()
    if len(kinds) != 1:
        raise StoreError(
            f"{option}: is declared as {annotation}, and a column of `trials` holds values of one type; declare it as "
            "bool, int, float or str, or as one of them or None"
        )
    return kinds[0]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def types_in(rows: Iterable[Row]) -> Columns:
    """The columns that rows have, by the type of their values; of one that is null in all of them nothing is known."""
    columns: dict[str, pa.DataType] = {}
    for row in rows:
        columns |= {name: types_of(type(value))[0] for name, value in row.items() if value is not None}
    return columns


def table_of(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Rows as a table of this schema; what has no column of its own is put into that of the undeclared."""
    names = frozenset(schema.names)
    if UNDECLARED not in names:
        return pa.Table.from_pylist(list(rows), schema=schema)
    packed: list[Mapping[str, object]] = []
    undeclared: set[str] = set()
    for row in rows:
        others = [(name, value) for name, value in row.items() if name not in names and value is not None]
        undeclared.update(name for name, _ in others)
        packed.append({**row, UNDECLARED: others or None})
    return _naming(pa.Table.from_pylist(packed, schema=schema), undeclared)


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of another schema, all of whose columns this one has or can hold. Raise ArrowException where not."""
    names = table.column_names
    columns = {
        field.name: table[field.name].cast(field.type) if field.name in names else pa.nulls(len(table), field.type)
        for field in schema
    }
    others = [name for name in names if name not in columns]
    if UNDECLARED in columns and others:
        values = zip(*(table[name].cast(pa.float64()).to_pylist() for name in others), strict=True)
        maps = [[pair for pair in zip(others, of_row, strict=True) if pair[1] is not None] for of_row in values]
        columns[UNDECLARED] = pa.array([pairs or None for pairs in maps], _MAP)
    return _naming(pa.table(columns, schema=schema), others if UNDECLARED in columns else ())


def expanded(table: pa.Table) -> pa.Table:
    """The table with the undeclared as columns, as a reader here gets them."""
    if UNDECLARED not in table.column_names or not pa.types.is_map(table.schema.field(UNDECLARED).type):
        return table
    maps = table[UNDECLARED]
    table = table.drop_columns([UNDECLARED])
    if maps.null_count < len(maps):
        for key in maps.combine_chunks().keys.unique():
            name, values = key.as_py(), pc.map_lookup(maps, key, "first")
            if name not in table.column_names:
                table = table.append_column(name, values)
            else:  # a file of an earlier release has it as a column, in which this one's rows are null
                at = table.column_names.index(name)
                table = table.set_column(at, name, pc.coalesce(table[name].cast(pa.float64()), values))
    return table


def columns_in(schema: pa.Schema) -> Columns:
    """The columns that a reader here gets of a file, by the file's end."""
    undeclared = json.loads((schema.metadata or {}).get(_NAMES, b"[]"))
    columns = {field.name: field.type for field in schema if not pa.types.is_map(field.type)}
    return {**columns, **dict.fromkeys(undeclared, pa.float64())}


def _naming(table: pa.Table, undeclared: Iterable[str]) -> pa.Table:
    """The table with the names of the undeclared in its metadata, where there are any."""
    return table.replace_schema_metadata({_NAMES: json.dumps(names)} if (names := sorted(undeclared)) else None)
