"""What every tracker of the table keeps: it shows epochs and ends, writes in one place, and goes on when restarted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cpcnn_core import grid
from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records.kinds import introduce
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Attempt, Store
from orchestrator.views.tracking import TRACKERS, TrackerError, asked
from tests.support import odd
from tests.support.paths import local
from tests.support.times import at

CONFIG = TrialConfig.from_flat({"train.epochs": 3})
TRIAL = CONFIG.trial_id
CLASSES = (*odd.SHORT, "a/b", "a//b", "..", "猫🐱", "n" * 200, "猫" * 200, "7")
EXTRA = {f"{metric}.{name}": 0.5 for metric in ("val_acc", "fid") for name in CLASSES} | {"class_distance.0.1": 0.5}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no key in a file there
    (tmp_path / "home").mkdir()
    made = Store(tmp_path / "results" / "digits")
    made.create()
    made.write_attempt(Attempt(trial_id=TRIAL, attempt=1, number=0, state="COMPLETE", started=at("2026-01-01")), CONFIG)
    introduce(made, "sweep", "Which is best?", class_names=CLASSES)
    labels = torch.arange(len(CLASSES)).repeat_interleave(2)
    grid.write(local(made.samples_file(TRIAL, 2)), torch.zeros(len(labels), 1, 4, 8, dtype=torch.uint8), labels)
    return made


def entry(store: Store, epochs: int) -> Entry:
    for number in range(1, epochs + 1):
        row = {"epoch": number, "step": number, "kept_epochs": [number], "val_acc": number / 10, "fid": None}
        store.add_epoch(TRIAL, 1, EpochMetrics.from_record({**row, "extra": EXTRA}))
    return Entry(store, store.attempts_of(TRIAL)[-1], tuple(store.epochs_of(TRIAL)))


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_shown_lies_in_the_sweeps_folder_and_grows(name: str, store: Store, tmp_path: Path) -> None:
    mode = (TRACKERS[name].modes or ("",))[-1]  # of Weights & Biases the one that needs no network
    trial = entry(store, 3)
    before = contents(tmp_path)
    first = TRACKERS[name].make(store, mode)
    first.epoch(trial, trial.epochs[0], None)
    first.close()  # killed here, as far as the trial is concerned
    after_one = contents(tmp_path)
    assert after_one != before
    second = TRACKERS[name].make(store, mode)
    second.epoch(trial, trial.epochs[1], store.samples_file(TRIAL, 2))
    second.epoch(trial, trial.epochs[2], None)
    second.end(trial, trial.epochs[1])
    second.end(trial, None)  # of an attempt without an epoch
    second.close()
    after_all = contents(tmp_path)
    assert sum(after_all.values()) > sum(after_one.values())
    outside = [path for path in after_all if path not in before and not path.is_relative_to(local(store.folder))]
    assert [path for path in outside if not path.is_relative_to(tmp_path / "home")] == []


def test_options_are_names_with_modes() -> None:
    assert asked(["wandb"], wandb=None, tensorboard=True) == {"tensorboard": "", "wandb": "online"}
    assert asked(["wandb=offline"], wandb="online", tensorboard=False) == {"wandb": "offline"}
    assert asked(["wandb=,course-names"], wandb=None, tensorboard=False) == {"wandb": "online,course-names"}
    for text, says in (
        ("wand", r"'wand' is no tracker; did you mean wandb\?"),
        ("wandb=ofline", r"wandb has no mode 'ofline'; did you mean offline\?"),
        ("tensorboard=online", "tensorboard has no mode 'online'"),
        ("wandb=offline,coursenames", r"wandb has no option 'coursenames'; did you mean course-names\?"),
    ):
        with pytest.raises(TrackerError, match=says):
            asked([text], wandb=None, tensorboard=False)


@pytest.mark.parametrize("name", [name for name, known in TRACKERS.items() if known.module is not None])
def test_a_tracker_whose_package_is_not_here_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TrackerError, match=f"{name} needs the package .*pip install {TRACKERS[name].package}"):
        asked([name], wandb=None, tensorboard=False)
