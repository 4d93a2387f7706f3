"""A trial that goes on from another one's end equals one that was longer from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cpcnn_core.checkpoint import CheckpointError, CheckpointFolder, fingerprint, load_weights, weights_name
from cpcnn_core.config import ADDED, KEEPING, ConfigError, Scalar, TrialConfig
from cpcnn_core.optim import lr_factor
from cpcnn_core.train import begin_state, fit
from tests.support.training import SETTINGS, comparable, tiny_dataset

PARENT, BEFORE, TOTAL = "0123456789ab", 2, 4
FULL = {"train.ema_decay": 0.9, "train.flip": True, "train.shift": 1, "train.label_dropout": 0.1, "train.accumulate": 2}


def begun(tmp_path: Path, changes: dict[str, Any], *, known: bool = True, **settings: Any) -> TrialConfig:
    """Train a parent into `parent`; put what its child begins with into `child`; return the child's configuration."""
    config = TrialConfig.from_flat(SETTINGS | settings | {"train.epochs": BEFORE})
    list(fit(config, tiny_dataset(), tmp_path / "parent"))
    state = CheckpointFolder(tmp_path / "parent", config).load_state()
    assert state is not None
    weights = load_weights(tmp_path / "parent" / weights_name(BEFORE)).model.state_dict()
    lineage: dict[str, Scalar] = {
        "lineage.parent": PARENT,
        "lineage.root": PARENT,
        "lineage.weights": fingerprint(weights),
        "lineage.epochs_before": BEFORE,
        "lineage.steps_before": state["step"],
        "lineage.fresh_optimizer": not known,
    }
    child = config.with_settings({"train.epochs": TOTAL, **lineage, **changes})
    start = begin_state(state if known else None, weights, child, config.train)
    CheckpointFolder(tmp_path / "child", child).begin(start)
    return child


@pytest.mark.parametrize("settings", [{}, FULL, {"train.schedule": "exponential", "train.lr_gamma": 0.9}])
def test_it_equals_one_that_was_longer_from_the_start_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    longer = list(fit(TrialConfig.from_flat(SETTINGS | settings | {"train.epochs": TOTAL}), tiny_dataset(), tmp_path))
    child = begun(tmp_path, {}, **settings)
    went_on = list(fit(child, tiny_dataset(), tmp_path / "child", reported=BEFORE))
    assert [epoch.epoch for epoch in went_on] == [3, 4]
    for one, other in zip(went_on, longer[BEFORE:], strict=True):
        not_kept = {"kept_epochs": None}  # the best of all epochs, and of its own
        assert comparable(one) | not_kept == comparable(other) | not_kept
    ends = [load_weights(folder / weights_name(TOTAL)) for folder in (tmp_path, tmp_path / "child")]
    assert fingerprint(ends[0].model.state_dict()) == fingerprint(ends[1].model.state_dict())
    assert ends[1].config == child


def test_without_the_optimizers_state_it_differs(tmp_path: Path) -> None:
    """Else the test above would not see whether it is taken over."""
    with_state = begun(tmp_path / "with", {})
    without = begun(tmp_path / "without", {}, known=False)
    assert with_state.trial_id != without.trial_id
    losses = [
        next(fit(config, tiny_dataset(), tmp_path / name / "child", reported=BEFORE)).train_loss
        for name, config in (("with", with_state), ("without", without))
    ]
    assert losses[0] != losses[1]


def test_killed_after_any_epoch_it_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    child = begun(tmp_path / "whole", FULL)
    whole = [comparable(epoch) for epoch in fit(child, tiny_dataset(), tmp_path / "whole" / "child", reported=BEFORE)]
    assert begun(tmp_path / "cut", FULL) == child
    next(fit(child, tiny_dataset(), tmp_path / "cut" / "child", reported=BEFORE))
    again = fit(child, tiny_dataset(), tmp_path / "cut" / "child", reported=BEFORE)  # that epoch was never recorded
    assert [comparable(epoch) for epoch in again] == whole
    assert list(fit(child, tiny_dataset(), tmp_path / "cut" / "child", reported=TOTAL)) == []


def test_what_it_began_with_is_put_there_once(tmp_path: Path) -> None:
    child = begun(tmp_path, {})
    next(fit(child, tiny_dataset(), tmp_path / "child", reported=BEFORE))
    folder = CheckpointFolder(tmp_path / "child", child)
    folder.begin({"epoch": 0, "step": 0})
    assert [epoch.epoch for epoch in CheckpointFolder(tmp_path / "child", child).history] == [3]


def test_it_does_not_begin_from_nothing(tmp_path: Path) -> None:
    child = begun(tmp_path, {})
    with pytest.raises(CheckpointError, match=f"that trial {child.trial_id} was to begin with is missing"):
        next(fit(child, tiny_dataset(), tmp_path / "elsewhere"))


def test_changed_settings_are_those_that_it_trains_with(tmp_path: Path) -> None:
    """The optimizer's state holds the parent's learning rate, betas and eps, which must not come back."""
    changes = {"train.lr": 0.003, "train.batch_size": 8, "train.beta1": 0.5, "train.ema_decay": 0.5}
    child = begun(tmp_path, changes)
    epoch = next(fit(child, tiny_dataset(), tmp_path / "child", reported=BEFORE))
    assert epoch.lr == 0.003
    assert epoch.micro_batch == 8
    assert epoch.step == BEFORE * 4 + 7  # 50 images in batches of 16, then of 8
    state = CheckpointFolder(tmp_path / "child", child).load_state()
    assert state is not None
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.5, 0.999)
    assert state["ema"] is not None


def test_an_average_that_begins_later_begins_with_the_weights(tmp_path: Path) -> None:
    child = begun(tmp_path, {"train.ema_decay": 0.999, "train.lr": 1e-12})
    list(fit(child, tiny_dataset(), tmp_path / "child", reported=BEFORE))
    parent = load_weights(tmp_path / "parent" / weights_name(BEFORE)).model.state_dict()
    averaged = load_weights(tmp_path / "child" / weights_name(TOTAL)).model.state_dict()
    for name, tensor in parent.items():
        torch.testing.assert_close(averaged[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["constant", "exponential", "linear", "cosine"])
def test_a_warm_up_that_is_over_stays_over_when_epochs_have_more_steps(schedule: str) -> None:
    settings = {"train.schedule": schedule, "train.warmup_epochs": 2, "train.epochs": 4, "train.lr_gamma": 0.99}
    train = TrialConfig.from_flat(settings).train
    # Two epochs of 10 steps were trained; now an epoch has 20.
    assert lr_factor(train, 20, 20, (2, 20)) == 1.0
    assert lr_factor(train, 60, 20, (2, 20)) == lr_factor(train, 40, 10) or schedule == "exponential"
    assert lr_factor(train, 20, 20) < 1.0, "without being told of the steps before, it would warm up again"


def test_which_epochs_are_kept_is_no_part_of_the_identity() -> None:
    config = TrialConfig.from_flat(SETTINGS)
    assert config.with_settings({"train.keep_every": 5, "train.keep_most": 3}).trial_id == config.trial_id
    assert set(config.flat()) >= KEEPING


def test_a_trial_from_the_start_has_no_lineage() -> None:
    config = TrialConfig.from_flat(SETTINGS)
    lineage = {name: value for name, value in config.flat().items() if name.startswith("lineage.")}
    assert lineage == {name: value for name, value in ADDED.items() if name.startswith("lineage.")}
    assert not config.continues


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"lineage.epochs_before": 1}, "lineage.weights"),
        ({"lineage.parent": PARENT, "lineage.weights": "a" * 64}, "lineage.root"),
        ({"lineage.weights": "a" * 64, "lineage.epochs_before": 3, "train.epochs": 3}, "train.epochs"),
    ],
)
def test_half_a_lineage_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrialConfig.from_flat(SETTINGS | settings)
