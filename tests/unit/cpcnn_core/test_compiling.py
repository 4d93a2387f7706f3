"""Compiling by kinds of blocks: each once however deep the network is, for training alone, and never a trial's end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor

from cpcnn_core import compiling, layers
from cpcnn_core.compiling import Regional
from cpcnn_core.loss import Loss
from tests.contract.networks import NR_CLASSES, images, network

# What torch 2.11's own compiler does with functions that have a gradient of their own, and where it leaves the graph.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script(_method)?` is deprecated:DeprecationWarning"),
]

Compiler = Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., object]]


def loss(nr_resnet: int = 1) -> Loss:
    return Loss(network("block_film", nr_resnet=nr_resnet), torch.full((NR_CLASSES,), 1 / NR_CLASSES).log())


def batch() -> tuple[Tensor, ...]:
    pixels = ((images(2) + 1) * 127.5).round().to(torch.uint8)
    return pixels, torch.tensor([0, 2]), torch.zeros(2, dtype=torch.bool), torch.ones(2)


def compiled(module: Loss, monkeypatch: pytest.MonkeyPatch, compiler: Compiler) -> Regional:
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiler))
    return Regional(module)


def test_each_kind_of_block_is_compiled_once_and_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "few_kernels", lambda _: True)
    graphs: list[torch.fx.GraphModule] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    eager = loss(nr_resnet=2)  # 28 blocks
    expected = eager(*batch(), None)[0]
    gradients = torch.autograd.grad(expected, list(eager.parameters()))
    regional = compiled(eager, monkeypatch, count)
    for _ in range(2):
        found = regional(*batch(), None)[0]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(found, list(eager.parameters())), gradients, rtol=1e-4, atol=1e-5)
    assert regional.unavailable is None
    assert len(graphs) == 13  # of u and ul, up and down, at three resolutions; and the likelihood


def test_a_network_that_is_called_by_others_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: torch.fx.GraphModule, __: list[Tensor]) -> Callable[..., object]:
        raise AssertionError

    module = loss()
    regional = compiled(module, monkeypatch, refuse)
    module.model(images(2), torch.tensor([0, 1]))
    assert regional.unavailable is None


def test_without_a_compiler_it_goes_on_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiling._warn.cache_clear()

    def fails(_: torch.fx.GraphModule, __: list[Tensor]) -> Callable[..., object]:
        raise RuntimeError("no C compiler")

    module = loss()
    expected = module(*batch(), None)[0]
    with caplog.at_level(logging.WARNING, compiling.__name__):
        for _ in range(2):
            regional = compiled(module, monkeypatch, fails)
            for _ in range(2):
                assert torch.equal(regional(*batch(), None)[0], expected)
            assert regional.unavailable is not None
            assert "no C compiler" in regional.unavailable
    assert len(caplog.records) == 1


def test_memory_that_ends_is_no_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: torch.fx.GraphModule, __: list[Tensor]) -> Callable[..., object]:
        raise RuntimeError("CUDA out of memory.")

    regional = compiled(loss(), monkeypatch, fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        regional(*batch(), None)
    assert regional.unavailable is None


@pytest.mark.parametrize("given", [None, "7"])
def test_the_compiler_has_no_more_workers_than_the_trial_has_cores(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", given)
    with inductor.patch(compile_threads=7):
        compiling._limit_workers()
        assert inductor.compile_threads == (3 if given is None else 7)
