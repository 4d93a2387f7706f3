"""Pictures of finalists: made once from weights and data, stored, and shown by a page that has neither."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cpcnn_core import evaluate
from cpcnn_core.checkpoint import build_model, save_weights
from cpcnn_core.config import TrialConfig
from cpcnn_core.data import to_uint8
from cpcnn_core.metrics import of_evaluation
from orchestrator import report
from orchestrator.choosing import finalists
from orchestrator.choosing.finalists import Finalist
from orchestrator.exporting import pictures
from orchestrator.records.pictures import Picture
from orchestrator.records.store import Attempt, NotThereError, Store
from orchestrator.training import trainer
from tests.contract.networks import settle
from tests.support import pages
from tests.support.fakes import metrics
from tests.support.paths import ROOT, local
from tests.support.times import at

CONFIG = TrialConfig.from_flat({"model.nr_filters": 2, "model.nr_logistic_mix": 1, "model.fusion": "stem_add"})
ID = CONFIG.trial_id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one trial of one epoch, its weights and predictions those of a network that was settled."""
    data = trainer.dataset(CONFIG.data)
    torch.manual_seed(0)
    model = build_model(CONFIG, data.image_shape, data.nr_classes)
    settle(model)
    prior = evaluate.log_prior("uniform", data.train.labels, data.nr_classes)
    found = evaluate.evaluate(model, data.validation, prior, batch_size=640)
    results = tmp_path_factory.mktemp("made") / "results"
    store = Store(results / "one")
    store.create()
    store.write_attempt(Attempt(trial_id=ID, attempt=1, number=0, state="COMPLETE", started=at(), device="cpu"), CONFIG)
    store.add_epoch(ID, 1, metrics(1, **of_evaluation(found), kept_epochs=(1,)))
    trainer.keep_predictions(store, ID, 1, found)
    [row] = store.epochs_of(ID)
    file = local(store.folder / str(row["checkpoint"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    shape, classes = data.image_shape, data.nr_classes
    save_weights(file, model.state_dict(), config=CONFIG, image_shape=shape, nr_classes=classes, epoch=1, metrics={})
    return results


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(Path(shutil.copytree(made, tmp_path / "results")) / "one")


def test_they_are_those_of_the_data_and_their_evidence_is_that_of_the_predictions(store: Store) -> None:
    [one] = finalists.without_pictures(finalists.of_sweep(store))
    said: list[str] = []
    pictures.draw([one], said.append)
    assert said == []
    assert finalists.without_pictures([one]) == []
    found = store.pictures_of(ID, 1)
    data = trainer.dataset(CONFIG.data)
    classified = [each for each in found if each.kind == "validation"]
    table = store.predictions_of(ID, 1).set_index("image")
    wrong = [each for each in classified if each.predicted != each.label]
    assert len(wrong) == pictures.MISTAKES
    assert [each.confidence for each in wrong] == sorted((each.confidence or 0 for each in wrong), reverse=True)
    for each in classified:
        row = table.loc[each.image]
        assert row["label"] == each.label
        expected = row[f"log_p_{each.label}"] - row[f"log_p_{each.other}"]
        assert sum(each.log_ratio or ()) == pytest.approx(expected, abs=1e-2)
        assert (expected < 0) == (each.predicted != each.label)
        shown = np.asarray(Image.open(io.BytesIO(each.png)))
        original = data.validation.images[data.validation.names.index(str(each.image))]
        assert (shown == to_uint8(original)[0].numpy()).all()
    drawn = [each for each in found if each.kind == "drawn"]
    assert {each.label for each in drawn} == set(range(10))
    assert all(each.nearest in data.train.names and (each.distance or 0) > 0 for each in drawn)


def test_of_many_classes_some_are_drawn_at_equal_steps() -> None:
    assert pictures.drawn_classes(3) == [0, 1, 2]
    assert pictures.drawn_classes(20) == list(range(20))
    for many in (21, 100, 1000):
        classes = pictures.drawn_classes(many)
        assert len(set(classes)) == 20
        assert (classes[0], classes[-1] < many) == (0, True)
        assert pictures.per_class_of(many) * len(classes) == 40


def test_predictions_of_some_images_are_enough(store: Store) -> None:
    rows = store.predictions_of(ID, 1).iloc[5:90:3]
    log_p = rows[[f"log_p_{label}" for label in range(10)]].to_numpy()
    store.write_predictions(ID, 1, images=list(rows["image"]), labels=list(rows["label"]), log_likelihood=log_p)
    said: list[str] = []
    pictures.draw([Finalist(store, ID, 1)], said.append)
    assert said == []
    classified = [each for each in store.pictures_of(ID, 1) if each.kind == "validation"]
    assert {each.image for each in classified} <= set(rows["image"])
    true = dict(zip(rows["image"], rows["label"], strict=True))
    assert all(each.label == true[each.image] for each in classified)


def test_a_network_that_draws_too_slowly_has_its_mistakes_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SECONDS", 0.0)
    said: list[str] = []
    pictures.draw([Finalist(store, ID, 1)], said.append)
    assert said == [f"{ID} draws no images for the report: it would take more than 0 s"]
    assert {each.kind for each in store.pictures_of(ID, 1)} == {"validation"}


def test_what_keeps_from_them_is_said(store: Store) -> None:
    one = Finalist(store, ID, 1)
    names = [f"other/{number}" for number in range(300)]
    store.write_predictions(ID, 1, images=names, labels=[0] * 300, log_likelihood=[[0.0] * 10] * 300)
    said: list[str] = []
    pictures.draw([one], said.append)
    assert said == [f"no pictures of {ID}, epoch 1: its predictions are of other images than the data set has now"]
    assert not one.has_pictures
    weights = one.weights
    assert weights is not None
    local(weights).unlink()
    assert finalists.without_pictures([one]) == []  # nothing to draw with: nobody waits for torch


def test_rows_come_back_as_written(store: Store) -> None:
    with pytest.raises(NotThereError):
        store.pictures_of(ID, 1)
    rows = [
        Picture(
            kind="drawn", label=1, png=b"one", nearest="digits/1", nearest_label=2, nearest_png=b"two", distance=0.5
        ),
        Picture(kind="validation", label=1, png=b"x", image="a", predicted=2, confidence=0.9, other=2, log_ratio=[0.5]),
    ]
    store.write_pictures(ID, 1, rows)
    assert store.pictures_of(ID, 1) == rows


def test_report_makes_what_is_missing_and_a_second_one_needs_no_torch(store: Store) -> None:
    results = store.folder.parent
    done = CliRunner().invoke(report.app, ["--results", str(results)])
    assert done.exit_code == 0, done.output
    page = (local(results) / "report.html").read_text()
    for text in ("Images that the finalists draw", "Memorisation: the nearest", "The most confident mistakes", "nats"):
        assert text in page, text
    script = (
        "import sys; sys.argv = ['report', '--results', sys.argv[1]]\n"
        "from orchestrator import report\n"
        "try:\n    report.app()\nexcept SystemExit as error:\n    assert not error.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(results)], check=True, capture_output=True, timeout=120)


def test_a_report_may_do_without(store: Store) -> None:
    results = store.folder.parent
    done = CliRunner().invoke(report.app, ["--results", str(results), "--no-pictures"])
    assert done.exit_code == 0, done.output
    assert "There are no pictures of the finalists" in (local(results) / "report.html").read_text()
    assert not (local(store.folder) / "pictures").exists()


def test_the_page_of_the_tables_has_every_column(store: Store) -> None:
    store.write_pictures(ID, 1, [Picture(kind="drawn", label=1, png=b"one")])
    schema = pq.read_schema(local(store.folder) / "pictures" / f"{ID}-0001.parquet")
    there = [(field.name, re.sub(r"<\w+: ", "<", str(field.type))) for field in schema]
    documented = pages.rows((ROOT / "docs" / "results-schema.md").read_text(), "`pictures`")
    assert [(name.strip("`"), kind) for name, kind, *_ in documented] == there
