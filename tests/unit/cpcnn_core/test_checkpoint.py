"""Checkpoints are whole or not there; a damaged one is named and passed over."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from cpcnn_core.checkpoint import (
    CheckpointError,
    CheckpointFolder,
    load_weights,
    save_weights,
    weights_name,
)
from cpcnn_core.config import TrainConfig, TrialConfig
from cpcnn_core.files import sha256
from cpcnn_core.keeping import kept_epochs
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
    history += [metrics(4, fid=25.0), metrics(5)]
    assert kept_epochs(history, TrainConfig(), range(1, 6)) == (1, 3, 5)


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
        cut = {"truncated": content[: len(content) // 2], "flipped": content, "empty": bytearray()}[damage]
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


# --- weights that are not what was written ---


def written(folder: Path) -> Path:
    """The weights of a committed epoch."""
    save(CheckpointFolder(folder, CONFIG), 1)
    return folder / weights_name(1)


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> None:
    """Change the tensors and the header of a weights file; its checksum is no longer the recorded one."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["cpcnn"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    change(tensors, header)
    save_file(tensors, path, {"cpcnn": json.dumps(header)})


def test_weights_that_are_not_finite_are_refused_by_tensor(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "index.json").unlink()
    for value in (float("nan"), float("inf"), -float("inf")):

        def spoil(tensors: dict[str, torch.Tensor], _: object, value: float = value) -> None:
            tensors["nin_out.conv.bias"][0] = value

        rewritten(path, spoil)
        with pytest.raises(
            CheckpointError, match=rf"{path.name}: 1 of .* NaN or infinite values: nin_out\.conv\.bias \(1 of"
        ):
            load_weights(path)


def test_classes_have_their_names_or_of_an_earlier_release_their_numbers(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert load_weights(path).class_names == ("0", "1", "2")
    for names, expected in ((["a, b", "2", "0"], ("a, b", "2", "0")), (None, ("0", "1", "2"))):
        (tmp_path / "index.json").unlink(missing_ok=True)
        rewritten(path, _set("class_names", names))
        assert load_weights(path).class_names == expected


@pytest.mark.parametrize("where", ["tensors", "header"])
@pytest.mark.parametrize("records", ["index.json", "index.before.json", "SHA256SUMS"])
def test_weights_that_are_not_the_recorded_ones_are_refused(tmp_path: Path, where: str, records: str) -> None:
    path = written(tmp_path)
    index = tmp_path / "index.json"
    if records == "SHA256SUMS":
        (tmp_path / records).write_text(f"{'0' * 64}  metrics.json\n{sha256(path)}  {path.name}\n")
        index.unlink()
    else:
        index.rename(tmp_path / records)
    assert load_weights(path).epoch == 1
    content = bytearray(path.read_bytes())
    at = len(content) - 7 if where == "tensors" else content.index(b"image_shape")
    content[at] ^= 1  # one bit of a weight, which nothing else could find
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"{path.name}: damaged, its SHA-256 is not the one that {records} beside it"
    ):
        load_weights(path)


def test_a_copy_is_checked_by_what_lies_beside_its_original(tmp_path: Path) -> None:
    path, copy = written(tmp_path / "there"), tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    assert load_weights(copy, origin=path).epoch == 1
    content = bytearray(copy.read_bytes())
    content[-7] ^= 1
    copy.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{path}: damaged"):
        load_weights(copy, origin=path)
    assert load_weights(copy).epoch == 1  # nothing records what it should be


def test_weights_beside_a_damaged_index_are_read_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert load_weights(path).epoch == 1
    assert "index.json: damaged" in caplog.text


def _set(key: str, value: object) -> Callable[[Any, dict[str, Any]], None]:
    def change(_: object, header: dict[str, Any]) -> None:
        *path, last = key.split(".")
        for part in path:
            header = header[part]
        header[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", 2), "written in format 2, this version reads 1"),
        (_set("format", None), r"its header is broken \(format"),
        (_set("image_shape", [3, 8]), r"its header is broken \(image_shape"),
        (_set("image_shape", [3, 9, 8]), "the network of its header cannot be built: images of 9x8"),
        (
            _set("image_shape", [1, 8, 8]),
            r"do not fit the network of its own header: u_init\.conv\..* expected \(4, 2, 2, 3\)",
        ),
        (_set("image_shape", [10**30, 8, 8]), "its header is of a larger network than its"),
        (_set("nr_classes", "3"), r"its header is broken \(nr_classes"),
        (_set("nr_classes", 4), r"fusion\.stem_add\.e\.weight is \(4, 3\), expected \(4, 4\)"),
        (_set("class_names", ["cat", "dog"]), "its header has 2 names for 3 classes"),
        (_set("class_names", ["cat", "dog", "cat"]), "its header has 2 names for 3 classes"),
        (_set("class_names", [0, 1, 2]), r"its header is broken \(class_names"),
        (_set("nr_classes", 10**9), "its header is of a larger network than its"),
        (_set("config.model.nr_resnet", 10**9), "its header is of a larger network than its"),
        (_set("config.model.nr_resnet", 2), r"up_u\.0\.1\.[a-z_.0-9]* is missing"),
        (_set("config.model.nr_filters", 0), r"its header is broken \(model\.nr_filters: 0 is not allowed"),
        (_set("config.model.nr_filters", 10**6), "its header is of a larger network than its"),
        (_set("config.model.fusion", "none"), r"fusion\.stem_add\.e\.weight is unknown"),
        (_set("config.model.fusion", "stm_add"), r"its header is broken \(model\.fusion: 'stm_add' is no fusion"),
        (_set("config.modell", {}), r"its header is broken \(modell: no such field"),
        (lambda tensors, header: tensors.pop("nin_out.conv.bias"), r"nin_out\.conv\.bias is missing"),
        (lambda tensors, header: tensors.update(more=torch.zeros(1)), "more is unknown"),
        (lambda tensors, header: tensors.update({"nin_out.conv.bias": torch.zeros(2)}), r"is \(2,\), expected \(20,\)"),
        (lambda tensors, header: tensors.update({"nin_out.conv.bias": torch.zeros(20).long()}), r"bias is of int64"),
        (lambda tensors, header: tensors.clear(), "its header is of a larger network than its 0 tensors"),
    ],
)
def test_a_header_that_is_broken_or_of_another_network_is_one_error(
    tmp_path: Path, change: Callable[[Any, Any], None], message: str
) -> None:
    path = written(tmp_path)
    (tmp_path / "index.json").unlink()
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=rf"{path.name}: (.*){message}") as raised:
        load_weights(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("header", ["", "{", "[]", "null", "3", "[" * 10_000, '{"format": 1}'])
def test_a_header_that_is_no_object_is_one_error(tmp_path: Path, header: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file(network("stem_add").state_dict(), path, {"cpcnn": header})
    with pytest.raises(CheckpointError, match=r"w\.safetensors: its header is broken \("):
        load_weights(path)


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    torch.save(network("stem_add").state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"not a readable safetensors file but a file of torch\.save; expected weights"
    ):
        load_weights(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="but a Git LFS pointer, not the file it stands for; run `git lfs pull`"):
        load_weights(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match=r"w\.safetensors: is a folder"):
        load_weights(path)


def damaged(content: bytes, draw: st.DataObject, most: int) -> bytes:
    """The bytes cut short, with some of the first `most` changed, or with a stretch of those gone."""
    how = draw.draw(st.sampled_from(["cut", "changed", "gone"]))
    most = min(most, len(content))
    if how == "cut":
        return content[: draw.draw(st.integers(0, len(content) - 1))]
    at = draw.draw(st.integers(0, most - 1))
    if how == "gone":
        return content[:at] + content[draw.draw(st.integers(at + 1, most)) :]
    changed = bytearray(content)
    for index, value in draw.draw(st.dictionaries(st.integers(0, most - 1), st.integers(0, 255), min_size=1)).items():
        changed[index] = value
    return bytes(changed)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints."""
    folder = tmp_path_factory.mktemp("sound")
    checkpoints = CheckpointFolder(folder, CONFIG)
    for epoch in (1, 2):
        save(checkpoints, epoch)
    return folder


@settings(max_examples=150)
@given(st.data())
def test_whatever_happens_to_a_weights_file_is_no_error_or_one(sound: Path, data: st.DataObject) -> None:
    content = (sound / weights_name(2)).read_bytes()
    path = sound / "damaged.safetensors"  # which no index names
    path.write_bytes(damaged(content, data, 8 + int.from_bytes(content[:8], "little")))
    with contextlib.suppress(CheckpointError):
        load_weights(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 10**12)
    | st.floats()
    | st.sampled_from(["", "x", "9", "../x", "1" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "epoch", "sha256"]), inner),
    max_leaves=4,
)


def elsewhere(tree: Any, draw: st.DataObject) -> Any:
    """The tree with another value at a random place, or without it."""
    if not isinstance(tree, dict | list) or not tree or draw.draw(st.integers(0, 4)) == 0:
        return draw.draw(JSON)
    keys = sorted(tree) if isinstance(tree, dict) else range(len(tree))
    key: Any = draw.draw(st.sampled_from(keys))
    tree = tree.copy()
    if draw.draw(st.integers(0, 5)) == 0:
        del tree[key]
    else:
        tree[key] = elsewhere(tree[key], draw)
    return tree


@settings(max_examples=150)
@given(st.data())
def test_whatever_stands_in_the_header_is_no_error_or_one(sound: Path, data: st.DataObject) -> None:
    path = sound / "damaged.safetensors"
    path.write_bytes((sound / weights_name(2)).read_bytes())
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["cpcnn"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    save_file(tensors, path, {"cpcnn": json.dumps(elsewhere(header, data))})
    with contextlib.suppress(CheckpointError):
        load_weights(path)


@settings(max_examples=150)
@given(st.data())
def test_whatever_stands_in_the_index_training_goes_on_from_somewhere_or_says_why(
    sound: Path, data: st.DataObject
) -> None:
    index = sound / "index.json"
    whole = index.read_bytes()
    try:
        if data.draw(st.booleans()):
            index.write_text(json.dumps(elsewhere(json.loads(whole), data)))
        else:
            index.write_bytes(damaged(whole, data, len(whole)))
        with contextlib.suppress(CheckpointError):
            folder = CheckpointFolder(sound, CONFIG)
            state = folder.load_state()
            assert state is None or state["epoch"] in (1, 2)
            if folder.history:
                kept_epochs(folder.history, CONFIG.train, range(1, 6))
        with contextlib.suppress(CheckpointError):
            load_weights(sound / weights_name(2))
    finally:
        index.write_bytes(whole)


@pytest.mark.parametrize("part", ["model", "ema"])
def test_a_state_whose_weights_are_not_finite_is_refused_by_tensor(tmp_path: Path, part: str) -> None:
    folder = CheckpointFolder(tmp_path, CONFIG)
    sound_one = {"model": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2), "n_averaged": torch.tensor(3)}}
    folder.save_state(sound_one, epoch=0, step=1)
    folder.save_state(sound_one | {part: {"w": torch.tensor([1.0, float("inf")])}}, epoch=0, step=2)
    with pytest.raises(CheckpointError, match=rf"state-00000002\.pt: .* infinite values: {part}\.w \(1 of 2"):
        CheckpointFolder(tmp_path, CONFIG).load_state()


@pytest.mark.parametrize("content", [b"no state", pickle.dumps(print)])
def test_a_state_that_cannot_be_read_is_named_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    folder = CheckpointFolder(tmp_path, CONFIG)
    for epoch in (1, 2):
        save(folder, epoch)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "state-00000002.pt").write_bytes(content)
    index["states"]["state-00000002.pt"]["sha256"] = sha256(tmp_path / "state-00000002.pt")
    (tmp_path / "index.json").write_text(json.dumps(index))
    with caplog.at_level(logging.WARNING):
        state = CheckpointFolder(tmp_path, CONFIG).load_state()
    assert state is not None
    assert state["epoch"] == 1
    assert "state-00000002.pt" in caplog.text


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


def drawn(epoch: int, **values: float) -> EpochMetrics:
    return metrics(epoch, **values).replaced(sample_seconds=1.0)


def test_epochs_with_a_picture_and_every_so_manieth_are_kept_the_most_valuable_ones() -> None:
    """The values are such that the first epoch is the best, and each one after it worse."""
    history = [(drawn if epoch % 4 == 0 else metrics)(epoch, val_bpd=float(epoch)) for epoch in range(1, 14)]
    there = range(1, 14)
    assert kept_epochs(history, TrainConfig(), there) == (1, 4, 8, 12, 13)
    assert kept_epochs(history, TrainConfig(keep_every=5), there) == (1, 4, 5, 8, 10, 12, 13)
    assert kept_epochs(history, TrainConfig(keep_every=5, keep_most=2), there) == (1, 4, 5, 13)
    assert kept_epochs(history, TrainConfig(keep_most=0), there) == (1, 13)
    assert kept_epochs(history, TrainConfig(keep_every=5), {1, 8, 13}) == (1, 8, 13), "what is gone does not come back"


def test_what_is_kept_on_disk_is_what_is_named(tmp_path: Path) -> None:
    config = CONFIG.with_settings({"train.keep_every": 2, "train.keep_most": 2})
    folder = CheckpointFolder(tmp_path, config)
    for epoch in range(1, 8):
        last = save(folder, epoch, val_bpd=float(epoch))
        assert sorted(p.name for p in tmp_path.glob("weights-*")) == [weights_name(e) for e in last.kept_epochs]
    assert last.kept_epochs == (1, 2, 4, 7)
