"""The network as one would write it down, the baseline of the benchmarks: nothing folded, cached or laid out for speed.

Same parameters, same outputs as `ConditionalPixelCNN`; contiguous (B, C, H, W) tensors, torch's own elu, weight norm
computed in every convolution of every pass, as the course's starter code and OpenAI's do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core import likelihood
from cpcnn_core.fusion import Conditioning, Modulation
from cpcnn_core.layers import GatedBlock, down_shift, right_shift
from cpcnn_core.model import ConditionalPixelCNN


def concat_elu(x: Tensor) -> Tensor:
    """Elu of [x ; -x]."""
    return F.elu(torch.cat([x, -x], dim=1))


def gated_block(block: GatedBlock, name: str, at: Conditioning, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """`GatedBlock.forward` without dropout."""
    h = block.conv_input(concat_elu(x))
    if block.nin_skip is not None and skip is not None:
        extra = at.get(f"{name}.block_skip", Modulation()).extra
        if extra is not None:
            skip = torch.cat([skip, extra.expand(-1, -1, *skip.shape[2:])], dim=1)
        h = h + block.nin_skip(concat_elu(skip))
    h = at.get(f"{name}.hidden", Modulation())(h)
    h = block.conv_out(concat_elu(h))
    value, gate = at.get(f"{name}.gate", Modulation())(h).chunk(2, dim=1)
    return at.get(f"{name}.output", Modulation())(x + value * torch.sigmoid(gate))


def pairs(of_u: nn.Module, of_ul: nn.Module) -> Iterator[tuple[GatedBlock, GatedBlock]]:
    """The blocks of a stage, those of the two streams side by side."""
    return zip(cast("list[GatedBlock]", of_u), cast("list[GatedBlock]", of_ul), strict=True)


def forward(model: ConditionalPixelCNN, x: Tensor, labels: Tensor) -> Tensor:
    """Mixture parameters (B, P, H, W) for images x (B, C, H, W) in [-1, 1] and labels (B,)."""
    at = model.condition(labels)

    def modulated(site: str, h: Tensor) -> Tensor:
        return at.get(site, Modulation())(h)

    extra = at.get("input", Modulation()).extra
    label = [] if extra is None else [extra.expand(-1, -1, *x.shape[2:])]
    x = torch.cat([modulated("input", x), *label, torch.ones_like(x[:, :1])], dim=1)
    u = modulated("stem.u", down_shift(model.u_init(x)))
    ul = modulated("stem.ul", down_shift(model.ul_init[0](x)) + right_shift(model.ul_init[1](x)))
    us, uls = [u], [ul]
    for level in range(3):
        for i, (of_u, of_ul) in enumerate(pairs(model.up_u[level], model.up_ul[level])):
            u = gated_block(of_u, f"up.{level}.u.{i}", at, u)
            ul = gated_block(of_ul, f"up.{level}.ul.{i}", at, ul, u)
            us.append(u)
            uls.append(ul)
        if level < 2:
            u, ul = model.downsize_u[level](u), model.downsize_ul[level](ul)
            us.append(u)
            uls.append(ul)
    u, ul = modulated("bottleneck.u", us.pop()), modulated("bottleneck.ul", uls.pop())
    us = [modulated(f"skips.{i}.u", skip) for i, skip in enumerate(us)]
    uls = [modulated(f"skips.{i}.ul", skip) for i, skip in enumerate(uls)]
    for stage in range(3):
        for i, (of_u, of_ul) in enumerate(pairs(model.down_u[stage], model.down_ul[stage])):
            u = gated_block(of_u, f"down.{stage}.u.{i}", at, u, us.pop())
            ul = gated_block(of_ul, f"down.{stage}.ul.{i}", at, ul, torch.cat([u, uls.pop()], dim=1))
        if stage < 2:
            u, ul = model.upsize_u[stage](u), model.upsize_ul[stage](ul)
    out: Tensor = model.nin_out(F.elu(modulated("head", ul)))
    return out


@torch.inference_mode()
def sample(model: ConditionalPixelCNN, labels: Tensor, noise: Tensor) -> Tensor:
    """One full forward pass per pixel -> images (B, C, H, W) in [-1, 1] on the 8-bit grid."""
    channels, height, width = model.image_shape
    x = torch.zeros(len(labels), channels, height, width)
    for row in range(height):
        for column in range(width):
            params = forward(model, x, labels)[:, :, row, column]
            x[:, :, row, column] = likelihood.sample(
                params, noise[row, column], channels=channels, n_mix=model.config.nr_logistic_mix
            )
    return x
