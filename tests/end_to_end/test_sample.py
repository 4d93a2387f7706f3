"""Images of a trial's kept weights, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cpcnn_core import quality
from cpcnn_core.checkpoint import build_model, save_weights, weights_name
from cpcnn_core.config import TrialConfig
from cpcnn_core.files import sha256
from orchestrator import trial
from orchestrator.records.location import Folder
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from tests.support import remote
from tests.support.fakes import metrics
from tests.support.paths import local

CONFIG = TrialConfig.from_flat(
    {"model.fusion": "input_add", "model.nr_filters": 4, "model.nr_logistic_mix": 2, "seed": 7}
)
SHAPE, NR_CLASSES, EPOCH = (3, 8, 8), 3, 2


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A sweep with one trial, of whose two epochs the last one's weights were kept."""
    store = Store(tmp_path / "results" / "sweep")
    store.create()
    for epoch in (1, EPOCH):
        store.add_epoch(CONFIG.trial_id, 1, metrics(epoch))
    save_weights(
        local(store.checkpoint_folder(CONFIG.trial_id)) / weights_name(EPOCH),
        build_model(CONFIG, SHAPE, NR_CLASSES).state_dict(),
        config=CONFIG,
        image_shape=SHAPE,
        nr_classes=NR_CLASSES,
        epoch=EPOCH,
        metrics={},
    )
    return tmp_path / "results"


def sample(results: Folder, *arguments: object, source: str = CONFIG.trial_id) -> tuple[int, str]:
    done = CliRunner().invoke(trial.app, ["sample", source, "--results", str(results), *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image)


def test_the_images_that_fid_was_measured_of_come_again_and_others_with_another_seed(results: Path) -> None:
    file = local(Store(results / "sweep").checkpoint_folder(CONFIG.trial_id)) / weights_name(EPOCH)
    assert sample(results, "--count", 2, "--out", results / "a")[0] == 0
    wanted = quality.draw(build_model(CONFIG, SHAPE, NR_CLASSES), 2, seed=CONFIG.seed)
    assert len(list((results / "a" / "samples").iterdir())) == len(wanted.images) == 6
    for i, image in enumerate(wanted.images):
        drawn = pixels(results / "a" / "samples" / f"Class{i // 2}_image_{i % 2 + 1:02d}.png")
        assert np.array_equal(drawn, image.permute(1, 2, 0).numpy())
    assert json.loads((results / "a" / "request.json").read_text())["sha256"] == sha256(file)

    assert sample(results, "--count", 2, "--seed", 8, "--out", results / "b", source=str(file))[0] == 0
    assert not np.array_equal(pixels(results / "a" / "samples.png"), pixels(results / "b" / "samples.png"))


def test_an_image_is_completed_for_the_classes_asked_for(results: Path) -> None:
    given = torch.randint(0, 256, (*SHAPE[1:], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(given.numpy()).save(results / "given.png")
    out = results / "completed"
    asked = ["--complete", results / "given.png", "--from-row", 5, "--temperature", 0.5, "--out", out]
    assert sample(results, "--count", 1, "--count", "0=0", "--count", "2=3", *asked)[0] == 0
    files = sorted(file.name for file in (out / "samples").iterdir())
    assert files == ["Class1_image_01.png", *(f"Class2_image_0{i}.png" for i in (1, 2, 3))]
    images = [pixels(out / "samples" / name) for name in files]
    assert all(np.array_equal(image[:5], given[:5].numpy()) for image in images)
    assert not np.array_equal(images[1][5:], images[2][5:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "1"], "after epoch 1 were not kept; there are those of 2"),
        (["--count", "3=1"], "--count 3=1: the model knows the classes 0 to 2"),
        (["--count", "many"], "--count many: expected N, images of each class, or CLASS=N"),
        (["--count", "0"], "--count 0: no images"),
        (["--from-row", "2"], "--from-row 2: needs --complete IMAGE"),
        (["--complete", "PNG", "--from-row", "9"], "--from-row 9: expected 0 to 8"),
        (["--complete", "nothing.png"], "nothing.png: cannot be read"),
        (["--complete", __file__], "cannot be decoded (no known image format)"),
        (["--temperature", "inf"], "--temperature inf: expected a finite number"),
        (["--sweep", "other"], "no trial"),
    ],
)
def test_what_cannot_be_drawn_is_said_and_leaves_no_folder(results: Path, arguments: list[str], message: str) -> None:
    Image.new("RGB", (8, 8)).save(results / "given.png")
    asked = [str(results / "given.png") if argument == "PNG" else argument for argument in arguments]
    code, said = sample(results, *asked, "--out", results / "out")
    assert code == 2
    assert message in said
    assert {file.name for file in results.iterdir()} == {"sweep", "given.png"}


def test_weights_that_are_not_finite_draw_nothing(results: Path) -> None:
    file = local(Store(results / "sweep").checkpoint_folder(CONFIG.trial_id)) / weights_name(EPOCH)
    assert isinstance(file, Path)
    state = build_model(CONFIG, SHAPE, NR_CLASSES).state_dict()
    state["nin_out.conv.bias"][:] = float("nan")
    save_weights(file, state, config=CONFIG, image_shape=SHAPE, nr_classes=NR_CLASSES, epoch=EPOCH, metrics={})
    for source in (CONFIG.trial_id, str(file)):
        code, said = sample(results, "--count", 1, "--out", results / "out", source=source)
        assert code == 2
        assert f"{weights_name(EPOCH)}: 1 of" in said
        assert "NaN or infinite values: nin_out.conv.bias (20 of 20 values)" in said
    assert not (results / "out").exists()


@pytest.mark.parametrize("where", ["disk", "url"])
def test_weights_that_are_not_the_recorded_ones_draw_nothing(results: Path, where: str) -> None:
    kept = Store(results / "sweep").checkpoint_folder(CONFIG.trial_id) / weights_name(EPOCH)
    assert isinstance(kept, Path)
    content = kept.read_bytes()
    store = Store(results / "sweep") if where == "disk" else Store(remote.folder())
    store.create()
    store.write_sweep(SweepRecord.model_validate({"name": "one"}))
    store.add_epoch(CONFIG.trial_id, 1, metrics(EPOCH))
    folder = store.checkpoint_folder(CONFIG.trial_id)
    index = {"format": 1, "trial_id": CONFIG.trial_id, "history": [], "states": {}}
    (folder / "index.json").write_bytes(json.dumps(index | {"weights": {kept.name: sha256(kept)}}).encode())
    for damaged in (False, True):
        (folder / kept.name).write_bytes(content[:-7] + bytes([content[-7] ^ damaged]) + content[-6:])
        out = results / f"out {damaged}"
        for source in (CONFIG.trial_id, str(folder / kept.name)):
            code, said = sample(store.folder.parent, "--count", 1, "--out", out, source=source)
            if damaged:
                assert (code, out.exists()) == (2, False)
                assert f"{folder / kept.name}: damaged, its SHA-256 is not the one that index.json beside it" in said
            else:
                assert code == 0, said
                shutil.rmtree(out)


def test_old_images_are_never_mixed_with_new_ones(results: Path) -> None:
    (results / "out").mkdir()
    code, said = sample(results, "--count", 1, "--out", results / "out")
    assert (code, "exists" in said) == (2, True)


def test_a_trial_of_several_sweeps_is_asked_about(results: Path) -> None:
    again = Store(results / "again")
    again.create()
    again.add_epoch(CONFIG.trial_id, 1, metrics(EPOCH))
    assert "is in again, sweep; say which with --sweep" in sample(results, "--out", results / "out")[1]
    assert sample(results, "--sweep", "sweep", "--count", 1, "--out", results / "out")[0] == 0
