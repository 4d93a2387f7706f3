"""Weight norm (Salimans & Kingma 2016) of all convolutions of a network, computed once for all that call them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from cpcnn_core import layers
from cpcnn_core.layers import Normed


class Weights:
    """The weights of a network's convolutions, made ready for use while a block of code runs.

    On a GPU the filters of one shape, of whichever layers, are one call, forward and backward. On a CPU, where a call
    costs little and bringing them together costs memory's time, each layer is a call, as it is in torch.
    """

    def __init__(self, network: nn.Module, exact: Iterable[nn.Module]) -> None:
        """Of all convolutions in `network`; those in `exact` compute in float32 under an autocast too."""
        convs = [module for module in network.modules() if isinstance(module, Normed)]
        inside = {module for part in exact for module in part.modules()}
        self._exact = [conv for conv in convs if conv in inside]
        self._others = [conv for conv in convs if conv not in inside]

    @contextmanager
    def ready(self, dtype: torch.dtype | None) -> Generator[None]:
        """Have the convolutions use weights that are computed now. Where they do so already, this does nothing.

        `dtype` is what an autocast will compute in, None where there is none.
        """
        convs = [*self._exact, *self._others]
        if convs[0].ready is not None:
            yield
            return
        try:
            device = _bias(convs[0]).device
            with torch.autocast(device.type, enabled=False):  # norms are taken in float32 whatever follows
                for conv, weight, bias in [*_computed(self._exact, None), *_computed(self._others, dtype)]:
                    conv.ready = weight, bias
            yield
        finally:
            for conv in convs:
                conv.ready = None


def _computed(convs: list[Normed], dtype: torch.dtype | None) -> Iterator[tuple[Normed, Tensor, Tensor]]:
    """Each convolution with its weight and its bias, cast once where an autocast would cast them in each layer."""
    groups = list(_alike(convs))
    biases = _biases(convs, dtype)
    scales = _scales(groups)
    for group, g in zip(groups, scales, strict=True):
        for conv, weight in zip(group, _normed(group, g, dtype), strict=True):
            yield conv, weight, biases[conv]


def _alike(convs: list[Normed]) -> Iterator[list[Normed]]:
    """The convolutions in groups whose filters one call computes: those of one shape, and on a CPU each by itself."""
    groups: dict[object, list[Normed]] = {}
    for conv in convs:
        v = direction(conv)
        groups.setdefault(v.shape[1:] if layers.few_kernels(v.device) else conv, []).append(conv)
    yield from groups.values()


def _scales(groups: list[list[Normed]]) -> list[Tensor]:
    """The g of each group, of those of several convolutions by one call for all groups."""
    of_each = [[scale(conv) for conv in group] for group in groups]
    several = [gs for gs in of_each if len(gs) > 1]
    if not several:
        return [g for gs in of_each for g in gs]
    joined = torch.cat([g for gs in several for g in gs]).split([sum(map(len, gs)) for gs in several])
    rest = iter(joined)
    return [gs[0] if len(gs) == 1 else next(rest) for gs in of_each]


def _normed(convs: list[Normed], g: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """The weights of convolutions whose filters have one shape, with all of their scales."""
    if len(convs) == 1:
        weight = cast("Tensor", convs[0].conv.weight)
        return [weight if dtype is None else weight.to(dtype)]
    weights = torch._weight_norm(torch.cat([direction(conv) for conv in convs]), g, 0)
    # In the order in which they are read, or each convolution would bring its own into it, in both directions.
    weights = weights.contiguous(memory_format=torch.channels_last)
    if dtype is not None:
        weights = weights.to(dtype)
    return list(weights.split([len(direction(conv)) for conv in convs]))


def _biases(convs: list[Normed], dtype: torch.dtype | None) -> dict[Normed, Tensor]:
    biases = [_bias(conv) for conv in convs]
    if dtype is None:
        return dict(zip(convs, biases, strict=True))
    rounded = torch.cat(biases).to(dtype).split([len(bias) for bias in biases])
    return dict(zip(convs, rounded, strict=True))


def direction(conv: Normed) -> Tensor:
    """V of w = g v / |v|: the first dimension of v is g's."""
    return cast("Tensor", cast("Any", conv.conv).parametrizations.weight.original1)


def scale(conv: Normed) -> Tensor:
    """Its g."""
    return cast("Tensor", cast("Any", conv.conv).parametrizations.weight.original0)


def _bias(conv: Normed) -> Tensor:
    return cast("Tensor", conv.conv.bias)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What the autocast around us computes in, None where there is none."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
