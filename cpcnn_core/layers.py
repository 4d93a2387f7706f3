"""Shifted convolutions and the gated residual block (Salimans et al. 2017, section 2; van den Oord et al. 2016)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from cpcnn_core.fusion.base import Modulation, per_label

IDENTITY = Modulation()

NORM_EPS = 1e-5


def few_kernels(device: torch.device) -> bool:
    """Whether a call's own cost, which on a GPU is a kernel's, matters more than what a CPU computes quickly."""
    return device.type != "cpu"


# What these functions keep for their gradients is made by an operation that is not in place, and never changed. Of what
# is changed in place torch 2.11's compiler keeps the value from before, and trains on wrong gradients unsaid. On a
# GPU's path the compiler is given the definitions instead, whose operations it fuses by itself.


class _ConcatELU(torch.autograd.Function):
    """Nothing is kept but the output, which the next convolution keeps anyway.

    On a CPU torch's own elu (and its `where`) is not vectorised and takes a quarter of the whole forward pass; there it
    is one exponential for both halves, elu(+-x) = max(+-x, exp(-|x|) - 1). On a GPU that would be five passes over
    memory more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = F.elu(_both_signs(x)) if few_kernels(x.device) else _by_one_exponential(x)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        return _elu_gradient(grads[0], out)


def _by_one_exponential(x: Tensor) -> Tensor:
    minus_x = -x
    below = x.abs().neg_().exp_().sub_(1)
    reused = None if torch.compiler.is_compiling() else minus_x  # which torch 2.11 cannot compile
    return torch.cat([torch.maximum(x, below), torch.maximum(minus_x, below, out=reused)], dim=1)


def _both_signs(x: Tensor) -> Tensor:
    """[x ; -x]."""
    return torch.cat([x, -x], dim=1)


def _elu_gradient(grad: Tensor, out: Tensor) -> Tensor:
    """The gradient of [x ; -x] -> `out`, its elu, with respect to x."""
    of_x, of_minus_x = torch.ops.aten.elu_backward(grad, 1, 1, 1, True, out).chunk(2, dim=1)  # from the output
    difference: Tensor = of_x - of_minus_x
    return difference


def concat_elu(x: Tensor) -> Tensor:
    """Elu of [x ; -x]: (B, C, H, W) -> (B, 2C, H, W)."""
    if torch.compiler.is_compiling() and few_kernels(x.device):
        return F.elu(_both_signs(x))
    out: Tensor = _ConcatELU.apply(x)
    return out


Padding = tuple[int, int, int, int]
"""How much `F.pad` adds: left, right, top, bottom."""

NONE: Padding = (0, 0, 0, 0)


class _PaddedConcatELU(torch.autograd.Function):
    """The concat-ELU, a dropout mask and padding in few kernels, written where the next convolution reads them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, signs: Tensor, mask: Tensor | None, padding: Padding) -> Tensor:
        ctx.padding = padding
        out = _with_room(x, padding if mask is None else NONE)
        inside = _inside(out, padding if mask is None else NONE)
        torch.mul(x[:, None], signs, out=inside.unflatten(1, (2, -1)))
        act = F.elu(out)  # of the padding too, which stays zero
        if mask is None:
            ctx.save_for_backward(act)
            return act
        ctx.save_for_backward(act, mask)
        masked = _with_room(x, padding)
        torch.mul(act, mask, out=_inside(masked, padding))
        return masked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        act, *masks = ctx.saved_tensors
        grad = _inside(grads[0], ctx.padding)
        if not masks:
            return _elu_gradient(grad, _inside(act, ctx.padding)), None, None, None
        of_act = torch.mul(grad, masks[0], out=torch.empty_like(act))  # a mask in float32 would make it float32
        return _elu_gradient(of_act, act), None, None, None


def _with_room(x: Tensor, padding: Padding) -> Tensor:
    """Room for both signs of x (B, C, H, W), and zeros around it where there is padding."""
    left, right, top, bottom = padding
    B, C, H, W = x.shape
    size = (B, 2 * C, top + H + bottom, left + W + right)
    room = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return room.zero_() if any(padding) else room


def _inside(padded: Tensor, padding: Padding) -> Tensor:
    left, right, top, bottom = padding
    height, width = padded.shape[2:]
    return padded[:, :, top : height - bottom, left : width - right]


class ConcatELU(nn.Module):
    """`concat_elu`, then a dropout mask (B, 2C, 1 or H, 1 or W) where there is one, then padding with zeros."""

    signs: Tensor

    def __init__(self) -> None:
        super().__init__()
        # On the device from the beginning: by it one kernel makes [x ; -x] of x.
        self.register_buffer("signs", torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor, padding: Padding = NONE, mask: Tensor | None = None) -> Tensor:
        mask = None if mask is None else per_label(mask, len(x))
        if few_kernels(x.device) and not torch.compiler.is_compiling():
            out: Tensor = _PaddedConcatELU.apply(x, self.signs, mask, padding)
            return out
        act = concat_elu(x)
        if mask is not None:
            act = act * mask.to(act.dtype)  # in fp32 it would make it fp32 again under autocast
        return F.pad(act, padding) if any(padding) else act


class _Gate(torch.autograd.Function):
    """value * sigmoid(gating) of [value ; gating]; the sigmoid of a copy, for a CPU is slow at half of the channels.

    A GPU has a kernel for it, and one for its gradient.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        if few_kernels(h.device):
            ctx.save_for_backward(h)
            return F.glu(h, dim=1)
        value, gating = h.chunk(2, dim=1)
        open_share = gating.contiguous(memory_format=torch.channels_last).sigmoid()
        ctx.save_for_backward(h, open_share)
        return value * open_share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        h, *shares = ctx.saved_tensors
        if not shares:  # into memory in the order of h, which by itself it would not choose
            out: Tensor = torch.ops.aten.glu_backward.grad_input(grads[0], h, 1, grad_input=torch.empty_like(h))
            return out
        (open_share,) = shares
        of_value = grads[0] * open_share
        of_gating = (1 - open_share).mul_(of_value).mul_(h.chunk(2, dim=1)[0])
        return torch.cat([of_value, of_gating], dim=1)


def gated(h: Tensor) -> Tensor:
    """The first half of the channels, as far as the second half opens it: (B, 2C, H, W) -> (B, C, H, W)."""
    if torch.compiler.is_compiling() and few_kernels(h.device):
        return F.glu(h, dim=1)
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


def down_shift(x: Tensor) -> Tensor:
    """Move every row down by one; the first becomes zero."""
    return F.pad(x, (0, 0, 1, -1))


def right_shift(x: Tensor) -> Tensor:
    """Move every column right by one; the first becomes zero."""
    return F.pad(x, (1, -1, 0, 0))


class Convolve(nn.Module):
    """A convolution, given weight and bias, as a module, so that whoever wants to can watch it."""

    def __init__(
        self, stride: tuple[int, int], padding: tuple[int, int], output_padding: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.output_padding = stride, padding, output_padding

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.output_padding is None:
            return F.conv2d(x, weight, bias, self.stride, self.padding)
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding)


class Normed(nn.Module):
    """A convolution with weight norm, whose weight and bias may have been made `ready` by `weights.Weights`.

    What holds the parameters is a class of its own in each layer, which torch makes: a compiler that saw it would take
    each layer for another kind.
    """

    ready: tuple[Tensor, Tensor] | None = None

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = weight_norm(conv)
        transposed = isinstance(conv, nn.ConvTranspose2d)
        stride, padding, output_padding = (
            cast("tuple[int, int]", size) for size in (conv.stride, conv.padding, conv.output_padding)
        )
        self.convolve = Convolve(stride, padding, output_padding if transposed else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(x)

    def convolved(self, x: Tensor) -> Tensor:
        """The convolution alone."""
        weight, bias = self.ready or (self.conv.weight, self.conv.bias)
        out: Tensor = self.convolve(x, weight, bias)
        return out


class _Shifted(Normed):
    """A convolution that is padded more on one side than on the other, so that it sees no later pixel.

    `padding` is what it needs in all. What is the same on both sides the convolution adds by itself; `uneven` is the
    rest, which is to be there already where it is `convolved` alone.
    """

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int], stride: int, padding: Padding) -> None:
        left, right, top, bottom = padding
        own = (min(top, bottom), min(left, right))
        super().__init__(nn.Conv2d(n_in, n_out, kernel, stride, own))
        self.padding = padding
        self.uneven = (left - own[1], right - own[1], top - own[0], bottom - own[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.convolved(F.pad(x, self.uneven) if any(self.uneven) else x)


class DownShiftedConv2d(_Shifted):
    """A convolution that sees the rows up to its own: the u stream. Kernel (height, width), width odd."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int] = (2, 3), stride: int = 1) -> None:
        height, width = kernel
        super().__init__(n_in, n_out, kernel, stride, (width // 2, width // 2, height - 1, 0))


class DownRightShiftedConv2d(_Shifted):
    """A convolution that sees rows above and, in its own row, columns up to its own: the ul stream."""

    def __init__(self, n_in: int, n_out: int, kernel: tuple[int, int] = (2, 2), stride: int = 1) -> None:
        height, width = kernel
        super().__init__(n_in, n_out, kernel, stride, (width - 1, 0, height - 1, 0))


class DownShiftedDeconv2d(Normed):
    """The transpose of a stride-2 `DownShiftedConv2d`, without its first column: doubles height and width."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.ConvTranspose2d(n_in, n_out, (2, 3), stride=2, padding=(0, 1), output_padding=(0, 1)))


class DownRightShiftedDeconv2d(Normed):
    """The transpose of a stride-2 `DownRightShiftedConv2d`: doubles height and width."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.ConvTranspose2d(n_in, n_out, (2, 2), stride=2))


class NetworkInNetwork(Normed):
    """A 1x1 convolution."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.Conv2d(n_in, n_out, 1))


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
        self.concat_elu = ConcatELU()
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
        h = self._convolved(self.conv_input, x, before)
        if self.nin_skip is not None:
            assert skip is not None
            if extra is not None:
                skip = beside(skip, extra.expand(-1, -1, *x.shape[2:]))
            h = add(h, self.nin_skip(self.concat_elu(skip)))
        if self.norm is not None:
            h = self.norm(h)
        h = self._convolved(self.conv_out, hidden(h), hidden.extra, mask)
        return output(add(x, self.gated(gate(h))))  # van den Oord et al. 2016, eq. 2

    def _convolved(self, conv: _Shifted, h: Tensor, extra: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """The convolution of the concat-ELU of h times the mask, beside it the label's channels `extra` (B, E, ...)."""
        if extra is None:
            return conv.convolved(self.concat_elu(h, conv.uneven, mask))
        act = self.concat_elu(h, mask=mask)
        out: Tensor = conv(beside(act, concat_elu(extra).to(act.dtype).expand(-1, -1, *h.shape[2:])))
        return out


def call_block(block: GatedBlock, x: Tensor, skip: Tensor | None, **others: Modulation | Tensor | None) -> Tensor:
    """`block` of its arguments, as a function: one piece of code for all blocks, which may be compiled."""
    out: Tensor = block(x, skip, **others)
    return out
