"""A trial of which some epochs and some images are scored: all that reads its results goes by the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cpcnn_core import evaluate
from cpcnn_core.config import DataConfig
from orchestrator import best, report, status, trial
from orchestrator.choosing import finalists
from orchestrator.exporting import folder, pictures, submission
from orchestrator.records.store import Store, config_of
from orchestrator.training import trainer

SPACE = '''"""Which images?"""
space = {}
settings = {
    "data.train_fraction": 0.05, "model.fusion": "stem_add", "model.nr_filters": 2, "model.nr_logistic_mix": 1,
    "train.epochs": 3, "eval.every": 2, "eval.max_images": 60, "eval.train_images": 10,
}
objective = "val_acc"
'''


def call(app: typer.Typer, *arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.output.split())


def test_what_is_scored_is_the_same_for_all_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "verify_in_fresh_process", folder.verify)
    monkeypatch.setattr(submission, "PER_CLASS", 1)
    monkeypatch.setattr(submission, "measure", lambda *_: "not measured")
    monkeypatch.setattr(pictures, "SECONDS", 0.0)
    results = tmp_path / "results"
    (tmp_path / "one.py").write_text(SPACE)
    said = call(trial.app, tmp_path / "one.py", "--name", "one", "--results", results)
    store = Store(results / "one")
    [row] = store.trials().rows()
    trial_id = str(row["trial_id"])
    epochs = store.epochs_of(trial_id)
    assert [epoch["val_acc"] is None for epoch in epochs] == [True, False, False]
    assert [(epoch["val_images"], epoch["val_images_of"]) for epoch in epochs] == [(None, None), (60, 300), (60, 300)]
    data = trainer.dataset(trial_config(store, trial_id))
    names = list(evaluate.scored(data.validation, 60).names)
    assert store.predictions_table(trial_id, 2)["image"].to_pylist() == names
    assert "COMPLETE" in said + call(status.app, "--results", results)

    out = tmp_path / "out"
    said = call(best.app, "--metric", "val_acc", "--results", results, "--out", out)
    assert "Scored on 60 of 300 validation images" in said
    record = json.loads((out / folder.METRICS).read_text())
    assert record["accuracy"]["validation"] == {
        "value": record["recorded"]["val_acc"],
        "images": 60,
        "of": 300,
        "reason": None,
    }
    assert "60 of 300" in (out / folder.CARD).read_text()

    [one] = finalists.of_sweep(store)
    pictures.draw([one], print)
    assert {each.image for each in store.pictures_of(trial_id, one.epoch)} <= set(names)
    call(report.app, "--results", results, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "60 of 300 validation images" in page


def trial_config(store: Store, trial_id: str) -> DataConfig:
    [*_, row] = store.attempts_of(trial_id)
    return config_of(row).data
