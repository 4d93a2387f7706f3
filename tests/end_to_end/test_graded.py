"""An exported folder gives what the course's own scripts would print, of accuracy, bpd and every logit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from orchestrator import best, trial
from tests.support import course
from tests.support.paths import SHARED

SIZE = 16  # of the images that the network sees; the sources are half as large again
SPACE = f'''"""Which?"""
from search_spaces import choice
space = {{"model.fusion": choice("input_map")}}
settings = {{
    "data.name": "cpen455", "data.image_size": {SIZE}, "model.nr_resnet": 2, "model.nr_filters": 6,
    "model.nr_logistic_mix": 2, "model.dropout": 0.0, "train.epochs": 12, "train.batch_size": 8, "train.lr": 0.02,
    "eval.train_images": 0,
}}
trials = 1
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Smooth images of four hues, some of them grey JPEGs, in the course's layout."""
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("validation", 24), ("test", 12)):
        (tmp_path / "images" / split).mkdir(parents=True)
        rows = []
        for index in range(count):
            name, label = f"{split}/{index:07d}.jpg", index % 4
            small = random.integers(0, 256, (4, 4, 3)) // 2 + 40 * np.eye(4, 3)[label]
            image = Image.fromarray(small.clip(0, 255).astype(np.uint8)).resize((24, 24), Image.Resampling.BICUBIC)
            (image.convert("L") if index % 7 == 0 else image).save(tmp_path / "images" / name, quality=95)
            rows.append(f"{name},{-1 if split == 'test' else label}\r\n")
        (tmp_path / "images" / f"{split}.csv").write_bytes("".join(rows).encode())
    return tmp_path / "images"


def exported(tmp_path: Path, root: Path, *settings: str) -> tuple[Path, str]:
    space = tmp_path / "which.py"
    space.write_text(SPACE)
    results, out = tmp_path / "results", tmp_path / "handed-in"
    given = [option for setting in (f"data.root={root}", *settings) for option in ("--set", setting)]
    trained = CliRunner().invoke(trial.app, [str(space), *given, "--results", str(results)])
    assert trained.exit_code == 0, trained.output
    arguments = ["--metric", "val_acc", "--sweep", "which-trials", "--results", str(results), "--out", str(out)]
    chosen = CliRunner().invoke(best.app, arguments)
    assert chosen.exit_code == 0, chosen.output
    return out, " ".join(chosen.output.split())


def graded(folder: Path, root: Path, size: int) -> tuple[float, float]:
    """Accuracy and bpd as the course's scripts print them; asserts that the predictions handed in are theirs."""
    network = course.PlainNetwork(torch.load(folder / "conditional_pixelcnn.pth", weights_only=True))
    _, images, labels = course.load_split(root, "validation", size)
    log_p = course.logits(network, images, 4)
    return float((log_p.argmax(dim=1) == labels).float().mean()), course.bpd(log_p, labels, images)


def test_the_folder_says_what_the_course_s_scripts_print(tmp_path: Path, root: Path) -> None:
    folder, said = exported(tmp_path, root)
    accuracy, bpd = graded(folder, root, SIZE)
    assert 0.3 < accuracy < 1  # neither by chance nor whatever one does
    held = json.loads((folder / "metrics.json").read_text())
    assert held["measured_again"]["val_acc"] == pytest.approx(accuracy, abs=1e-6)
    assert held["measured_again"]["val_bpd"] == pytest.approx(bpd, abs=1e-5)
    assert held["as_graded"] is None
    assert "do not round" not in said

    network = course.PlainNetwork(torch.load(folder / "conditional_pixelcnn.pth", weights_only=True))
    names, images, _ = course.load_split(root, "test", SIZE)
    theirs = course.logits(network, images, 4).double() - np.log(4)
    ours = torch.from_numpy(np.load(folder / "logits.npy"))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=1e-5)  # nats of some 3,000
    rows = (folder / "submission_with_paths.csv").read_text().splitlines()
    assert rows == [f"{name},{label}" for name, label in zip(names, theirs.argmax(dim=1).tolist(), strict=True)]


def test_a_rounded_trial_states_both_figures(tmp_path: Path, root: Path) -> None:
    folder, said = exported(tmp_path, root, "data.quantize=true")
    accuracy, bpd = graded(folder, root, SIZE)
    held = json.loads((folder / "metrics.json").read_text())
    assert held["as_graded"]["val_acc"] == pytest.approx(accuracy, abs=1e-6)
    assert held["as_graded"]["val_bpd"] == pytest.approx(bpd, abs=1e-5)
    assert held["measured_again"]["val_bpd"] != pytest.approx(bpd, abs=1e-5)
    printed = re.search(r"they would give the weights val_acc ([\d.]+), val_bpd ([\d.]+)\.", said)
    assert printed is not None
    assert (float(printed[1]), float(printed[2])) == pytest.approx((accuracy, bpd), abs=1e-5)
    card = (folder / "model_card.md").read_text()
    assert f"val_bpd {held['measured_again']['val_bpd']:.5f}; the course's scripts do not round" in card
    assert f"val_bpd {held['as_graded']['val_bpd']:.5f}" in card


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the real checkpoint and data set: {SHARED}")
def test_the_plain_implementation_gives_the_starter_code_s_published_figures() -> None:
    """The scripts that this file stands for, on a published checkpoint: the first image's four likelihoods."""
    weights = torch.load(
        SHARED / "checkpoints" / "starter_input_map_r1_f40_m5.pth", weights_only=True, map_location="cpu"
    )
    _, images, _ = course.load_split(SHARED / "data" / "cpen455", "validation", 32)
    found = course.logits(course.PlainNetwork(weights), images[:1], 4)
    assert (-found[0]).tolist() == pytest.approx([10224.44, 9915.38, 10063.05, 10379.28], abs=0.1)
