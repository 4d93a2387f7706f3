from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.records import migrations
from orchestrator.records.layout import COMPACTED
from orchestrator.records.location import Folder, located
from orchestrator.records.migrations import SCHEMA, Migration
from orchestrator.records.states import State
from orchestrator.records.store import OPTION_PREFIX, Attempt, Store, StoreError, config_of, sweeps
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.records.tables import Table
from tests.support.fakes import metrics
from tests.support.paths import ROOT, local
from tests.support.times import at

CONFIG = TrialConfig()
ID = CONFIG.trial_id


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    remote = located(f"memory://{tmp_path.name}/results/one")
    made = Store(remote if getattr(request, "param", "disk") == "memory" else tmp_path / "results" / "one")
    made.create()
    return made


everywhere = pytest.mark.parametrize("store", ["disk", "memory"], indirect=True)
"""What holds of a folder on disk and of one behind a URL."""


def attempt(number: int = 1, state: State = "RUNNING", trial_id: str = ID) -> Attempt:
    return Attempt(trial_id=trial_id, attempt=number, number=0, state=state, started=at())


@everywhere
def test_a_resumed_trial_keeps_a_row_for_each_attempt_and_the_last_one_tells_its_state(store: Store) -> None:
    store.write_attempt(attempt(1), CONFIG)
    store.write_attempt(attempt(1, "FAILED"), CONFIG)
    store.write_attempt(attempt(2, "COMPLETE"), CONFIG)
    assert [(row["attempt"], row["state"]) for row in store.trials().rows()] == [(1, "FAILED"), (2, "COMPLETE")]
    assert [row["state"] for row in store.latest_attempts().rows()] == ["COMPLETE"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train.grad_clip": None, "train.ema_decay": 0.99, "data.channels": 3},
        {"model.fusion": "input_concat", "model.fusion_options.input_concat.dim": 7},
        {"data.name": "cpen455", "data.root": "/somewhere", "train.lr": 1 / 3},
    ],
)
def test_a_configuration_comes_back_from_its_row_whatever_the_other_rows_hold(
    store: Store, settings: dict[str, str | float | None]
) -> None:
    config = TrialConfig.from_flat(settings)
    other = TrialConfig.from_flat({"model.fusion": "input_concat", "model.fusion_options.input_concat.dim": 9})
    for each in (config, other):
        store.write_attempt(attempt(trial_id=each.trial_id), each)
    rows = {row["trial_id"]: row for row in store.trials().rows()}
    assert config_of(rows[config.trial_id]) == config


@everywhere
def test_an_epoch_reported_twice_is_one_row_of_the_later_attempt(store: Store) -> None:
    store.add_epoch(ID, 1, metrics(1, val_acc=0.3))
    store.add_epoch(ID, 1, metrics(2))
    store.add_epoch(ID, 2, metrics(2, val_acc=0.9))
    assert [(row["epoch"], row["attempt"]) for row in store.epochs().rows()] == [(1, 1), (2, 2)]
    assert store.epochs().rows()[1]["val_acc"] == 0.9
    assert store.reported_epochs(CONFIG) == 2


@everywhere
def test_epochs_count_as_reported_up_to_the_first_gap(store: Store) -> None:
    for epoch in (1, 2, 4):
        store.add_epoch(ID, 1, metrics(epoch))
    assert store.reported_epochs(CONFIG) == 2
    assert store.reported_epochs(CONFIG.with_settings({"seed": 9})) == 0


@everywhere
def test_a_row_loses_its_checkpoint_when_the_weights_are_dropped(store: Store) -> None:
    store.add_epoch(ID, 1, metrics(1, kept_epochs=(1,)))
    store.add_epoch(ID, 1, metrics(2, kept_epochs=(1, 2)))
    store.add_epoch(ID, 1, metrics(3, kept_epochs=(1, 3)))
    kept = [row["checkpoint"] for row in store.epochs().rows()]
    assert kept == [f"checkpoints/{ID}/weights-0001.safetensors", None, f"checkpoints/{ID}/weights-0003.safetensors"]


def test_what_a_fusion_logs_has_columns_of_its_own(store: Store) -> None:
    store.add_epoch(ID, 1, metrics(1, extra={"film_gamma": 1.5}))
    store.add_epoch("000000000000", 1, metrics(1))
    assert {row["trial_id"]: row["film_gamma"] for row in store.epochs().rows()} == {ID: 1.5, "000000000000": None}


def test_an_int_and_a_null_share_a_column_without_becoming_floats(store: Store) -> None:
    for label_dim in (None, 6):
        settings = {"model.label_encoding": "embedding", "model.label_dim": label_dim}
        config = TrialConfig.from_flat(settings)
        store.write_attempt(attempt(trial_id=config.trial_id), config)
    values = {row["model.label_dim"] for row in store.trials().rows()}
    assert values == {None, 6}
    assert all(isinstance(value, int | None) for value in values)


@everywhere
def test_predictions_come_back_as_written(store: Store) -> None:
    store.write_predictions(ID, 3, images=["a", "b"], labels=[1, 0], log_likelihood=[[-1.5, -2.5], [-3.5, -4.5]])
    frame = store.predictions_of(ID, 3)
    assert frame[["image", "label", "log_p_0", "log_p_1"]].values.tolist() == [
        ["a", 1, -1.5, -2.5],
        ["b", 0, -3.5, -4.5],
    ]
    with pytest.raises(StoreError, match="0004"):
        store.predictions_of(ID, 4)


def break_file(path: Folder) -> None:
    path.write_bytes(path.read_bytes()[:50])


def write_foreign_columns(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def write_foreign_types(path: Path) -> None:
    pq.write_table(pa.table({"trial_id": ["x"], "attempt": [[1]], "epoch": [1]}), path)


@pytest.mark.parametrize("harm", [break_file, write_foreign_columns, write_foreign_types])
def test_a_reader_names_a_broken_or_foreign_file_and_goes_on(store: Store, harm: object) -> None:
    for trial_id in ("aaa", "bbb"):
        store.add_epoch(trial_id, 1, metrics(1))
    harm(store.epochs_folder / "aaa.parquet")
    table = store.epochs()
    assert [row["trial_id"] for row in table.rows()] == ["bbb"]
    assert len(table.problems) == 1
    assert "aaa.parquet" in table.problems[0]


@everywhere
def test_a_writer_puts_a_broken_file_where_no_reader_meets_it_and_says_so(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    file = store.epochs_folder / f"{ID}.parquet"
    for number in (1, 2):
        store.add_epoch(ID, 1, metrics(1))
        break_file(file)
        assert store.epochs_of(ID) == []  # a reader leaves it where it is
        assert not caplog.records
        store.add_epoch(ID, 1, metrics(2))
        assert [row["epoch"] for row in store.epochs().rows()] == [2]
        aside = store.folder / "set-aside" / f"epochs-{ID}-{number}.parquet"
        assert len(aside.read_bytes()) == 50
        [said] = [record.getMessage() for record in caplog.records]
        assert f"{file}: not readable as Parquet" in said
        assert f"It was moved to {aside}" in said
        caplog.clear()
        if isinstance(store.epochs_folder, Path):
            assert len(pd.read_parquet(local(store.epochs_folder))) == 1


def test_a_table_with_fewer_columns_from_an_earlier_version_is_still_read(store: Store) -> None:
    pq.write_table(pa.table({"trial_id": ["old"], "attempt": [1], "epoch": [1]}), store.epochs_folder / "old.parquet")
    assert store.epochs().rows()[0]["val_acc"] is None


@everywhere
def test_an_empty_sweep_reads_as_empty_tables(store: Store) -> None:
    assert store.epochs().rows() == store.trials().rows() == store.latest_attempts().rows() == []
    assert "val_acc" in store.epochs().frame.columns


def test_a_write_that_fails_leaves_the_old_file_and_says_where(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_epoch(ID, 1, metrics(1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=rf"epochs/{ID}\.parquet: cannot be written: No space left on device"):
        store.add_epoch(ID, 1, metrics(2))
    monkeypatch.undo()
    assert [row["epoch"] for row in store.epochs().rows()] == [1]
    assert sorted(file.name for file in store.epochs_folder.iterdir()) == [f"{ID}.parquet"]


def test_leftovers_of_a_killed_writer_are_neither_read_nor_kept(store: Store) -> None:
    left = store.epochs_folder / f".{ID}.parquet.abc.tmp"
    left.write_bytes(b"half")
    assert store.epochs().problems == ()
    store.remove_leftovers()
    assert not left.exists()


@everywhere
def test_sweep_json_is_whole_or_named(store: Store) -> None:
    assert store.read_sweep() is None
    store.write_sweep(SweepRecord.model_validate({"name": "one"}))
    assert json.loads(store.sweep_file.read_text()) == {"name": "one"}
    store.sweep_file.write_bytes(b"{")
    with pytest.raises(StoreError, match=r"sweep\.json: not readable"):
        store.read_sweep()


def test_a_folder_that_cannot_hold_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/one: cannot hold results"):
        Store(tmp_path / "file" / "one").create()


def test_sweeps_are_the_folders_that_were_asked_something_or_hold_trials(store: Store) -> None:
    results = local(store.folder.parent)
    (results / "notes").mkdir()
    (results / "README.md").touch()
    assert sweeps(results) == []  # `one` was killed before it had begun
    store.write_attempt(attempt(1, "COMPLETE"), CONFIG)
    (results / "two").mkdir()
    (results / "two" / "sweep.json").write_text("{}")
    assert [each.folder.name for each in sweeps(results)] == ["one", "two"]
    assert sweeps(results / "nowhere") == []


def test_a_sweep_that_never_ran_is_removed_and_nothing_else(store: Store) -> None:
    for name in (
        "sweep.json",
        "study.db",
        "study.db-wal",
        "study-1.db",
        "driver-000001.json",
        "driver.lock",
        "work.txt",
    ):
        (local(store.folder) / name).touch()
    (local(store.folder) / "logs" / "tracking.log").touch()
    notes = local(store.folder) / "notes.txt"
    notes.touch()
    store.remove()
    assert list(store.folder.iterdir()) == [notes]
    notes.unlink()
    store.remove()
    assert not store.folder.exists()
    assert store.folder.parent.exists()


def ended(store: Store, count: int) -> list[TrialConfig]:
    configs = [CONFIG.with_settings({"seed": seed}) for seed in range(count)]
    for config in configs:
        store.write_attempt(attempt(1, "COMPLETE", config.trial_id), config)
        for epoch in (1, 2):
            store.add_epoch(config.trial_id, 1, metrics(epoch, kept_epochs=(epoch,)))
    return configs


def contents(store: Store) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    def rows(table: Table) -> list[dict[str, object]]:
        return sorted(table.rows(), key=lambda row: (row["trial_id"], row["attempt"], row.get("epoch", 0)))

    return rows(store.trials()), rows(store.epochs())


@everywhere
def test_compaction_changes_no_row_and_leaves_running_trials_alone(store: Store) -> None:
    configs = ended(store, 4)
    running = CONFIG.with_settings({"seed": 99})
    store.write_attempt(attempt(1, "RUNNING", running.trial_id), running)
    store.add_epoch(running.trial_id, 1, metrics(1))
    before = contents(store)
    assert store.compact(at_least=5) == 0
    assert store.compact(at_least=4) == 8
    assert contents(store) == before
    assert {file.name for file in store.epochs_folder.iterdir()} == {COMPACTED, f"{running.trial_id}.parquet"}
    assert store.reported_epochs(configs[0]) == 2
    assert store.compact(at_least=1) == 0
    assert [row["val_acc"] for row in store.epochs(["val_acc"]).rows()] == [
        row["val_acc"] for row in store.epochs().rows()
    ]


def test_a_compacted_trial_that_goes_on_leaves_the_options_of_other_fusions_as_they_were(store: Store) -> None:
    option = "model.fusion_options.input_concat.dim"
    concat = CONFIG.with_settings({"model.fusion": "input_concat", option: 16})
    plain = CONFIG.with_settings({"model.fusion": "none"})
    for config in (concat, plain):
        store.write_attempt(attempt(1, "PRUNED", config.trial_id), config)
    store.compact(at_least=1)
    store.write_attempt(attempt(2, "RUNNING", plain.trial_id), plain)
    assert store.trials().columns.schema.field(option).type == "int64"
    assert {config_of(row).trial_id for row in store.trials().rows()} == {concat.trial_id, plain.trial_id}


@everywhere
def test_a_compacted_trial_goes_on_in_a_file_of_its_own(store: Store) -> None:
    config = ended(store, 3)[1]
    store.compact(at_least=1)
    store.write_attempt(attempt(2, "COMPLETE", config.trial_id), config)
    store.add_epoch(config.trial_id, 2, metrics(3, kept_epochs=(3,)))
    mine = [row for row in store.epochs().rows() if row["trial_id"] == config.trial_id]
    assert [(row["epoch"], row["attempt"], row["checkpoint"] is None) for row in mine] == [
        (1, 1, True),
        (2, 1, True),
        (3, 2, False),
    ]
    before = contents(store)
    assert store.compact(at_least=1) == 2
    assert contents(store) == before


@pytest.mark.parametrize("left", range(1, 7))
def test_a_kill_during_compaction_loses_and_doubles_nothing(
    store: Store, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(store, 3)
    before = contents(store)
    unlink, calls = Path.unlink, iter(range(left))

    def dies(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".parquet" and next(calls, None) is None:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", dies)
    if left < 6:
        with pytest.raises(KeyboardInterrupt):
            store.compact(at_least=1)
    else:
        store.compact(at_least=1)
    monkeypatch.undo()
    assert contents(store) == before
    store.compact(at_least=1)
    assert contents(store) == before


def test_files_of_an_earlier_schema_are_read_and_of_a_later_one_named(store: Store) -> None:
    store.add_epoch("aaa", 1, metrics(1))
    path = store.epochs_folder / "aaa.parquet"
    table = pq.read_table(path)
    assert table.schema.metadata[b"schema_version"] == str(SCHEMA).encode()
    earlier = table.drop_columns(["kid", "fid_reference"]).replace_schema_metadata(None)
    pq.write_table(earlier, path)
    [row] = store.epochs().rows()
    assert (row["kid"], row["val_acc"]) == (None, 0.5)
    pq.write_table(table.replace_schema_metadata({b"schema_version": str(SCHEMA + 1).encode()}), path)
    read = store.epochs()
    assert read.rows() == []
    assert "a newer version of this program wrote it" in read.problems[0]


def test_each_earlier_schema_s_step_is_taken_in_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_epoch("aaa", 1, metrics(1))

    def renamed(table: pa.Table) -> pa.Table:
        return table.rename_columns(["accuracy" if name == "val_acc" else name for name in table.column_names])

    def doubled(table: pa.Table) -> pa.Table:
        return table.append_column("double", pc.multiply(table["accuracy"], 2.0))

    steps = {SCHEMA: Migration(("val_acc",), renamed), SCHEMA + 1: Migration(("accuracy",), doubled)}
    monkeypatch.setattr(migrations, "_MIGRATIONS", {**migrations._MIGRATIONS, **steps})
    monkeypatch.setattr(migrations, "SCHEMA", SCHEMA + 2)
    [row] = store.epochs_of("aaa")
    assert (row["accuracy"], row["double"]) == (0.5, 1.0)
    assert store.epochs().rows()[0]["double"] == 1.0
    assert store.epochs(["double"]).rows()[0]["double"] == 1.0
    assert "double" in store.epoch_columns()


@everywhere
@pytest.mark.parametrize("version", [1, 2])
def test_what_was_cut_short_before_there_was_a_state_for_it_is_read_as_interrupted(store: Store, version: int) -> None:
    budget, killed = "the sweep's budget was spent: --hours 1", "interrupted: the process that ran the trial ended"
    died = "the trial's process died: code 9 (the trial was started again)"
    rows: list[tuple[State, str | None, str | None]] = [
        ("FAILED", killed, None),
        ("FAILED", died, None),
        ("FAILED", "ValueError: interrupted: no", None),
        ("PRUNED", None, "after epoch 1 behind 1 of 1 others"),
        ("PRUNED", None, budget),
        ("COMPLETE", None, None),
        ("RUNNING", died, None),
        ("RUNNING", None, None),
    ]
    for number, (state, error, stopped) in enumerate(rows, start=1):
        store.write_attempt(dataclasses.replace(attempt(number, state), error=error, stopped=stopped), CONFIG)
    file = store.trials_folder / f"{ID}.parquet"
    table = pq.read_table(io.BytesIO(file.read_bytes()))
    table = table.replace_schema_metadata({b"schema_version": b"2"} if version == 2 else None)
    if version == 1:
        table = table.drop_columns(["stopped"])
    content = io.BytesIO()
    pq.write_table(table, content)
    file.write_bytes(content.getvalue())
    expected = [
        ("INTERRUPTED", None, killed),
        ("INTERRUPTED", None, died),
        *rows[2:4],
        ("INTERRUPTED", None, budget),
        rows[5],
        ("INTERRUPTED", None, died),
        rows[7],
    ]
    if version == 1:  # it had no such column
        expected[3:5] = [("PRUNED", None, None)] * 2
    for found in (store.trials().rows(), store.attempts_of(ID)):
        assert [(row["state"], row["error"], row["stopped"]) for row in found] == expected
    store.write_attempt(attempt(9, "COMPLETE"), CONFIG)  # and so they are written from then on
    store.compact(at_least=1)
    assert [(row["state"], row["error"], row["stopped"]) for row in store.attempts_of(ID)][:8] == expected


def test_only_columns_that_are_asked_for_are_read_of_an_earlier_schema(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_epoch("aaa", 1, metrics(1))
    path = store.epochs_folder / "aaa.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"schema_version": b"2"}), path)
    asked: list[object] = []
    read = pq.ParquetFile.read

    def noted(self: pq.ParquetFile, columns: list[str] | None = None) -> pa.Table:
        asked.append(columns)
        return read(self, columns)

    monkeypatch.setattr(pq.ParquetFile, "read", noted)
    assert store.epochs(["val_acc"]).rows()[0]["val_acc"] == 0.5
    assert asked == [["trial_id", "attempt", "epoch", "val_acc"]]


def test_pandas_reads_the_tables_without_us(store: Store) -> None:
    ended(store, 2)
    assert len(pd.read_parquet(local(store.epochs_folder))) == 4
    store.compact(at_least=1)
    assert len(pd.read_parquet(local(store.epochs_folder))) == 4


def documented(title: str) -> dict[str, tuple[str, str]]:
    """The rows of the table under a heading of docs/results-schema.md: column -> type, unit."""
    text = (ROOT / "docs" / "results-schema.md").read_text()
    section = text.split(f"## `{title}`")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `")
    ]
    return {row[0].strip("`"): (row[1], row[2]) for row in rows}


def named_type(kind: pa.DataType) -> str:
    return f"map<{kind.key_type}, {kind.item_type}>" if pa.types.is_map(kind) else str(kind)


@pytest.mark.parametrize("title", ["trials", "epochs", "predictions"])
def test_the_schema_s_page_has_every_column_of_the_files_and_no_other(store: Store, title: str) -> None:
    store.write_attempt(attempt(), CONFIG)
    store.add_epoch(ID, 1, metrics(1))
    store.write_predictions(ID, 1, images=["a"], labels=[0], log_likelihood=[[-1.0, -2.0]])
    [file] = (store.folder / title).glob("*.parquet")
    types = {field.name: named_type(field.type) for field in pq.read_schema(file)}
    page = documented(title)
    named = {name: kind for name, kind in types.items() if not name.startswith(("log_p_", OPTION_PREFIX, "fusion."))}
    assert {name: kind for name, (kind, _) in page.items() if not re.search(r"[A-Z]{4}", name)} == named
    assert all(unit for _, unit in page.values())


@everywhere
def test_a_damaged_compacted_file_is_set_aside_by_a_driver_and_what_was_in_it_is_named(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    configs = ended(store, 3)
    store.compact(at_least=1)
    assert store.set_damaged_aside() == []
    file = store.trials_folder / COMPACTED
    file.write_bytes(file.read_bytes()[:-40])
    assert not store.attempts_of(configs[0].trial_id)
    assert not store.attempts_of(configs[1].trial_id)
    assert [str(file) in record.getMessage() for record in caplog.records] == [True]  # once, and not for each trial
    trials, epochs = store.latest_attempts(), store.epochs()
    assert len(trials.problems) == 1
    [lost] = store.orphans(trials.columns, epochs.columns)
    assert all(config.trial_id in lost for config in configs if store.epochs_of(config.trial_id))
    [said] = store.set_damaged_aside()
    assert str(file) in said
    assert "set-aside/trials-compacted-1.parquet" in said
    assert not file.is_file()
    assert not store.latest_attempts().problems
    assert store.set_damaged_aside() == []
    assert store.orphans(store.latest_attempts().columns, store.epochs().columns) == [lost]


def test_a_compacted_file_of_a_later_release_keeps_its_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "SCHEMA", SCHEMA + 1)
        store.compact(at_least=1)
    assert "newer version" in store.latest_attempts().problems[0]
    assert store.set_damaged_aside() == []
    assert (store.trials_folder / COMPACTED).is_file()


def test_a_trial_that_began_while_the_tables_were_read_is_not_missing(store: Store) -> None:
    before = store.latest_attempts()
    store.write_attempt(attempt(), CONFIG)
    store.add_epoch(ID, 1, metrics(1))
    assert store.orphans(before.columns, store.epochs().columns) == []


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"asked": 3}', '{"asked": {"settings": []}}', '{"runs": {}}', '{"runs": [1]}']
)
def test_a_sweep_json_that_is_broken_is_named_with_the_way_out(store: Store, content: str) -> None:
    assert isinstance(store.sweep_file, Path)
    assert store.sweep_problems() == []
    store.sweep_file.write_text(content)
    with pytest.raises(StoreError, match=r"sweep\.json: .*move it away; the sweep or trial command .* writes it anew"):
        store.read_sweep()
    assert len(store.sweep_problems()) == 1
