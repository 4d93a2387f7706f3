"""The functions that have a gradient of their own: right, the same compiled, on each device's path, whatever torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.testing import assert_close

from cpcnn_core import layers
from cpcnn_core.layers import ConcatELU, DownShiftedConv2d, GatedBlock, concat_elu, gated

# What torch 2.11's own compiler does with functions that have a gradient of their own, and where it leaves the graph.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script(_method)?` is deprecated:DeprecationWarning"),
]

PADDING = (1, 0, 2, 1)


def defined_concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def dropout_mask(x: Tensor) -> Tensor:
    """One of the type that training has whatever x's is, but for gradcheck, which must see no rounding."""
    mask = torch.tensor([0.0, 2.0, 2.0]).repeat(2 * x.shape[1])[: 2 * x.shape[1]]
    return (
        mask.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        .view(1, -1, 1, 1)
        .expand(len(x), -1, -1, -1)
    )


def activation(x: Tensor, padding: layers.Padding = PADDING, mask: Tensor | None = None) -> Tensor:
    module = ConcatELU()
    return cast("Tensor", module(x, padding, mask))


# Each function beside what autograd makes of its definition.
Function = Callable[[Tensor], Tensor]
DEFINED: dict[str, tuple[Function, Function]] = {
    "_ConcatELU": (concat_elu, defined_concat_elu),
    "_PaddedConcatELU": (activation, lambda x: F.pad(defined_concat_elu(x), PADDING)),
    "_PaddedConcatELU, not padded": (lambda x: activation(x, layers.NONE), defined_concat_elu),
    "_PaddedConcatELU, with a mask": (
        lambda x: activation(x, PADDING, dropout_mask(x)),
        lambda x: F.pad(defined_concat_elu(x) * dropout_mask(x).to(x.dtype), PADDING),
    ),
    "_Gate": (gated, lambda h: h.chunk(2, dim=1)[0] * torch.sigmoid(h.chunk(2, dim=1)[1])),
}
SHAPES = [(2, 4, 3, 3), (1, 4, 1, 1), (3, 2, 1, 5)]  # in the second a part of the channels is contiguous by itself
CHANNELS_LAST = torch.channels_last


@pytest.fixture(params=["cpu", "gpu"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done on a CPU, and on a CPU what is done on a GPU."""
    if request.param == "gpu":
        monkeypatch.setattr(layers, "few_kernels", lambda _: True)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def values(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return x.contiguous(memory_format=CHANNELS_LAST).requires_grad_()


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """With an operation before and one after that keeps the result, as the network has them."""
    out = function(x * 1.5)
    (gradient,) = torch.autograd.grad((out * out).sum() + out.sin().sum(), x)
    return out.detach(), gradient


def test_every_function_with_a_gradient_of_its_own_is_tested() -> None:
    functions = {kind.__name__ for kind in _subclasses(torch.autograd.Function) if kind.__module__ == layers.__name__}
    assert functions == {name.partition(",")[0] for name in DEFINED}


def _subclasses(kind: type[object]) -> Iterator[type[object]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _subclasses(sub)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", DEFINED)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_definition(name: str, shape: tuple[int, ...]) -> None:
    function, definition = DEFINED[name]
    assert_close(value_and_gradient(function, values(shape)), value_and_gradient(definition, values(shape)))
    assert torch.autograd.gradcheck(function, values(shape, torch.float64))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", DEFINED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiler_finds_the_same(name: str, dtype: torch.dtype) -> None:
    """On torch 2.11 it keeps what a tensor was before it is changed in place, and gradients were wrong unsaid."""
    function = DEFINED[name][0]
    x = values((2, 4, 3, 3), dtype)
    found = torch.compile(partial(value_and_gradient, function), backend="aot_eager", dynamic=False)(x)
    # In bf16 they round at different places, each to one of 256 parts.
    tolerance = {} if dtype == torch.float32 else {"rtol": 2**-6, "atol": 2**-5}
    assert_close(found, value_and_gradient(function, x), **tolerance)


@pytest.mark.usefixtures("path")
def test_the_compiler_finds_the_same_for_a_block_and_its_weights() -> None:
    block = GatedBlock(4, DownShiftedConv2d, skip_channels=4)
    x, skip = values((2, 4, 3, 3)), values((2, 4, 3, 3))
    mask = torch.tensor([0.0, 2.0]).repeat(4).view(1, 8, 1, 1).expand(2, 8, 1, 1)

    def run() -> tuple[Tensor, ...]:
        out = block(x, skip, mask=mask)
        return out.detach(), *torch.autograd.grad(out.square().sum(), [x, skip, *block.parameters()])

    assert_close(torch.compile(run, backend="aot_eager", dynamic=False)(), run())


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", DEFINED)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_that_is_kept_or_given_is_changed_in_place(name: str, shape: tuple[int, ...]) -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = values(shape)
    before = x.detach().clone()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        out = DEFINED[name][0](x)
    assert kept
    assert [tensor._version for tensor in kept] == [0] * len(kept)
    torch.autograd.backward(out.sum())
    assert [tensor._version for tensor in kept] == [0] * len(kept)
    assert torch.equal(x, before)


def test_a_gradient_of_the_gate_s_gradient_is_refused() -> None:
    """It would leave out that the sigmoid, which is kept, depends on the input."""
    x = values((2, 4, 3, 3))
    (gradient,) = torch.autograd.grad(gated(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())
