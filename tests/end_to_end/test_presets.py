"""A preset of a space that ships, as a newcomer types it: run, chosen from, and one of its trials by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import best, trial
from orchestrator.records.store import Store
from tests.support.paths import ROOT
from tests.support.pictures import write_course

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray beside")]


def test_a_preset_is_run_from_start_to_export(tmp_path: Path) -> None:
    file, results, root = ROOT / "search_spaces" / "mild_or_strong.py", tmp_path / "results", tmp_path / "course"
    root.mkdir()
    write_course(root, 0)
    tiny = [f"data.root={root}", "train.batch_size=4", "data.train_fraction=1", "train.epochs=2", "model.nr_filters=4"]
    given = [option for setting in [*tiny, "seed=0"] for option in ("--set", setting)]
    arguments = [str(file), "--preset", "cpu", *given, "--results", str(results)]
    command = [sys.executable, "-m", "orchestrator.sweep", *arguments, "--trials", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=os.environ.copy())
    assert run.returncode == 0, run.stderr
    assert "the best 2 of 2 trials, by score" in run.stdout
    rows = Store(results / "mild_or_strong-cpu").latest_attempts().rows()
    assert sorted(str(row["model.fusion"]) for row in rows) == ["block_mild", "block_strong"]
    assert {(row["state"], row["data.image_size"], row["model.nr_resnet"]) for row in rows} == {("COMPLETE", 16, 1)}
    epochs = Store(results / "mild_or_strong-cpu").epochs().rows()
    assert {row["epoch"]: row["score"] is not None and row["fid"] is not None for row in epochs} == {1: False, 2: True}
    chosen = CliRunner().invoke(
        best.app, ["--metric", "val_acc", "--results", str(results), "--out", str(tmp_path / "x")]
    )
    assert chosen.exit_code == 0, chosen.output
    assert (tmp_path / "x" / "metrics.json").is_file()

    # the same trial by hand is the same trial, in a folder that names the preset
    again = CliRunner().invoke(trial.app, [*arguments, "--set", "model.fusion=block_mild", "--set", "train.epochs=1"])
    assert again.exit_code == 0, again.output
    assert (results / "mild_or_strong-cpu-trials").is_dir()
