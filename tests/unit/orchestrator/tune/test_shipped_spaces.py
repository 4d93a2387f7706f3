"""Each space that ships, and each of its presets, as a plan and as a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator import best, sweep, trial
from orchestrator.records.store import Store
from orchestrator.search import space
from orchestrator.training import trainer
from orchestrator.tune import dry_run, probing
from orchestrator.tune.plan import Plan
from tests.support.pictures import write_course
from tests.unit.orchestrator.search.test_space import ASKED

BATCH_OF = "train.batch_size=4"  # of data that has eight images in a split


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_course(tmp_path_factory.mktemp("course"), 0)


@pytest.mark.parametrize(("path", "preset"), ASKED, ids=[f"{path.stem}-{preset}" for path, preset in ASKED])
def test_each_is_planned(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, path: Path, preset: str | None
) -> None:
    given = ["data.name=digits"] if path.stem == "digits" else [f"data.root={root}", BATCH_OF, "data.train_fraction=1"]
    plan = Plan("one", space.read(path, given, preset=preset), tmp_path, trials=3)
    monkeypatch.setattr(probing, "probe", lambda config, dataset: probing.Probe(config, 1, 1, 1.0, 1))
    monkeypatch.setattr(space, "_SOME_CORNERS", 32)  # each is a network that is built to be counted
    monkeypatch.setattr(trainer, "check", lambda config: None)  # which makes what FID is measured with
    console = Console(record=True, width=250)
    dry_run.show(console, plan)
    said = console.export_text()
    named = f"{path}, preset {preset}" if preset else str(path)
    assert said.startswith(f"{named}: ")
    assert "3 trials into" in said


@pytest.mark.xdist_group("ray")
def test_a_preset_is_run_from_start_to_export(tmp_path: Path, root: Path) -> None:
    file, results = Path("search_spaces/mild_or_strong.py").resolve(), tmp_path / "results"
    tiny = [f"data.root={root}", BATCH_OF, "data.train_fraction=1", "train.epochs=2", "model.nr_filters=4", "seed=0"]
    given = [option for setting in tiny for option in ("--set", setting)]
    arguments = [str(file), "--preset", "cpu", *given, "--results", str(results)]
    run = CliRunner().invoke(sweep.app, [*arguments, "--trials", "2"])
    assert run.exit_code == 0, run.output
    assert "the best 2 of 2 trials, by score" in run.output
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
