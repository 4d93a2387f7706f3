"""Checkpoints are whole or not there; a damaged one is named and passed over."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cpcnn_core.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    kept_epochs,
    load_weights,
    save_weights,
    weights_name,
)
from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from tests.contract.networks import images, network


def metrics(epoch: int, **values: float) -> EpochMetrics:
    plain = {
        "train_loss": 3.0,
        "train_bpd": 3.0,
        "train_acc": None,
        "val_bpd": 3.0,
        "val_acc": 0.5,
        "val_f1": 0.5,
        "val_class_nll": 1.0,
        "val_ece": 0.1,
        "val_temperature": 1.0,
        "val_ece_calibrated": 0.1,
        "grad_norm": 1.0,
        "seconds": 1.0,
        "train_seconds": 1.0,
        "compile_seconds": 0.0,
        "eval_seconds": 0.0,
        "images_per_second": 1.0,
        "peak_memory_bytes": 1,
        "micro_batch": 1,
        "checkpoint": None,
        "kept_epochs": (),
    }
    extra = {name: value for name, value in values.items() if name not in plain}
    known = {name: value for name, value in values.items() if name in plain}
    return EpochMetrics.from_record({"epoch": epoch, "step": epoch, "lr": 0.1, "extra": extra} | plain | known)


def save(folder: CheckpointFolder, epoch: int, **values: float) -> EpochMetrics:
    model = network("stem_add", seed=epoch)
    return folder.save_epoch(
        {"epoch": epoch, "weight": torch.full((3,), float(epoch))},
        model.state_dict(),
        metrics(epoch, **values),
        image_shape=(3, 8, 8),
        nr_classes=3,
    )


CONFIG = TrialConfig.from_flat({"model.fusion": "stem_add", "model.nr_filters": 4, "model.nr_logistic_mix": 2})


def test_the_best_by_each_metric_and_the_last_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, CONFIG)
    values = [(0.9, 3.0), (0.5, 2.0), (0.6, 2.5), (0.9, 2.0), (0.1, 4.0)]
    for epoch, (acc, bpd) in enumerate(values, start=1):
        last = save(folder, epoch, val_acc=acc, val_bpd=bpd)
    assert last.kept_epochs == (1, 2, 5)
    assert last.checkpoint == weights_name(5)
    assert sorted(p.name for p in tmp_path.glob("weights-*")) == [weights_name(e) for e in (1, 2, 5)]
    assert len(list(tmp_path.glob("state-*.pt"))) == 2
    assert [entry.epoch for entry in folder.history] == [1, 2, 3, 4, 5]


def test_fid_and_score_keep_their_best_where_they_were_measured() -> None:
    history = [metrics(1, val_acc=0.9, val_bpd=1.0), metrics(2, fid=30.0, score=0.1), metrics(3, fid=20.0, score=0.9)]
    assert kept_epochs([*history, metrics(4, fid=25.0), metrics(5)]) == (1, 3, 5)


def test_the_newest_state_is_loaded_with_its_history(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, CONFIG)
    for epoch in (1, 2, 3):
        save(folder, epoch)
    again = CheckpointFolder(tmp_path, CONFIG)
    state = again.load_state()
    assert state is not None
    assert state["epoch"] == 3
    assert state["weight"].tolist() == [3.0] * 3
    assert [entry.epoch for entry in again.history] == [1, 2, 3]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_state_is_named_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = CheckpointFolder(tmp_path, CONFIG)
    for epoch in (1, 2):
        save(folder, epoch)
    newest = tmp_path / "state-00000002.pt"
    content = bytearray(newest.read_bytes())
    if damage == "missing":
        newest.unlink()
    else:
        content[len(content) // 2] ^= 1
        cut = {"truncated": content[: len(content) // 2], "flipped": content, "empty": b""}[damage]
        newest.write_bytes(cut)
    again = CheckpointFolder(tmp_path, CONFIG)
    with caplog.at_level(logging.WARNING):
        state = again.load_state()
    assert state is not None
    assert state["epoch"] == 1
    assert [entry.epoch for entry in again.history] == [1]
    assert "state-00000002.pt" in caplog.text


def test_with_every_state_damaged_training_starts_afresh(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, CONFIG)
    save(folder, 1)
    (tmp_path / "state-00000001.pt").write_bytes(b"nothing")
    again = CheckpointFolder(tmp_path, CONFIG)
    assert again.load_state() is None
    assert again.history == []


@pytest.mark.parametrize("content", ['{"format": 1, "tri', "[]", "null", ""])
def test_a_damaged_index_is_named_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    folder = CheckpointFolder(tmp_path, CONFIG)
    for epoch in (1, 2):
        save(folder, epoch)
    (tmp_path / "index.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        again = CheckpointFolder(tmp_path, CONFIG)
        state = again.load_state()
    assert state is not None
    assert state["epoch"] == 1
    assert "index.json" in caplog.text


def test_an_index_of_another_format_is_refused_and_nothing_deleted(tmp_path: Path) -> None:
    save(CheckpointFolder(tmp_path, CONFIG), 1)
    index = tmp_path / "index.json"
    index.write_text(index.read_text().replace('"format": 1', '"format": 99'))
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"index\.json: written in format 99"):
        CheckpointFolder(tmp_path, CONFIG)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_epoch_that_an_earlier_version_recorded_is_read(tmp_path: Path) -> None:
    record = metrics(1).record()
    del record["val_ece"]
    assert EpochMetrics.from_record(record).row()["val_ece"] is None


def test_a_folder_of_another_trial_is_refused(tmp_path: Path) -> None:
    save(CheckpointFolder(tmp_path, CONFIG), 1)
    other = CONFIG.with_settings({"seed": 1})
    with pytest.raises(CheckpointError, match=f"{CONFIG.trial_id}, not of {other.trial_id}"):
        CheckpointFolder(tmp_path, other)


def test_weights_rebuild_their_network(tmp_path: Path) -> None:
    model = network("stem_add")
    config = CONFIG.with_settings({"model.dropout": 0.0})
    path = tmp_path / "weights.safetensors"
    save_weights(
        path,
        model.state_dict(),
        config=config,
        image_shape=(3, 8, 8),
        nr_classes=3,
        epoch=7,
        metrics={"val_acc": 0.5},
    )
    loaded = load_weights(path)
    x, y = images(2), torch.tensor([0, 1])
    assert torch.equal(loaded.model(x, y), model(x, y))
    assert (loaded.config, loaded.epoch, loaded.metrics) == (config, 7, {"val_acc": 0.5})


def test_files_that_are_no_weights_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: no such file"):
        load_weights(tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors: not a readable"):
        load_weights(broken)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(CheckpointError, match="header holds no trial"):
        load_weights(foreign)
    hostile = tmp_path / "hostile.safetensors"
    hostile.write_bytes(pickle.dumps(print))
    with pytest.raises(CheckpointError):
        load_weights(hostile)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    from cpcnn_core.files import write_atomically

    path = tmp_path / "file"
    path.write_text("old")

    def fail(_: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
