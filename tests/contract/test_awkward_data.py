"""One data set that has all that is awkward goes the whole way: it is trained, chosen, exported, shown and opened."""

from __future__ import annotations

import csv
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from cpcnn_core.class_names import in_words
from cpcnn_core.config import ConfigError
from orchestrator import best, open_model, report, trial
from orchestrator.exporting import folder
from orchestrator.records.store import Store

CLASSES = ("1", "<b>bold</b> :smile:", "[red]a.b", "`md` **x**", "n" * 80, 'x, "y" | z', "猫 & 🐱")  # in their order
H, W = 8, 12

SPACE = """
\"\"\"Which?\"\"\"
from search_spaces import choice
space = {"model.fusion": choice("stem_add", "none")}
settings = {
    "data.name": "csv", "model.nr_resnet": 1, "model.nr_filters": 2, "model.nr_logistic_mix": 1, "train.epochs": 1,
    "train.batch_size": 14, "eval.train_images": 2, "eval.fid_every": 1, "eval.fid_extractor": "classifier",
    "eval.fid_images_per_class": 2,
}
objective = "val_acc"
"""


@dataclass(frozen=True)
class Trained:
    """Where a trial of the data set lies, and what the command said."""

    root: Path
    space: Path
    results: Path
    said: str

    @property
    def store(self) -> Store:
        return Store(self.results / "odd")


def call(app: typer.Typer, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.output


def write_images(root: Path) -> None:
    """Grey images that are not square, of which the test split has none, and the class `1` one for validation."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2)):
        (root / split).mkdir(parents=True)
        with (root / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            for label, name in enumerate(CLASSES):
                for number in range(1 if split == "validation" and label == 0 else count):
                    file = f"{split}/{label}-{number}.png"
                    Image.fromarray(random.integers(0, 256, (H, W), dtype=np.uint8)).save(root / file)
                    csv.writer(stream).writerow([file, name])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    there = tmp_path_factory.mktemp("awkward")
    root, space = there / "data", there / "space.py"
    write_images(root)
    space.write_text(SPACE)
    code, said = call(
        trial.app, space, "--set", f"data.root={root}", "--results", there / "results", "--name", "odd", "--plain"
    )
    assert code == 0, said
    return Trained(root, space, there / "results", said)


@pytest.fixture(scope="module")
def exported(trained: Trained) -> Path:
    out = trained.results.parent / "out"
    with pytest.MonkeyPatch.context() as patch:  # a fresh process takes seconds to start
        patch.setattr(folder, "verify_in_fresh_process", folder.verify)
        code, said = call(best.app, "--metric", "val_acc", "--results", trained.results, "--sweep", "odd", "--out", out)
    assert code == 0, said
    assert "The data set has no test images, so that there are no predictions of them to hand in." in said
    return out


def test_the_records_name_the_classes(trained: Trained) -> None:
    store = trained.store
    assert tuple(store.class_names()) == CLASSES
    [row] = store.epochs().rows()
    assert {name: row[f"val_acc.{name}"] is not None for name in CLASSES} == dict.fromkeys(CLASSES, True)
    assert {name for name in CLASSES if row[f"fid.{name}"] is None} == {"1"}  # one image has no covariance
    assert str(row["fid_class_error"]).startswith("1: 1 image(s)")
    assert row["test_acc"] is None
    assert row["test_acc_error"] is None
    table = store.predictions_of(row["trial_id"], 1)
    assert [name for name in map(str, table) if name.startswith("log_p_")] == [f"log_p_{label}" for label in range(7)]


def test_the_page_names_them_and_none_is_markup(trained: Trained) -> None:
    out = trained.results.parent / "report.html"
    assert call(report.app, "--results", trained.results, "--sweep", "odd", "--out", out)[0] == 0
    page = out.read_text(encoding="utf-8")
    shown = html.unescape(re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    for label in range(len(CLASSES)):
        assert in_words(label, CLASSES) in shown
    assert "<b>bold" not in page
    assert "width: 40px" in page  # a drawn one
    assert "width: 144px; height: 96px" in page  # with its evidence


def test_an_export_has_all_but_predictions(trained: Trained, exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert not names & {"submission.csv", "submission_with_paths.csv", "logits.npy"}
    record = json.loads((exported / "metrics.json").read_text(encoding="utf-8"))
    assert tuple(record["class_names"]) == CLASSES
    assert np.shape(record["confusion"]) == (7, 7)
    assert record["accuracy"]["test"]["reason"] == "the data set has no test images"
    card = (exported / "model_card.md").read_text(encoding="utf-8")
    assert "13 validation, no test images" in card
    assert "submission.csv" not in card
    assert "6 `猫 & 🐱`" in card
    assert len(list((exported / "samples").iterdir())) == 7 * 25
    with Image.open(exported / "samples" / "Class6_image_25.png") as image:
        assert (image.size, image.mode) == ((W, H), "L")
    scope: dict[str, Any] = {}  # Any: of what a file says
    exec((exported / "model.py").read_text(encoding="utf-8").partition("# --- the network\n")[0], scope)
    assert tuple(scope["CLASS_NAMES"]) == CLASSES


def test_the_model_knows_them(exported: Path, tmp_path: Path) -> None:
    model = open_model(exported)
    assert model.class_names == CLASSES
    images, labels = model.sample({"[red]a.b": 1, "1": 2})
    assert (images.shape, labels.tolist()) == ((3, H, W, 1), [0, 0, 2])
    assert model.classify(images).shape == (3, 7)
    assert model.evidence(images, "1", 6).shape == (3, H, W)
    with pytest.raises(ConfigError, match=r"per_class: \[red\]a.c: .*did you mean \[red\]a\.b\?"):
        model.sample({"[red]a.c": 1})
    weights, out = exported / "weights.safetensors", tmp_path / "drawn"
    code, said = call(trial.app, "sample", weights, "--count", 'x, "y" | z=1', "--count", "6=2", "--out", out)
    assert code == 0, said
    assert sorted(path.name for path in (out / "samples").iterdir()) == [
        "Class5_image_01.png", "Class6_image_01.png", "Class6_image_02.png",
    ]  # fmt: skip
    assert tuple(json.loads((out / "request.json").read_text())["class_names"]) == CLASSES


def test_a_class_is_chosen_by_and_asked_for(trained: Trained) -> None:
    asked = ["--results", trained.results, "--sweep", "odd", "--no-export"]
    for name in CLASSES:
        code, said = call(best.app, "--metric", f"val_acc.{name}", *asked)
        assert code == 0, said
        quoted = f"`fid.{name.replace('`', '``')}`"
        code, said = call(best.app, "--metric", "val_acc", "--where", f"{quoted} >= 0", *asked)
        assert (code == 0) == (name != "1"), said
    code, said = call(best.app, "--metric", "val_acc.[red]a.c", *asked)
    assert code == 2
    assert "did you mean val_acc.[red]a.b?" in re.sub(r"\s+", " ", said)


def test_a_look_at_the_data_names_them_and_says_what_is_not_there(trained: Trained, tmp_path: Path) -> None:
    arguments = ["look", trained.space, "--set", f"data.root={trained.root}"]
    code, said = call(trial.app, *arguments, "--out", tmp_path / "seen.png")
    assert code == 0, said
    for name in CLASSES:
        assert name in said
    code, said = call(trial.app, *arguments, "--split", "test", "--out", tmp_path / "none.png")
    assert (code, said.splitlines()[-1]) == (
        2,
        "error: --split test: csv has no test images; choose train or validation",
    )


def test_what_needs_test_images_is_refused_in_a_sentence(trained: Trained) -> None:
    code, said = call(
        trial.app, trained.space, "--set", f"data.root={trained.root}", "--set", "eval.fid_reference=test", "--results",
        trained.results, "--name", "other",
    )  # fmt: skip
    assert code == 2
    assert "eval.fid_reference=test: csv has no test images; choose validation or train" in said
    assert not (trained.results / "other").exists()
