from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.store import Attempt, State, Store, StoreError, config_of, sweeps
from tests.fakes import metrics

CONFIG = TrialConfig()
ID = CONFIG.trial_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results" / "one")
    made.create()
    return made


def attempt(number: int = 1, state: State = "RUNNING", trial_id: str = ID) -> Attempt:
    return Attempt(trial_id=trial_id, attempt=number, number=0, state=state, started="2025-01-01T00:00:00.000+00:00")


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


def test_an_epoch_reported_twice_is_one_row_of_the_later_attempt(store: Store) -> None:
    store.add_epoch(ID, 1, metrics(1, val_acc=0.3))
    store.add_epoch(ID, 1, metrics(2))
    store.add_epoch(ID, 2, metrics(2, val_acc=0.9))
    assert [(row["epoch"], row["attempt"]) for row in store.epochs().rows()] == [(1, 1), (2, 2)]
    assert store.epochs().rows()[1]["val_acc"] == 0.9
    assert store.reported_epochs(ID) == 2


def test_epochs_count_as_reported_up_to_the_first_gap(store: Store) -> None:
    for epoch in (1, 2, 4):
        store.add_epoch(ID, 1, metrics(epoch))
    assert store.reported_epochs(ID) == 2
    assert store.reported_epochs("another") == 0


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


def test_predictions_come_back_as_written(store: Store) -> None:
    store.write_predictions(ID, 3, images=["a", "b"], labels=[1, 0], log_likelihood=[[-1.5, -2.5], [-3.5, -4.5]])
    frame = store.predictions_of(ID, 3)
    assert frame[["image", "label", "log_p_0", "log_p_1"]].values.tolist() == [
        ["a", 1, -1.5, -2.5],
        ["b", 0, -3.5, -4.5],
    ]
    with pytest.raises(StoreError, match="0004"):
        store.predictions_of(ID, 4)


def break_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def write_foreign_columns(path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), path)


def write_foreign_types(path: Path) -> None:
    pq.write_table(pa.table({"trial_id": ["x"], "attempt": [[1]], "epoch": [1]}), path)


@pytest.mark.parametrize("harm", [break_file, write_foreign_columns, write_foreign_types])
def test_a_reader_names_a_broken_or_foreign_file_and_goes_on(store: Store, harm: object) -> None:
    for trial_id in ("aaa", "bbb"):
        store.add_epoch(trial_id, 1, metrics(1))
    harm(store.epochs_folder / "aaa.parquet")  # type: ignore[operator]
    table = store.epochs()
    assert [row["trial_id"] for row in table.rows()] == ["bbb"]
    assert len(table.problems) == 1
    assert "aaa.parquet" in table.problems[0]


def test_a_writer_puts_a_broken_file_aside_instead_of_burying_it(store: Store) -> None:
    store.add_epoch(ID, 1, metrics(1))
    file = store.epochs_folder / f"{ID}.parquet"
    break_file(file)
    store.add_epoch(ID, 1, metrics(2))
    assert [row["epoch"] for row in store.epochs().rows()] == [2]
    assert file.with_name(f"{file.name}.broken").exists()


def test_a_table_with_fewer_columns_from_an_earlier_version_is_still_read(store: Store) -> None:
    pq.write_table(pa.table({"trial_id": ["old"], "attempt": [1], "epoch": [1]}), store.epochs_folder / "old.parquet")
    assert store.epochs().rows()[0]["val_acc"] is None


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


def test_sweep_json_is_whole_or_named(store: Store) -> None:
    assert store.read_sweep() is None
    store.write_sweep({"name": "one"})
    assert json.loads(store.sweep_file.read_text()) == {"name": "one"}
    store.sweep_file.write_text("{")
    with pytest.raises(StoreError, match=r"sweep\.json: not readable"):
        store.read_sweep()


def test_a_folder_that_cannot_hold_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/one: cannot hold results"):
        Store(tmp_path / "file" / "one").create()


def test_sweeps_are_the_folders_with_trials(store: Store) -> None:
    (store.folder.parent / "notes").mkdir()
    assert [each.folder.name for each in sweeps(store.folder.parent)] == ["one"]
    assert sweeps(store.folder / "nowhere") == []
