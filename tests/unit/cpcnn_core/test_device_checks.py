"""The checks of a device find what is right right, and what is wrong wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cpcnn_core import device_checks, fusion
from cpcnn_core.loss import Loss

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["float32", "captured", "steps", "memory"])
def test_a_cpu_is_right(name: str) -> None:
    found = device_checks.CHECKS[name](CPU)
    assert found.fine, found.said
    assert device_checks.Finding.of_json('{"check": "x", "fine": false, "said": "", "figures": {}}').fine is False


def test_every_fusion_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "FUSIONS", {name: fusion.FUSIONS[name] for name in ("block_mild", "head_add")})
    found = device_checks.fusions(CPU)
    assert found.fine
    assert found.said.startswith("2 fusions, CPU against cpu")


def test_a_wrong_gradient_of_a_compiled_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(nn.Module):
        """A compiler's fault: a gradient of which one part is off by a tenth."""

        def __init__(self, loss: nn.Module) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, *batch: Any) -> tuple[Tensor, ...]:
            first = next(self.loss.parameters())
            total, *rest = self.loss(*batch)
            return (total + 0.1 * (first * first.detach().sign()).sum(), *rest)

    monkeypatch.setattr(torch, "compile", lambda loss, **_: Wrong(loss))
    assert not device_checks.compiled(CPU).fine
    monkeypatch.setattr(torch, "compile", lambda loss, **_: loss)
    assert device_checks.compiled(CPU).fine


def test_without_a_compiler_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> Loss:
        raise RuntimeError("no C compiler\nlook for one")

    monkeypatch.setattr(torch, "compile", none)
    found = device_checks.compiled(CPU)
    assert found.fine
    assert "train.compile is not available here (RuntimeError: no C compiler)" in found.said


def test_bf16_that_is_off_by_more_than_it_explains_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "GRADIENTS_BF16", 1e-6)
    assert not device_checks.bf16(CPU).fine
