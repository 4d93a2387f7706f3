"""All files of a table have one schema, whoever wrote them, and every reader of Parquet gets a folder whole."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from cpcnn_core.config import TrialConfig
from cpcnn_core.fusion import FUSIONS, FusionOptions
from cpcnn_core.fusion.stem_add import StemAdd
from orchestrator.records import beginning, schema
from orchestrator.records.columns import EPOCHS, TRIALS
from orchestrator.records.migrations import SCHEMA
from orchestrator.records.store import Attempt, Store, StoreError, config_of
from orchestrator.records.sweep_file import SweepRecord
from tests.support import several_fusions
from tests.support.fakes import metrics
from tests.support.old_results import of_schema_3
from tests.support.paths import ROOT, local
from tests.support.several_fusions import Own
from tests.support.times import at

PAGE = (ROOT / "docs" / "results-schema.md").read_text()
HIDDEN = "model.fusion_options.block_film.hidden"
TABLES = ("trials", "epochs")


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUSIONS, "own", Own)


@pytest.fixture
def sweep(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results" / "digits")
    several_fusions.write(store)
    return store


def schemas(store: Store, table: str) -> list[pa.Schema]:
    return [pq.read_schema(file) for file in sorted(local(store.folder / table).glob("*.parquet"))]


def assert_alike(store: Store) -> None:
    for table in TABLES:
        first, *others = schemas(store, table)
        assert all(other.equals(first) for other in others), table


# ------------------------------------------------------------------------------------------------- readers of Parquet

LIBRARIES = ("pandas", "polars", "duckdb", "pyarrow.dataset")


def run_page(library: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, object]]]:
    """The rows that the page's lines for the library read, the results being in `folder`."""
    [code] = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if f"import {library}\n" in block]
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(code, names)
    return {table: rows_of(names[table]) for table in TABLES}


def rows_of(frame: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = frame.to_dicts() if hasattr(frame, "to_dicts") else frame.to_dict("records")  # type: ignore[attr-defined]
    return [{name: None if value != value or is_nat(value) else value for name, value in row.items()} for row in rows]


def is_nat(value: object) -> bool:
    return type(value).__name__ in {"NaTType", "NAType"}


def undeclared(row: Mapping[str, object]) -> dict[str, float]:
    """The column `extra` of a row, whichever way a library gives maps."""
    given = row["extra"] or ()
    if isinstance(given, Mapping):
        return dict(given)
    assert isinstance(given, Iterable)
    pairs = [(pair["key"], pair["value"]) if isinstance(pair, Mapping) else tuple(pair) for pair in given]
    return dict(pairs)


@pytest.mark.parametrize("compacted", [False, True], ids=["a file for each trial", "compacted"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_the_page_s_lines_read_every_fusion_s_options_and_rows(
    library: str, compacted: bool, sweep: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compacted:
        sweep.compact(at_least=1)
        more = TrialConfig.from_flat({"seed": 99})
        sweep.write_attempt(Attempt(trial_id=more.trial_id, attempt=1, number=9, state="RUNNING", started=at()), more)
        sweep.add_epoch(more.trial_id, 1, metrics(1, extra={"val_acc.cat": 0.5}))
    read = run_page(library, tmp_path, monkeypatch)
    trials = {row["trial_id"]: row for row in read["trials"]}
    epochs = {(row["trial_id"], row["epoch"]): row for row in read["epochs"]}
    for config, (_, logged) in zip(several_fusions.configs(), several_fusions.TRIALS, strict=True):
        row = trials[config.trial_id]
        flat = config.flat()
        assert {name: row[name] for name in flat} == flat
        options = {name for name, value in row.items() if "fusion_options" in name and value is not None}
        assert options == {name for name in flat if "fusion_options" in name}
        assert isinstance(row["started"], datetime)
        assert row["started"].utcoffset() is not None
        for epoch in (1, 2):
            seen = epochs[config.trial_id, epoch]
            shown = {name: value for name, value in seen.items() if name.startswith("fusion.") and value is not None}
            assert {**shown, **undeclared(seen)} == logged
            assert (seen["val_acc.cat"], seen["fid.cat"]) == (0.25, 30.0 if epoch == 2 else None)
    assert len(trials) == len(several_fusions.TRIALS) + compacted


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_page_s_lines_read_an_older_folder_once_it_was_gone_on_with(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = of_schema_3(tmp_path / "results")
    assert store.unify() == []
    local(store.folder).rename(store.folder.parent / "digits")
    read = run_page(library, tmp_path, monkeypatch)
    assert {row["model.fusion"]: row[HIDDEN] for row in read["trials"] if row[HIDDEN] in {None, 1}} == {
        "none": None,
        "block_film": 1,
    }
    assert {row["fusion.block_film.gamma_mean"] is None for row in read["epochs"]} == {True, False}


# ---------------------------------------------------------------------------------------------------------- one schema


def test_each_file_has_the_same_columns_in_the_same_order_whoever_comes_first(tmp_path: Path) -> None:
    assert len({tuple(schemas(of, table)[0].names) for of in written(tmp_path, (0, 1, 4)) for table in TABLES}) == 2


def written(folder: Path, trials: Iterable[int]) -> list[Store]:
    """The trials in each order, in a folder for each."""
    stores = []
    configs = several_fusions.configs()
    for order in itertools.permutations(trials):
        store = Store(folder / "-".join(map(str, order)))
        store.create()
        for number in order:
            name, logged = configs[number].trial_id, several_fusions.TRIALS[number][1]
            row = Attempt(trial_id=name, attempt=1, number=number, state="RUNNING", started=at())
            store.write_attempt(row, configs[number])
            store.add_epoch(name, 1, metrics(1, extra={"val_acc.b": 1.0, "val_acc.a": 0.0, **logged}))
        assert_alike(store)
        stores.append(store)
    return stores


def test_compacting_keeps_the_schema_and_every_value(sweep: Store) -> None:
    before = sweep.trials().rows(), sweep.epochs().rows()
    [trials], [epochs] = ({tuple(schema.names) for schema in schemas(sweep, table)} for table in TABLES)
    assert sweep.compact(at_least=1) == 2 * len(several_fusions.TRIALS)
    assert (sweep.trials().rows(), sweep.epochs().rows()) == before
    assert [tuple(schema.names) for table in TABLES for schema in schemas(sweep, table)] == [trials, epochs]


def test_what_nobody_has_declared_is_a_metric_like_others_here(sweep: Store) -> None:
    name = "fusion.own.undeclared"
    assert name in sweep.epoch_columns()
    values = [row[name] for row in sweep.epochs(["val_acc", name]).rows()]
    assert sorted(value for value in values if value is not None) == [2.5] * 4
    assert set(sweep.epochs(["val_acc", name]).columns.column_names) == {
        "trial_id",
        "attempt",
        "epoch",
        "val_acc",
        name,
    }
    own = several_fusions.configs()[-1].trial_id
    assert [row[name] for row in sweep.epochs_of(own)] == [2.5, 2.5]
    assert "extra" not in sweep.epochs().columns.column_names


def test_every_configuration_is_read_back_as_it_was(sweep: Store) -> None:
    """An option that was not given is not taken for one that was, whatever its default."""
    expected = {config.trial_id: config for config in several_fusions.configs()}
    for table in (sweep.trials(), sweep.latest_attempts()):
        assert {row["trial_id"]: config_of(row) for row in table.rows()} == expected
    for trial_id, config in expected.items():
        assert [config_of(row) for row in sweep.attempts_of(trial_id)] == [config]


def test_a_fusion_that_is_not_registered_any_more_keeps_its_columns_in_all_files(
    sweep: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FUSIONS, "own")
    again = Store(sweep.folder)
    assert again.unify() == []
    for seed in (77, 78):
        config = TrialConfig.from_flat({"seed": seed})
        again.write_attempt(
            Attempt(trial_id=config.trial_id, attempt=1, number=seed, state="RUNNING", started=at()), config
        )
        again.add_epoch(config.trial_id, 1, metrics(1))
    assert_alike(sweep)
    assert "model.fusion_options.own.width" in schemas(sweep, "trials")[0].names
    values = {row.get("fusion.own.declared") for row in again.epochs().rows()}
    assert values == {1.5, None}


@pytest.mark.parametrize(
    ("declared", "column"),
    [(int | None, "int64"), (float, "double"), (bool, "bool"), (str | None, "string")],
)
def test_an_option_has_the_type_that_it_is_declared_with(
    declared: object, column: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(declared, monkeypatch)
    store = write_one(tmp_path)
    assert str(schemas(store, "trials")[0].field("model.fusion_options.odd.size").type) == column


def test_an_option_of_several_types_is_refused_by_name_before_any_row_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(int | str, monkeypatch)
    with pytest.raises(StoreError, match=r"model\.fusion_options\.odd\.size: is declared as int \| str.*declare it as"):
        write_one(tmp_path)
    assert not list((tmp_path / "trials").glob("*"))


def register(declared: object, monkeypatch: pytest.MonkeyPatch) -> None:
    options = type("Options", (FusionOptions,), {"__annotations__": {"size": declared}, "size": None})

    class Odd(StemAdd):
        Options: ClassVar[type[FusionOptions]] = options

    monkeypatch.setitem(FUSIONS, "odd", Odd)


def write_one(folder: Path) -> Store:
    store, config = Store(folder), TrialConfig()
    store.create()
    store.write_attempt(Attempt(trial_id=config.trial_id, attempt=1, number=0, state="RUNNING", started=at()), config)
    return store


def test_the_columns_known_beforehand_do_not_depend_on_rows(sweep: Store) -> None:
    for table, kind in zip(TABLES, (TRIALS, EPOCHS), strict=True):
        for found in schemas(sweep, table):
            assert {name: found.field(name).type for name in kind.columns} == dict(kind.columns)
            assert HIDDEN in found.names or table == "epochs"


# ------------------------------------------------------------------------------------------- files of earlier releases


def versions(store: Store) -> set[bytes]:
    return {schema.metadata[b"schema_version"] for table in TABLES for schema in schemas(store, table)}


def test_files_of_an_earlier_release_are_written_anew_once_and_lose_nothing(tmp_path: Path) -> None:
    store = of_schema_3(tmp_path)
    before = store.trials().rows(), store.epochs().rows()
    assert versions(store) == {b"3"}
    assert store.unify() == []
    assert versions(store) == {str(SCHEMA).encode()}
    assert_alike(store)
    times = stamps(store)
    after = store.trials().rows(), store.epochs().rows()
    for old, new in zip(before, after, strict=True):
        assert [{**dict.fromkeys(row), **earlier} for earlier, row in zip(old, new, strict=True)] == new
    assert store.unify() == []
    assert stamps(store) == times


@pytest.mark.parametrize("written", range(6))
def test_a_kill_between_two_files_loses_nothing_and_the_next_driver_goes_on(tmp_path: Path, written: int) -> None:
    store = of_schema_3(tmp_path)
    left = iter(range(written))

    def killed() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    before = columns_of(store, None)
    with pytest.raises(KeyboardInterrupt), store.fenced(killed) as own:
        own.unify()
    assert columns_of(store, before) == before
    assert store.unify() == []
    assert_alike(store)
    assert columns_of(store, before) == before


def columns_of(store: Store, like: list[list[dict[str, object]]] | None) -> list[list[dict[str, object]]]:
    """The rows of both tables, with the columns of those of before."""
    tables: list[list[dict[str, object]]]
    tables = [[dict(row) for row in table.rows()] for table in (store.trials(), store.epochs())]
    return (
        tables
        if like is None
        else [[{name: row[name] for name in of[0]} for row in rows] for rows, of in zip(tables, like, strict=True)]
    )


def stamps(store: Store) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in local(store.folder).glob("*/*.parquet")}


def test_times_of_an_earlier_release_are_moments_in_utc(tmp_path: Path) -> None:
    rows = of_schema_3(tmp_path).latest_attempts().rows()
    assert rows[0]["started"] == datetime(2026, 11, 27, 3, 20, 17, 64000, tzinfo=UTC)
    assert all(row["started"] < row["ended"] for row in rows)


def test_a_trial_that_runs_by_hand_is_left_to_its_own_writer(tmp_path: Path) -> None:
    store = of_schema_3(tmp_path)
    running = "9da43d751314"
    file = local(store.trials_folder) / f"{running}.parquet"
    table = pq.read_table(file)
    for name, values in {"state": pa.array(["RUNNING"]), "number": pa.nulls(1, pa.int64())}.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, file)
    before = stamps(store)
    store.unify()
    changed = {name for name, time in stamps(store).items() if before[name] != time and "predictions" not in name}
    assert changed
    assert not any(running in name for name in changed)


def test_a_trial_by_hand_brings_its_folder_up_to_date_and_leaves_a_sweep_s_to_its_driver(
    tmp_path: Path,
) -> None:
    of_sweep, by_hand = of_schema_3(tmp_path / "one"), of_schema_3(tmp_path / "two")
    by_hand.write_sweep(SweepRecord(name="two_fusions", kind="trials"))
    for store, expected in ((of_sweep, {b"3"}), (by_hand, {str(SCHEMA).encode()})):
        with beginning.begun(store, "0" * 12):
            assert versions(store) == expected


def test_a_column_that_does_not_go_with_the_others_is_named_and_its_file_kept(tmp_path: Path) -> None:
    store = of_schema_3(tmp_path)
    file = local(store.trials_folder) / "79ae432b80fd.parquet"
    table = pq.read_table(file)
    strange = table.append_column(HIDDEN, pa.array(["wide"] * len(table)))
    pq.write_table(strange, file)
    [problem] = store.unify()
    assert problem.startswith(f"{file}: has columns that do not go with the other files'")
    assert pq.read_table(file).equals(strange)


def test_a_reader_of_rows_takes_neither_torch_nor_pandas(sweep: Store) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.records.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.trials().rows(); store.epochs().rows(); store.epoch_columns()\n"
        "assert not {'torch', 'pandas', 'ray', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(sweep.folder)], check=True, cwd=ROOT)


def test_a_name_that_one_file_has_as_a_column_and_another_in_the_map_is_read_of_both() -> None:
    old = pa.table({"epoch": [1], "fusion.mine.x": [0.5]})
    undeclared = pa.array([[("fusion.mine.x", 0.25), ("other", 1.0)]], pa.map_(pa.string(), pa.float64()))
    new = pa.table({"epoch": pa.array([2]), schema.UNDECLARED: undeclared})
    both = schema.expanded(pa.concat_tables([old, new], promote_options="permissive"))
    assert both["fusion.mine.x"].to_pylist() == [0.5, 0.25]
    assert both["other"].to_pylist() == [None, 1.0]


def test_whole_numbers_and_others_are_numbers_with_a_fraction() -> None:
    assert schema._one_type("model.fusion_options.mine.scale", float | int) == pa.float64()
