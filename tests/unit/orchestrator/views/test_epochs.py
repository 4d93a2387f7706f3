"""What a trial by hand prints of its epochs."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator.views.epochs import Epochs
from tests.support.fakes import metrics
from tests.support.terminal import COLUMNS


def shown(settings: dict[str, Any], *, width: int = COLUMNS, **changes: object) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    epochs = Epochs(console, TrialConfig.from_flat(settings))
    epochs.print_head()
    epochs.print_epoch(metrics(1, **changes).row())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("images", [0, 100])
@pytest.mark.parametrize("every", [0, 1])
def test_a_column_for_each_metric_that_is_measured(images: int, every: int) -> None:
    head, line = shown({"eval.train_images": images, "eval.fid_every": every}, fid=1234.5678, seconds=9999.0)
    assert ("train_acc" in head) == (images > 0)
    assert ("fid" in head) == (every > 0)
    assert len(head) == len(line) < COLUMNS
    values = dict(zip(head.split(), line.split(), strict=True))
    assert values["val_acc"] == "0.5000"
    if every:
        assert values["fid"] == "1234.5678"


@pytest.mark.parametrize("width", [20, 60, 80, 120, 200])
def test_on_a_narrow_terminal_the_rest_stands_below(width: int) -> None:
    settings = {"eval.train_images": 100, "eval.fid_every": 1}
    changes = {"fid": 12.3456, "train_acc": 0.8765, "seconds": 98.7654}
    lines = shown(settings, width=width, **changes)
    head, line, *below = lines
    assert len(head) == len(line) <= max(width, 20)
    assert bool(below) == (width < 80)
    said = " ".join(lines)
    for whole in ("12.3456", "0.8765", "98.7654", "3.2000", "0.5000"):
        assert whole in said
    assert "val_acc" in head  # the first to have room


def test_why_a_value_is_missing_and_what_alarms_stand_below_it() -> None:
    settings = {"eval.fid_every": 1}
    _, line, why = shown(settings, fid_error="too few images")
    assert line.split()[5] == "-"
    assert why.strip() == "no FID: too few images"
    _, _, alarm = shown(settings, fid=3.0, nearest_train=0.1, nearest_train_validation=1.0)
    assert alarm.strip().startswith("warning: the model recites its training images")
    _, _, test = shown(settings, fid=3.0, test_acc=0.75)
    assert test.strip() == "test_acc 0.7500, of the last epoch's weights; nothing is chosen by it"
