"""A sweep over one's own images, a folder for each class: from the files to what is handed in, by the classes' name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestrator import best, report
from orchestrator.records.store import Store

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("ray beside")]

CLASSES = {"cherry": (200, 30, 60), "grass": (60, 180, 40), "sky": (90, 150, 240)}
SETTINGS = {
    "data.name": "folder",
    "data.test_share": 0.2,
    "model.nr_filters": 4,
    "model.nr_logistic_mix": 1,
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.lr": 0.01,
    "eval.fid_every": 1,
    "eval.fid_images_per_class": 2,
    "eval.fid_extractor": "classifier",
    "eval.fid_reference": "train",
}
SPACE = f"""
question = "Where does the label enter?"
space = {{"model.fusion": choice("none", "stem_add", "block_mild", "block_film")}}
settings = {SETTINGS!r}
objective = "val_acc"
sampler = "random"
trials = 4
"""


def write_folder(root: Path) -> None:
    random = np.random.default_rng(0)
    for name, colour in CLASSES.items():
        (root / name).mkdir(parents=True)
        for index in range(10):
            pixels = np.clip(random.normal(colour, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


def test_a_folder_of_images_is_searched_chosen_from_and_reported(tmp_path: Path) -> None:
    root, results, out = tmp_path / "images", tmp_path / "results", tmp_path / "handed in"
    write_folder(root)
    space = tmp_path / "colours.py"
    space.write_text(f"from search_spaces import choice\n{SPACE}")
    command = [sys.executable, "-m", "orchestrator.sweep", str(space), "--set", f"data.root={root}"]
    run = subprocess.run(
        [*command, "--results", str(results)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    store = Store(results / "colours")
    rows = store.latest_attempts().rows()
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert len({row["data.digest"] for row in rows}) == 1
    for epoch in store.epochs().rows():
        for metric in ("val_acc", "fid"):
            of_classes = {key for key in epoch if key.startswith(f"{metric}.")}
            assert of_classes == {f"{metric}.{name}" for name in CLASSES}

    runner = CliRunner()
    chosen = runner.invoke(best.app, ["--metric", "val_acc", "--results", str(results), "--out", str(out)])
    assert chosen.exit_code == 0, chosen.output
    assert json.loads((out / "metrics.json").read_text())["sweep"] == "colours"
    said = runner.invoke(report.app, ["--results", str(results)])
    assert said.exit_code == 0, said.output
    page = (results / "report.html").read_text()
    assert all(name in page for name in CLASSES)
