"""Data-dependent initialisation of weight-normed layers (Salimans & Kingma 2016, section 3)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from cpcnn_core.layers import Normed
from cpcnn_core.model import ConditionalPixelCNN


@torch.no_grad()
def data_dependent_init(model: ConditionalPixelCNN, x: Tensor, labels: Tensor) -> None:
    """Set every weight-normed layer's g and b so that on this batch its outputs have mean 0 and variance 1 per channel.

    Layers are set in the order in which the batch reaches them, each seeing the normalised outputs of those before. A
    transposed convolution's g belongs to its inputs, so there one common factor sets the variance over all channels.
    """
    handles = [
        layer.convolve.register_forward_hook(partial(_normalise, layer))
        for layer in model.modules()
        if isinstance(layer, Normed)
    ]
    was_training = model.training
    model.eval()
    try:
        model(x, labels)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)


def _normalise(layer: Normed, _: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
    g = layer.conv.get_parameter("parametrizations.weight.original0")
    bias = layer.conv.get_parameter("bias")
    mean = out.mean(dim=(0, 2, 3))
    deviation = out.std(dim=(0, 2, 3), correction=0).clamp(min=1e-6)
    factor = 1 / deviation
    if isinstance(layer.conv, nn.ConvTranspose2d):
        factor = factor.mean().expand_as(bias)
        g.mul_(factor[0])
    else:
        g.mul_(factor.view(-1, 1, 1, 1))
    bias.copy_((bias - mean) * factor)
    return (out - mean.view(1, -1, 1, 1)) * factor.view(1, -1, 1, 1)
