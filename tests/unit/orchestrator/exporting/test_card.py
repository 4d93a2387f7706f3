"""The model card says what is known, all of it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from cpcnn_core.config import TrialConfig
from orchestrator.exporting import card
from orchestrator.exporting.export_record import Accuracy, ExportRecord
from orchestrator.records.kinds import introduce
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Attempt, Store
from tests.support.fakes import metrics
from tests.support.times import at

DATA: Any = SimpleNamespace(
    image_shape=(1, 8, 8),
    nr_classes=10,
    class_names=tuple("0123456789"),
    train=range(1000),
    validation=range(300),
    test=range(297),
)
CONFIG = TrialConfig.from_flat(
    {"model.nr_filters": 4, "train.lr": 0.00123456, "train.ema_decay": None, "train.grad_clip": None, "seed": 7}
)


LINEAGE = {
    "lineage.parent": "0123456789ab",
    "lineage.root": "0123456789ab",
    "lineage.weights": "a" * 64,
    "lineage.epochs_before": 5,
    "train.epochs": 9,
}


def written(tmp_path: Path, config: TrialConfig, **changes: Any) -> str:
    store = Store(tmp_path / "digits")
    store.create()
    introduce(store, "sweep" if config.source is None else "imported", "Which is best?", "space.py")
    attempt = Attempt(trial_id=config.trial_id, attempt=1, number=0, state="COMPLETE", started=at(), device="cpu")
    store.write_attempt(attempt, config)
    store.add_epoch(config.trial_id, 1, metrics(1, val_acc=0.99996))
    entry = Entry(store, store.attempts_of(config.trial_id)[-1], tuple(store.epochs_of(config.trial_id)))
    origin = {"git_commit": "c0ffee", "host": "here", "device": "cpu", "started": "2026", "ended": "2027"}
    content: dict[str, Any] = {
        "sweep": "digits",
        "trial_id": config.trial_id,
        "chosen_by": "val_acc",
        "class_names": DATA.class_names,
        "confusion": [],
        "recorded": {"epoch": 1},
        "measured_again": {"val_acc": 0.999996, "val_bpd": 3.2},
        "accuracy": {
            "train": Accuracy(value=0.99, images=100, of=1000),
            "validation": Accuracy(value=0.999996, images=300, of=300),
            "test": Accuracy(value=0.75, images=297, of=297),
        },
        "as_graded": None,
        "submission": {"fid": None, "fid_error": "not measured", "test_images": 297},
        "is_imported": entry.is_imported,
        "origin": origin,
        "exported": {"git_commit": "c0ffee", "at": "2028"},
        "versions": {"torch": "2"},
        "choice": {
            "metric": "val_acc",
            "rule": "smoothed",
            "trials": 5,
            "sweeps": ["digits"],
            "corrected": {"value": 0.99996, "interval": [0.99, 1.0]},
            "judged": 4,
            "indistinguishable": 3,
            "notes": [],
        },
    } | changes
    return card.written(entry, config, ExportRecord(**content), DATA)


def test_every_setting_is_on_the_card_with_all_its_digits(tmp_path: Path) -> None:
    text = written(tmp_path, CONFIG)
    for name, value in CONFIG.flat().items():
        [line] = [line for line in text.splitlines() if line.startswith(f"- `{name}`: ")]
        shown = line.partition(": ")[2]
        assert (shown if isinstance(value, str) else json.loads(shown)) == value
    assert "- `train.lr`: 0.00123456" in text
    assert "- `train.grad_clip`: null" in text
    assert "trained by commit `c0ffee` on cpu, 2026 to 2027" in text


def test_a_value_is_never_rounded_to_a_bound(tmp_path: Path) -> None:
    text = written(tmp_path, CONFIG)
    assert "val_acc 0.999996" in text
    assert "corrected for the choice: 0.99996, 95% interval 0.9900 to 1.0000" in text
    assert "3 of 4 trials cannot be told from the best" in text
    assert "among 5 trials of `digits`" in text


def test_an_imported_checkpoint_was_not_trained_here(tmp_path: Path) -> None:
    source = "ab" * 32
    config = CONFIG.with_settings({"source": source, "model.fusion": "stem_add", "data.digest": "d" * 32})
    text = written(tmp_path, config)
    for name in ("train.", "`model.dropout", "data.train_fraction", "trained by", "0.00123456", "Which is best?"):
        assert name not in text, name
    for said in (
        "It was not trained here",
        f"SHA-256 of the file: `{source}`",
        "- `model.nr_filters`: 4",
        "- `model.fusion`: stem_add",
        "- `model.label_dim`: null",
        f"- `data.digest`: {'d' * 32}",
        "- `protocol`: 3",
        "- `seed`: 7, of the images drawn here",
        "whether it was trained on some of them is not known",
        "read and measured by commit `c0ffee`",
        "To check this folder:",
    ):
        assert said in " ".join(text.split()), said
    assert "To train it again" not in text


@pytest.mark.parametrize("interval", [None, [0.5, 1.0]])
def test_a_confirmed_choice_is_told_by_its_runs(tmp_path: Path, interval: list[float] | None) -> None:
    best = {"mean": 0.99996, "interval": interval, "probability_best": 0.999, "value_before": 1.0}
    confirmed = {
        "finalists": [best | {"runs": [{"value": 0.99996, "seed": 8}]}],
        "seeds": [8],
        "rule": "the best mean",
        "notes": ["One seed"],
    }
    text = written(tmp_path, CONFIG, choice={"metric": "val_acc", "confirmed": confirmed})
    assert "best mean val_acc, 0.99996" in text
    assert "with probability >0.99" in text
    assert "1.0000 is what the search found" in text
    assert ("95% interval" in text) == (interval is not None)


def test_the_accuracy_of_each_split_is_told_and_why_one_is_not_known(tmp_path: Path) -> None:
    text = written(tmp_path, CONFIG)
    for row in ("| Train | 0.9900 | 100 of 1000 |", "| Validation | 0.999996 | 300 |", "| Test | 0.7500 | 297 |"):
        assert row in text.splitlines()
    hidden = {"test": Accuracy(value=None, images=0, of=297, reason="not known: the data set hides the labels")}
    assert "| Test | not known: the data set hides the labels | 0 |" in written(tmp_path, CONFIG, accuracy=hidden)


def test_what_was_seen_of_images_and_classes_is_told_with_what_alarms(tmp_path: Path) -> None:
    assert "What was seen" not in written(tmp_path, CONFIG)
    seen: dict[str, Any] = {"fid.cat": 12.3456, "fid.dog": None, "fid_class_error": "dog: 1 image is too few"}
    seen |= {
        "nearest_train": 1.0,
        "nearest_train_validation": 1.5,
        "class_distance.cat.dog": 0.25,
        "class_distance.0.1": 0.5,
    }
    text = " ".join(written(tmp_path, CONFIG, recorded={"epoch": 1} | seen).split())
    assert "FID of each class: `cat` 12.346" in text
    assert "FID of some classes is missing: dog: 1 image is too few" in text
    assert "images drawn 1.0000, validation images 1.5000" in text
    assert "what the network does for each: `cat.dog` 0.2500, `class 0 and class 1` 0.5000" in text
    assert "recites" not in text
    text = written(tmp_path, CONFIG, recorded={"epoch": 1} | seen | {"nearest_train": 0.5})
    assert "- **the model recites its training images: what it draws is at 0.5 from the nearest" in text


def test_a_trial_that_continues_another_one_says_which_and_is_trained_again_by_a_replay(tmp_path: Path) -> None:
    config = CONFIG.with_settings(LINEAGE)
    text = written(tmp_path, config)
    assert "- `lineage.parent`: 0123456789ab" in text
    assert f"python -m orchestrator.trial replay {config.trial_id}" in text
    without_a_name = CONFIG.with_settings({"lineage.weights": "a" * 64})
    assert "orchestrator.trial" not in written(tmp_path, without_a_name)


def test_the_hub_reads_the_header(tmp_path: Path) -> None:
    submission = {
        "fid": 12.3456789,
        "fid_error": None,
        "fid_images": 250,
        "fid_extractor": "x",
        "fid_reference": "r: x",
    }
    card_of = ModelCard(written(tmp_path, CONFIG, sweep='a: "b"', submission=submission))
    header: Any = card_of.data  # Any: the class has what the header has
    assert card_of.text.lstrip().startswith("# Model card")
    assert header.tags == ["pixelcnn++", "class-conditional", "image-classification", f"fusion-{CONFIG.model.fusion}"]
    assert header.metrics == ["accuracy", "bpd", "fid"]
    assert header.license is None  # nobody said
    results = {
        (one.dataset_split or one.dataset_name, one.metric_type): one.metric_value for one in header.eval_results
    }
    assert results == {
        ("validation", "accuracy"): 0.999996,
        ("validation", "bpd"): 3.2,
        ("test", "accuracy"): 0.75,
        ("r: x", "fid"): 12.345679,
    }
    assert header.model_name == f'a: "b"-{CONFIG.trial_id}'


def test_the_header_has_no_number_that_was_not_measured(tmp_path: Path) -> None:
    accuracy = {"test": Accuracy(value=None, images=0, of=297, reason="not known")}
    header: Any = ModelCard(written(tmp_path, CONFIG, accuracy=accuracy, measured_again={})).data
    assert (header.metrics, header.eval_results) == ([], [])
