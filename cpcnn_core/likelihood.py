"""The discretized mixture of logistics: log-likelihood per image, and sampling (Salimans et al. 2017, section 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MIN_LOG_SCALE = -7.0
MAX_LOG_SCALE = 60.0
"""A scale of e^60 is flat enough; far beyond it float32 has neither the scale nor its inverse."""

HALF_BIN = 1.0 / 255.0
"""Half the distance of two neighbouring 8-bit values in [-1, 1]."""

EDGE = 0.999
"""Beyond it, and below its negative, lie the values of the two edge bins, 0 and 255."""


def nr_params(channels: int, n_mix: int) -> int:
    """Numbers per pixel of network output: per component a logit and, per channel, mean, log-scale and coefficient.

    One channel has no other to be coupled with, hence no coefficient.
    """
    if channels == 1:
        return 3 * n_mix
    if channels == 3:
        return 10 * n_mix
    raise ValueError(f"images of {channels} channels: the mixture is defined for 1 and 3")


@dataclass(frozen=True)
class Mixture:
    """The parameters of one mixture per pixel, unpacked. N is any leading shape."""

    logits: Tensor  # (N..., K)
    means: Tensor  # (N..., C, K), before the coupling of channels
    log_scales: Tensor  # (N..., C, K), MIN_LOG_SCALE to MAX_LOG_SCALE
    coefficients: Tensor | None  # (N..., 3, K) in (-1, 1): g on r, b on r, b on g

    @classmethod
    def unpack(cls, params: Tensor, channels: int, n_mix: int) -> Mixture:
        """From network output with the parameters in the last dimension, in the order of OpenAI's code."""
        K = n_mix
        if params.shape[-1] != nr_params(channels, K):
            raise ValueError(
                f"{params.shape[-1]} parameters per pixel, expected {nr_params(channels, K)} "
                f"for {channels} channels and {K} components"
            )
        # Split and clamped by what has a gradient of one call.
        logits, rest = params.split([K, params.shape[-1] - K], dim=-1)
        means, log_scales, *coefficients = rest.unflatten(-1, (channels, -1)).split(K, dim=-1)
        return cls(
            logits=logits,
            means=means,
            log_scales=F.hardtanh(log_scales, MIN_LOG_SCALE, MAX_LOG_SCALE),
            coefficients=torch.tanh(coefficients[0].contiguous()) if coefficients else None,
        )

    def coupled_mean(self, channel: int, x: Tensor) -> Tensor:
        """Mean (N..., K) of `channel` given the earlier channels of x (N..., C) (eq. 3)."""
        mean = self.means[..., channel, :]
        if self.coefficients is None or channel == 0:
            return mean
        c = self.coefficients
        if channel == 1:
            return mean + c[..., 0, :] * x[..., 0, None]
        return mean + c[..., 1, :] * x[..., 0, None] + c[..., 2, :] * x[..., 1, None]

    def coupled_means(self, x: Tensor) -> Tensor:
        """The means (N..., C, K) of all channels, given x (N..., C)."""
        if self.coefficients is None:
            return self.means
        red, green, blue = self.means.unbind(-2)
        green_of_red, blue_of_red, blue_of_green = self.coefficients.unbind(-2)
        x_red, x_green = x[..., 0, None], x[..., 1, None]
        green = green + green_of_red * x_red
        blue = blue + blue_of_red * x_red + blue_of_green * x_green
        return torch.stack([red, green, blue], dim=-2)


def log_prob(x: Tensor, params: Tensor, *, n_mix: int) -> Tensor:
    """Log p(x) per image in nats: images x (B, C, H, W) in [-1, 1] and parameters (B, P, H, W) -> (B,), in float32."""
    return log_prob_of_pixels(x, params, n_mix=n_mix).sum(dim=(1, 2))


def log_prob_of_pixels(x: Tensor, params: Tensor, *, n_mix: int) -> Tensor:
    """Log p(pixel | pixels before it) in nats, from the same as `log_prob` -> (B, H, W), whose sum over pixels it is.

    A value's probability is the mass of its bin, sigmoid(a) - sigmoid(b) with a and b the bin's edges in units of the
    scale; the bins of 0 and 255 reach to infinity (eq. 2). The difference is taken as

        log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)),

    an identity without cancellation. Implementations that subtract the two sigmoids need a branch for small
    probabilities, where they put the density at the middle times the width; here a small probability is as exact as
    a large one, and all 256 sum to one.

    The mixture's weights are normalised before a mass is added to them: beside a logit of 1e8 a mass would be lost.
    """
    channels = x.shape[1]
    x = x.float().movedim(1, -1)
    mixture = Mixture.unpack(params.float().movedim(1, -1), channels, n_mix)
    log_mass = bin_log_mass(x[..., None], mixture.coupled_means(x), mixture.log_scales)
    # Over the dimension in which they lie: over the last one a CPU is several times slower, the components being few.
    log_weights = F.log_softmax(mixture.logits.movedim(-1, 1), dim=1).movedim(1, -1)
    return torch.logsumexp(log_mass.sum(dim=-2) + log_weights, dim=-1)


def bin_log_mass(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log of the mass that a logistic puts into the 8-bit bin around x, elementwise, nats.

    `log_scale`, of the shape of `mean`, is MAX_LOG_SCALE at most, as a Mixture has it: a bin without any width would
    have no log. It has a gradient in mean and scale.
    """
    if torch.compiler.is_compiling():  # which takes the gradient of the definition, and fuses it
        return _in_units(x, mean, log_scale)[0]
    out: Tensor = _BinLogMass.apply(x, mean, log_scale)
    return out


def _in_units(x: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, ...]:
    """`bin_log_mass`, and of what it is made: 1 / scale, the upper edge and minus the lower one in units of the scale.

    Then where x is white, where it is black and where it is either: their bins reach to infinity, and the factor of an
    edge that is not there is one.
    """
    inverse_scale = torch.exp(-log_scale)
    centered = x - mean
    upper = inverse_scale * (centered + HALF_BIN)
    minus_lower = inverse_scale * (HALF_BIN - centered)
    white, black = x > EDGE, x < -EDGE
    either = white | black
    log_below_upper = torch.where(white, 0.0, F.logsigmoid(upper))
    log_above_lower = torch.where(black, 0.0, F.logsigmoid(minus_lower))
    inside = torch.log(-torch.expm1(-2 * HALF_BIN * inverse_scale))
    log_mass = log_below_upper + log_above_lower + torch.where(either, 0.0, inside)
    return log_mass, inverse_scale, upper, minus_lower, white, black, either


class _BinLogMass(torch.autograd.Function):
    """The gradient as a formula: it takes half of the operations, and less memory, than what autograd records.

    With w = 2 HALF_BIN / scale the derivative of log(1 - exp(-w)) with respect to the log-scale is -w / (exp(w) - 1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        out, *kept = _in_units(x, mean, log_scale)
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        inverse_scale, upper, minus_lower, white, black, either = ctx.saved_tensors
        (grad,) = grads
        of_upper = torch.sigmoid(-upper).masked_fill(white, 0.0)
        of_lower = torch.sigmoid(-minus_lower).masked_fill(black, 0.0)  # of minus the lower edge
        width = 2 * HALF_BIN * inverse_scale
        of_width = (width / torch.expm1(width)).masked_fill(either, 0.0)
        of_mean = (of_lower - of_upper) * inverse_scale * grad
        of_log_scale = of_width.addcmul(of_upper, upper).addcmul(of_lower, minus_lower) * -grad
        return None, of_mean, of_log_scale


def sample(params: Tensor, noise: Tensor, *, channels: int, n_mix: int, temperature: float = 1.0) -> Tensor:
    """Draw pixels on the 8-bit grid: parameters (N..., P) and uniforms (N..., K + C) in (0, 1) -> (N..., C) in [-1, 1].

    The first K uniforms choose the component (Gumbel's trick), the others the logistic of each channel. Each channel is
    rounded to its bin before the next is coupled to it, so that pixels have exactly the probability of `log_prob`.
    `temperature` divides the logits and multiplies the scales; 0 takes the likeliest component's means.
    """
    mixture = Mixture.unpack(params.float(), channels, n_mix)
    K = n_mix
    gumbel = -torch.log(-torch.log(noise[..., :K]))
    component = (mixture.logits + temperature * gumbel).argmax(dim=-1, keepdim=True)
    logistic = torch.log(noise[..., K:]) - torch.log1p(-noise[..., K:])
    values = torch.zeros(*params.shape[:-1], channels, device=params.device)
    for channel in range(channels):
        mean = mixture.coupled_mean(channel, values).gather(-1, component)[..., 0]
        scale = temperature * torch.exp(mixture.log_scales[..., channel, :].gather(-1, component)[..., 0])
        values[..., channel] = to_grid(mean + scale * logistic[..., channel])
    return values


def to_grid(x: Tensor) -> Tensor:
    """The nearest 8-bit value, as a float in [-1, 1]."""
    return (((x + 1) * 127.5).round().clamp(0, 255)) / 127.5 - 1


def bits_per_dim(log_likelihood: Tensor, image_shape: tuple[int, int, int]) -> Tensor:
    """Bits per sub-pixel from nats per image."""
    return log_likelihood / -(math.prod(image_shape) * math.log(2.0))
