"""The same bits each time, or an error that names the operation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from cpcnn_core.config import ADDED, TrialConfig
from cpcnn_core.determinism import deterministic
from cpcnn_core.train import Run, fit
from tests.support.training import SETTINGS, comparable, tiny_dataset


def unordered() -> None:
    """An operation that has no deterministic kernel on any device."""
    torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


def test_an_operation_without_such_a_kernel_is_an_error_with_its_name_or_a_warning() -> None:
    with deterministic(True, strict=True), pytest.raises(RuntimeError, match="put_ does not have a deterministic"):
        unordered()
    with deterministic(True, strict=False), pytest.warns(UserWarning, match="put_ does not have a deterministic"):
        unordered()
    with deterministic(False, strict=True):
        unordered()


def test_it_ends_with_what_it_was_entered_for() -> None:
    cudnn = torch.backends.cudnn
    with deterministic(True, strict=False):
        with deterministic(True, strict=True):
            assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert not cudnn.deterministic


def test_every_step_of_a_trial_is_strict_and_nothing_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    optimize = Run.optimize

    def noted(self: Run, chosen: torch.Tensor) -> torch.Tensor:
        seen.append(not torch.is_deterministic_algorithms_warn_only_enabled())
        assert torch.are_deterministic_algorithms_enabled() == self.config.train.deterministic
        return optimize(self, chosen)

    monkeypatch.setattr(Run, "optimize", noted)
    wanted = TrialConfig.from_flat(SETTINGS | {"train.epochs": 1})
    [epoch] = fit(wanted, tiny_dataset(), tmp_path / "exact")
    assert seen == [True] * 4
    assert not torch.are_deterministic_algorithms_enabled()
    [other] = fit(wanted.with_settings({"train.deterministic": False}), tiny_dataset(), tmp_path / "fast")
    if Accelerator().device.type == "cpu":  # where nothing is unordered anyway
        assert comparable(other) == comparable(epoch)


def test_it_is_part_of_the_identity_of_a_trial_that_asks_for_it() -> None:
    assert ADDED["train.deterministic"] is False
    assert TrialConfig.from_flat({"train.deterministic": True}).trial_id != TrialConfig().trial_id


def test_cublas_is_told_before_any_trial_s_first_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    Run(TrialConfig.from_flat(SETTINGS), tiny_dataset(), tmp_path, Accelerator())
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
