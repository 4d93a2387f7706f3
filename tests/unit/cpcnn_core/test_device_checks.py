"""The checks of a device find what is right right, and what is wrong wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from cpcnn_core import device_checks, fusion, graphs, layers, likelihood
from cpcnn_core.graphs import Work

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["float32", "captured", "steps", "evaluation", "memory"])
def test_a_cpu_is_right(name: str) -> None:
    found = device_checks.CHECKS[name](CPU)
    assert found.fine, found.said
    assert device_checks.Finding.of_json('{"check": "x", "fine": false, "said": "", "figures": {}}').fine is False


def test_every_fusion_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "FUSIONS", {name: fusion.FUSIONS[name] for name in ("block_mild", "head_add")})
    found = device_checks.fusions(CPU)
    assert found.fine
    assert found.said.startswith("2 fusions, CPU against cpu")


def late_fault(work: Work) -> Callable[[], object]:
    """A graph that does what it should once, where training and evaluation compare it, and nothing afterwards."""
    left = [work]

    def replay() -> None:
        if left:
            left.pop()()

    return replay


@pytest.mark.parametrize("name", ["steps", "evaluation"])
def test_graphs_of_training_and_evaluation_that_go_wrong_later_are_found(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = device_checks.CHECKS[name](CPU)
    assert (found.fine, found.figures["captured"]) == (True, 1.0)
    monkeypatch.setattr(device_checks, "call_by_call", late_fault)
    assert not device_checks.CHECKS[name](CPU).fine


@pytest.mark.parametrize("name", ["steps", "evaluation"])
def test_what_is_not_captured_is_said(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refused(_: Work) -> Callable[[], object]:
        raise graphs.CaptureError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "default_capture", lambda _: refused)
    found = device_checks.CHECKS[name](CPU)
    assert (found.fine, found.figures["captured"]) == (True, 0.0)
    assert "operation not permitted when stream is capturing" in found.said


def test_what_trials_compile_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler's fault is found in either of the parts that trials have compiled, and nothing else is compiled."""
    parts: list[object] = []

    def compiler(wrong: object) -> Callable[..., Any]:
        def compiled(function: Callable[..., Any], **_: object) -> Callable[..., Any]:
            parts.append(function)

            def off(*args: Any, **options: Any) -> Any:
                out = function(*args, **options)
                return out * 1.1 if isinstance(out, Tensor) else tuple(part * 1.1 for part in out)

            return off if function is wrong else function

        return compiled

    monkeypatch.setattr(torch, "compile", compiler(None))
    assert device_checks.compiled(CPU).fine
    assert parts == [layers.call_block, likelihood.log_prob]
    for part in (layers.call_block, likelihood.log_prob):
        monkeypatch.setattr(torch, "compile", compiler(part))
        assert not device_checks.compiled(CPU).fine


def test_without_a_compiler_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object, **__: object) -> Callable[..., Any]:
        def call(*_: object, **__: object) -> Any:
            raise BackendCompilerFailed(lambda: None, RuntimeError("no C compiler\nlook for one"), None)

        return call

    monkeypatch.setattr(torch, "compile", none)
    found = device_checks.compiled(CPU)
    assert found.fine
    assert "train.compile is not available here (RuntimeError: no C compiler)" in found.said


def test_bf16_that_is_off_by_more_than_it_explains_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "GRADIENTS_BF16", 1e-6)
    assert not device_checks.bf16(CPU).fine
