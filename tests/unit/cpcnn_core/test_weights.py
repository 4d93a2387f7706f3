"""Weight norm of all layers at once: what torch computes layer by layer, and nothing that is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cpcnn_core import layers
from cpcnn_core.layers import Normed
from cpcnn_core.model import ConditionalPixelCNN
from tests.contract.networks import images, network

LABELS = torch.tensor([0, 2])


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "few_kernels", lambda _: True)


def convolutions(model: nn.Module) -> list[Normed]:
    return [module for module in model.modules() if isinstance(module, Normed)]


def gradients(model: ConditionalPixelCNN, weights: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    loss = torch.stack([(weight * torch.randn(weight.shape, generator=generator)).sum() for weight in weights]).sum()
    parameters = [part for conv in convolutions(model) for part in conv.conv.parametrizations.weight.parameters()]
    return list(torch.autograd.grad(loss, parameters))


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("fusion", ["none", "input_concat+block_concat+head_add"])
def test_they_are_those_of_each_layer(fusion: str) -> None:
    model = network(fusion)
    convs = convolutions(model)
    apart = [conv.conv.weight for conv in convs]
    with model.weights.ready(None):
        together = [ready[0] for conv in convs if (ready := conv.ready) is not None]
        assert all(conv.ready is not None and conv.ready[1] is conv.conv.bias for conv in convs)
        torch.testing.assert_close(gradients(model, together), gradients(model, apart), rtol=0, atol=0)
    assert len(together) == len(convs) == 57
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
    assert all(conv.ready is None for conv in convs)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_calls_do_not_grow_with_the_network() -> None:
    def calls(nr_resnet: int) -> int:
        model = network("block_mild", nr_resnet=nr_resnet)
        with torch.profiler.profile() as profiler, model.weights.ready(None):
            pass
        return sum(event.count for event in profiler.key_averages() if "weight_norm_interface" in event.key)

    assert calls(1) == calls(3) == 10  # filters of one shape, of however many layers


@pytest.mark.parametrize("gpu", [False, True])
def test_what_an_autocast_computes_with_is_cast_once_and_the_ends_are_not(
    gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "few_kernels", lambda _: gpu)
    model = network("block_mild")
    with model.weights.ready(torch.bfloat16):
        for conv in convolutions(model):
            assert conv.ready is not None
            weight, bias = conv.ready
            exact = conv in {model.u_init, model.nin_out, *model.ul_init}
            assert weight.dtype == bias.dtype == (torch.float32 if exact else torch.bfloat16)
            # The norm was taken in float32.
            assert torch.equal(weight, conv.conv.weight.to(weight.dtype))


def test_a_network_that_fails_leaves_none_ready_and_copies_have_their_own() -> None:
    model = network("none")
    with pytest.raises(RuntimeError), model.weights.ready(None):
        model(images(2)[:, :1], LABELS)
    assert all(conv.ready is None for conv in convolutions(model))
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    with model.weights.ready(None):
        assert all(conv.ready is None for conv in convolutions(other))
        assert not torch.equal(other(images(2), LABELS), model(images(2), LABELS))


def test_the_names_in_a_state_are_those_of_torchs_own_weight_norm() -> None:
    names = set(network("none").state_dict())
    layer = "up_u.0.0.conv_input.conv"
    expected = {"bias", "parametrizations.weight.original0", "parametrizations.weight.original1"}
    assert {name.removeprefix(f"{layer}.") for name in names if name.startswith(f"{layer}.")} == expected
    assert not any("signs" in name or "ready" in name for name in names)


def test_inside_of_itself_the_first_holds() -> None:
    model = network("none")
    with model.weights.ready(None):
        before = [conv.ready for conv in convolutions(model)]
        model(images(2), LABELS)
        assert all(conv.ready is ready for conv, ready in zip(convolutions(model), before, strict=True))
