"""The network as one would write it down, the baseline of the benchmarks: nothing folded, cached or laid out for speed.

Same parameters, same outputs as `ConditionalPixelCNN`; contiguous (B, C, H, W) tensors, torch's own elu, weight norm
computed in every convolution of every pass, as the course's starter code and OpenAI's do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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


def gated_block(
    block: GatedBlock,
    name: str,
    at: Conditioning,
    x: Tensor,
    skip: Tensor | None = None,
    mask: Iterator[Tensor] | None = None,
) -> Tensor:
    """`GatedBlock.forward`; `mask` gives the dropout masks one by one."""
    h = block.conv_input(concat_elu(x))
    if block.nin_skip is not None and skip is not None:
        extra = at.get(f"{name}.block_skip", Modulation()).extra
        if extra is not None:
            skip = torch.cat([skip, extra.expand(-1, -1, *skip.shape[2:])], dim=1)
        h = h + block.nin_skip(concat_elu(skip))
    h = at.get(f"{name}.hidden", Modulation())(h)
    h = concat_elu(h)
    h = block.conv_out(h if mask is None else h * next(mask))
    value, gate = at.get(f"{name}.gate", Modulation())(h).chunk(2, dim=1)
    return at.get(f"{name}.output", Modulation())(x + value * torch.sigmoid(gate))


def pairs(of_u: nn.Module, of_ul: nn.Module) -> Iterator[tuple[GatedBlock, GatedBlock]]:
    """The blocks of a stage, those of the two streams side by side."""
    return zip(cast("list[GatedBlock]", of_u), cast("list[GatedBlock]", of_ul), strict=True)


def forward(model: ConditionalPixelCNN, x: Tensor, labels: Tensor, masks: Iterable[Tensor] | None = None) -> Tensor:
    """Mixture parameters (B, P, H, W) for images x (B, C, H, W) in [-1, 1] and labels (B,)."""
    at = model.condition(labels)
    mask = None if masks is None else iter(masks)

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
            u = gated_block(of_u, f"up.{level}.u.{i}", at, u, mask=mask)
            ul = gated_block(of_ul, f"up.{level}.ul.{i}", at, ul, u, mask)
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
            u = gated_block(of_u, f"down.{stage}.u.{i}", at, u, us.pop(), mask)
            skip = torch.cat([u, uls.pop()], dim=1)
            ul = gated_block(of_ul, f"down.{stage}.ul.{i}", at, ul, skip, mask)
        if stage < 2:
            u, ul = model.upsize_u[stage](u), model.upsize_ul[stage](ul)
    out: Tensor = model.nin_out(F.elu(modulated("head", ul)))
    return out


def log_prob(x: Tensor, params: Tensor, *, n_mix: int) -> Tensor:
    """Log p(x) per image in nats, as published: differences of sigmoids, and a branch where they are too small.

    Salimans et al. 2017, section 2.1, for three channels.
    """
    x, params = x.permute(0, 2, 3, 1), params.permute(0, 2, 3, 1)
    logits, rest = params[..., :n_mix], params[..., n_mix:].reshape(*x.shape, 3 * n_mix)
    means, log_scales = rest[..., :n_mix], rest[..., n_mix : 2 * n_mix].clamp(min=likelihood.MIN_LOG_SCALE)
    coefficients = torch.tanh(rest[..., 2 * n_mix :])
    x = x.unsqueeze(-1).repeat(1, 1, 1, 1, n_mix)
    green = means[..., 1, :] + coefficients[..., 0, :] * x[..., 0, :]
    blue = means[..., 2, :] + coefficients[..., 1, :] * x[..., 0, :] + coefficients[..., 2, :] * x[..., 1, :]
    centered = x - torch.stack([means[..., 0, :], green, blue], dim=-2)
    inverse_scale = torch.exp(-log_scales)
    upper, lower = inverse_scale * (centered + 1 / 255), inverse_scale * (centered - 1 / 255)
    middle = inverse_scale * centered
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    density = middle - log_scales - 2 * F.softplus(middle) - math.log(127.5)
    inside = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-12)), density)
    of_white = torch.where(x > 0.999, -F.softplus(lower), inside)
    log_mass = torch.where(x < -0.999, upper - F.softplus(upper), of_white)
    return torch.logsumexp(log_mass.sum(dim=3) + F.log_softmax(logits, dim=-1), dim=-1).sum(dim=(1, 2))


@torch.inference_mode()
def class_log_likelihoods(model: ConditionalPixelCNN, x: Tensor) -> Tensor:
    """Log p(x | y) (B, Y): every image once under every class."""
    Y = model.nr_classes
    repeated = x.repeat_interleave(Y, dim=0)
    params = forward(model, repeated, torch.arange(Y, device=x.device).repeat(len(x)))
    return log_prob(repeated, params, n_mix=model.config.nr_logistic_mix).view(-1, Y)


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
