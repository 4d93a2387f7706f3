"""Shifted convolutions and the gated residual block (Salimans et al. 2017, section 2; van den Oord et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from cpcnn_core.fusion.base import Modulation, per_label

IDENTITY = Modulation()

NORM_EPS = 1e-5


# What these two functions keep for their gradients is made by an operation that is not in place, and never changed. Of
# what is changed in place torch 2.11's compiler keeps the value from before, and trains on wrong gradients unsaid.


class _ConcatELU(torch.autograd.Function):
    """Nothing is kept but the output, which the next convolution keeps anyway.

    On a CPU torch's own elu (and its `where`) is not vectorised and takes a quarter of the whole forward pass; there it
    is one exponential for both halves, elu(+-x) = max(+-x, exp(-|x|) - 1). On a GPU that would be five passes over
    memory more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = _by_one_exponential(x) if x.device.type == "cpu" else _by_few_kernels(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        of_x, of_minus_x = torch.ops.aten.elu_backward(grads[0], 1, 1, 1, True, out).chunk(2, dim=1)  # from the output
        grad: Tensor = of_x - of_minus_x
        return grad


def _by_one_exponential(x: Tensor) -> Tensor:
    minus_x = -x
    below = x.abs().neg_().exp_().sub_(1)
    reused = None if torch.compiler.is_compiling() else minus_x  # which torch 2.11 cannot compile
    return torch.cat([torch.maximum(x, below), torch.maximum(minus_x, below, out=reused)], dim=1)


def _by_few_kernels(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def concat_elu(x: Tensor) -> Tensor:
    """Elu of [x ; -x]: (B, C, H, W) -> (B, 2C, H, W)."""
    out: Tensor = _ConcatELU.apply(x)
    return out


class _Gate(torch.autograd.Function):
    """value * sigmoid(gating) of [value ; gating]; the sigmoid of a copy, for a CPU is slow at half of the channels."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        value, gating = h.chunk(2, dim=1)
        open_share = gating.contiguous(memory_format=torch.channels_last).sigmoid()
        ctx.save_for_backward(h, open_share)
        return value * open_share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        h, open_share = ctx.saved_tensors
        of_value = grads[0] * open_share
        of_gating = (1 - open_share).mul_(of_value).mul_(h.chunk(2, dim=1)[0])
        return torch.cat([of_value, of_gating], dim=1)


def gated(h: Tensor) -> Tensor:
    """The first half of the channels, as far as the second half opens it: (B, 2C, H, W) -> (B, C, H, W)."""
    out: Tensor = _Gate.apply(h)
    return out


class Gate(nn.Module):
    """`gated` as a module, so that whoever wants to can watch it."""

    def forward(self, h: Tensor) -> Tensor:
        return gated(h)


def add(a: Tensor, b: Tensor) -> Tensor:
    """The sum of a and b, where either may have one entry per image and the other one per label."""
    count = max(len(a), len(b))
    return per_label(a, count) + per_label(b, count)


def beside(a: Tensor, b: Tensor) -> Tensor:
    """The channels of a and b, where either may have one entry per image and the other one per label."""
    count = max(len(a), len(b))
    return torch.cat([per_label(a, count), per_label(b, count)], dim=1)


def with_label(act: Tensor, extra: Tensor | None) -> Tensor:
    """The concat-ELU `act` of an activation, beside it that of the label's channels `extra` (B, E, 1 or H, 1 or W)."""
    return act if extra is None else beside(act, concat_elu(extra).to(act.dtype).expand(-1, -1, *act.shape[2:]))


def down_shift(x: Tensor) -> Tensor:
    """Move every row down by one; the first becomes zero."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1, :]


def right_shift(x: Tensor) -> Tensor:
    """Move every column right by one; the first becomes zero."""
    return F.pad(x, (1, 0, 0, 0))[:, :, :, :-1]


class DownShiftedConv2d(nn.Module):
    """A convolution that sees the rows up to its own: the u stream. Kernel (height, width), width odd."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int] = (2, 3), stride: int = 1) -> None:
        super().__init__()
        height, width = kernel
        self.padding = (width // 2, width // 2, height - 1, 0)
        self.conv = weight_norm(nn.Conv2d(n_in, n_out, kernel, stride))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, self.padding))
        return out


class DownRightShiftedConv2d(nn.Module):
    """A convolution that sees rows above and, in its own row, columns up to its own: the ul stream."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int] = (2, 2), stride: int = 1) -> None:
        super().__init__()
        height, width = kernel
        self.padding = (width - 1, 0, height - 1, 0)
        self.conv = weight_norm(nn.Conv2d(n_in, n_out, kernel, stride))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, self.padding))
        return out


class DownShiftedDeconv2d(nn.Module):
    """The transpose of a stride-2 `DownShiftedConv2d`: doubles height and width."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = weight_norm(nn.ConvTranspose2d(n_in, n_out, (2, 3), stride=2, output_padding=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out[:, :, :-1, 1:-1]


class DownRightShiftedDeconv2d(nn.Module):
    """The transpose of a stride-2 `DownRightShiftedConv2d`: doubles height and width."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = weight_norm(nn.ConvTranspose2d(n_in, n_out, (2, 2), stride=2, output_padding=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out[:, :, :-1, :-1]


class NetworkInNetwork(nn.Module):
    """A 1x1 convolution."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv2d(n_in, n_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


ShiftedConv = type[DownShiftedConv2d] | type[DownRightShiftedConv2d]


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel apart (Ba et al. 2016), so that no pixel learns of another.

    Whatever mixes pixels, as group or instance normalisation do, would let a pixel see the ones that come after it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor) -> Tensor:
        # By way of (B, H, W, C), which is how activations lie in memory.
        normed = F.layer_norm(h.movedim(1, -1), self.weight.shape, self.weight, self.bias, NORM_EPS)
        return normed.movedim(-1, 1).to(h.dtype)  # autocast normalises in float32


class GatedBlock(nn.Module):
    """A gated residual block with an optional skip path of `skip_channels`, and channels of label beside what it reads.

    `before` channels stand beside its input, `extra_channels` beside the skip, `inside` beside the hidden activation.
    """

    def __init__(
        self,
        channels: int,
        conv: ShiftedConv,
        *,
        skip_channels: int = 0,
        extra_channels: int = 0,
        before: int = 0,
        inside: int = 0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv_input = conv(2 * (channels + before), channels)
        self.nin_skip = NetworkInNetwork(2 * (skip_channels + extra_channels), channels) if skip_channels else None
        self.norm = ChannelNorm(channels) if norm else None
        self.conv_out = conv(2 * (channels + inside), 2 * channels)
        self.gated = Gate()

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None = None,
        *,
        hidden: Modulation = IDENTITY,
        gate: Modulation = IDENTITY,
        output: Modulation = IDENTITY,
        before: Tensor | None = None,
        extra: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map (B, C, H, W) to the same shape.

        Each argument may have one entry per image or one per label; the result has one per label where any has.
        `skip` (B, skip_channels, H, W), with `extra` (B, E, 1 or H, 1 or W) beside it, joins after conv_input;
        `before`, of the same shape, stands beside x there. `mask`, a dropout mask scaled by 1 / keep probability,
        multiplies the 2C channels before conv_out, but not the label's beside them. Modulations are the fusion's.
        """
        h = self.conv_input(with_label(concat_elu(x), before))
        if self.nin_skip is not None:
            assert skip is not None
            if extra is not None:
                skip = beside(skip, extra.expand(-1, -1, *x.shape[2:]))
            h = add(h, self.nin_skip(concat_elu(skip)))
        if self.norm is not None:
            h = self.norm(h)
        h = concat_elu(hidden(h))
        if mask is not None:
            h = h * per_label(mask.to(h.dtype), len(h))  # in fp32 it would make h fp32 again under autocast
        h = with_label(h, hidden.extra)
        return output(add(x, self.gated(gate(self.conv_out(h)))))  # van den Oord et al. 2016, eq. 2
