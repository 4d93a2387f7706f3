"""The parts of a cached network: convolutions, blocks, stem and head, each with the memory that it keeps.

`begin` records what is known when a row starts, `record` what follows at a column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core import layers
from cpcnn_core.cached.ops import ALL, Affine, At, Ops, add_product, pick, set_product
from cpcnn_core.fusion import Modulation
from cpcnn_core.layers import IDENTITY, NORM_EPS, ChannelNorm, GatedBlock, concat_elu, down_shift, right_shift
from cpcnn_core.model import NR_LEVELS, ConditionalPixelCNN

Name = tuple[str, str, int]
"""A block: its stage (as up.0), its stream and its index there."""


class Map:
    """A value for each place of an image, of which `now` (W, C, 1 or B) holds the current row."""

    def __init__(self, values: Tensor, class_of: Tensor) -> None:
        self.values = values.permute(2, 3, 1, 0).contiguous()  # (H, W, C, one class or all)
        self.class_of = class_of if values.shape[0] > 1 else class_of.new_zeros(1)
        self.now = values.new_empty(*self.values.shape[1:3], len(self.class_of))

    def load(self, row: int) -> None:
        torch.index_select(self.values[row], 2, self.class_of, out=self.now)


class Memory:
    """What the parts of a cached network share: the label's modulations, and memory."""

    def __init__(self, model: ConditionalPixelCNN, labels: Tensor) -> None:
        self.model = model
        self.batch = len(labels)
        self.like = model.nin_out.conv.bias
        _, _, width = model.image_shape
        self.widths = [width >> level for level in range(NR_LEVELS)]
        classes, self.class_of = labels.to(self.like.device).unique(return_inverse=True)
        self.conditioning: Mapping[str, Modulation] = model.condition(classes)
        self.maps: list[list[Map]] = [[] for _ in range(NR_LEVELS)]
        self.allocated: list[Tensor] = []
        C = model.config.nr_filters
        self.few_calls = layers.few_kernels(self.like.device)
        self.minus = self.zeros(width, C, self.batch)
        self.minus_abs = self.zeros(width, C, self.batch)
        self.one: Tensor = self.like.new_ones(())  # a Python number would be made a tensor in every call

    def zeros(self, *size: int) -> Tensor:
        made: Tensor = self.like.new_zeros(size)
        self.allocated.append(made)
        return made

    def at(self, site: str) -> Modulation:
        return self.conditioning.get(site, IDENTITY)

    def affine(self, site: str, level: int) -> Affine:
        """The modulation at a site."""
        modulation = self.at(site)
        return Affine(
            None if modulation.scale is None else self.field(modulation.scale, level),
            None if modulation.shift is None else self.field(modulation.shift, level),
        )

    def fold(self, site: str, bias: Tensor, level: int) -> tuple[Tensor, Affine]:
        """The bias (1 or Y, C, 1 or H, 1 or W) before a site, which takes in the shift there; what is left to do."""
        modulation = self.at(site)
        if modulation.scale is not None:
            return self.field(bias, level), self.affine(site, level)
        return self.field(bias if modulation.shift is None else bias + modulation.shift, level), Affine()

    def of_label(self, conv: nn.Module, extra: Tensor | None, level: int, channels: int) -> Tensor:
        """What a convolution adds for the label's channels `extra` beside its first `channels`: (Y, C, H, W), or 0."""
        if extra is None:
            none: Tensor = self.like.new_zeros(())
            return none
        height, width = self.model.image_shape[1] >> level, self.widths[level]
        planes = F.pad(concat_elu(extra).expand(-1, -1, height, width), cast("tuple[int, ...]", conv.padding))
        return F.conv2d(planes, folded(conv)[:, channels:])

    def field(self, values: Tensor, level: int) -> Tensor:
        """(Y, C, 1 or H, 1 or W), a value per class, as (1 or W, C, B): of every row, or of the current one."""
        if values.shape[2:] == (1, 1):
            return self.constant(values)
        height, width = self.model.image_shape[1] >> level, self.widths[level]
        made = Map(values.expand(-1, -1, height, width), self.class_of)
        self.maps[level].append(made)
        return made.now

    def constant(self, values: Tensor) -> Tensor:
        """(1 or Y, C, 1, 1) as (1, C, 1 or B)."""
        by_class = values[:, :, 0, 0].T
        return (by_class if len(values) == 1 else by_class[:, self.class_of]).contiguous()[None]

    def concat_elu(self, ops: Ops, x: Tensor, out: Tensor) -> None:
        """Out (..., 2C, B) = concat-ELU of x (..., C, B), as max(x, e), max(-x, e) with e = exp(-|x|) - 1.

        That holds for either sign of x, since exp(z) - 1 >= z, and takes one exponential for the two halves. A GPU
        takes torch's elu, which is half as many kernels.
        """
        positive, negative = out.chunk(2, dim=-2)
        if self.few_calls:
            ops += [
                partial(torch.ops.aten.elu.out, x, out=positive),
                partial(torch.neg, x, out=negative),
                partial(F.elu_, negative),
            ]
            return
        minus, minus_abs = (
            (t[0] if x.dim() == 2 else t[: len(x)])[..., : x.shape[-2], :] for t in (self.minus, self.minus_abs)
        )
        ops += [
            partial(torch.neg, x, out=minus),
            partial(torch.minimum, x, minus, out=minus_abs),
            minus_abs.exp_,
            partial(minus_abs.sub_, self.one),
            partial(torch.maximum, x, minus_abs, out=positive),
            partial(torch.maximum, minus, minus_abs, out=negative),
        ]


class Conv:
    """A convolution two rows high that keeps its input's current row, and before that is written, the previous one."""

    def __init__(
        self, net: Memory, level: int, conv: nn.Module, bias: Tensor, stride: int = 1, channels: int | None = None
    ) -> None:
        """`channels` is how many of its input's are activations; the others are the label's and stand in `bias`."""
        weight = folded(conv)[:, :channels]
        left, right, *_ = cast("tuple[int, ...]", conv.padding)
        n_in, taps = weight.shape[1], weight.shape[3]
        width, batch = net.widths[level], net.batch
        self.above, self.now = side_by_side(weight[:, :, 0]), side_by_side(weight[:, :, 1])
        self.bias = bias
        self.padded = net.zeros(left + width + right, n_in, batch)
        self.input = self.padded[left : left + width]
        size, strides = (width // stride, taps * n_in, batch), (stride * n_in * batch, batch, 1)
        self.windows = self.padded.as_strided(size, strides)
        self.out = net.zeros(width // stride, len(weight), batch)

    def begin(self, ops: Ops) -> None:
        """What is known of the output before the current row of the input is: bias, label, the row above."""
        set_product(ops, self.out, self.bias, self.above, self.windows)

    def record(self, ops: Ops, at: At) -> Tensor:
        """Complete the output at column(s) `at`."""
        out = self.out[at]
        add_product(ops, out, self.now, self.windows[at])
        return out


class Norm:
    """Layer normalisation over the channels of each pixel, in place."""

    def __init__(self, net: Memory, level: int, norm: ChannelNorm) -> None:
        width, C = net.widths[level], len(norm.weight)
        self.weight, self.bias = (t.detach()[:, None].contiguous() for t in (norm.weight, norm.bias))
        self.mean, self.squares = net.zeros(width, 1, net.batch), net.zeros(width, C, net.batch)
        self.eps = net.like.new_full((), NORM_EPS)

    def record(self, ops: Ops, h: Tensor, at: At) -> None:
        mean, squares = self.mean[at], self.squares[at]
        ops += [
            partial(torch.mean, h, -2, keepdim=True, out=mean),
            partial(h.sub_, mean),
            partial(torch.mul, h, h, out=squares),
            partial(torch.mean, squares, -2, keepdim=True, out=mean),
            partial(mean.add_, self.eps),
            mean.rsqrt_,
            partial(h.mul_, mean),
            partial(torch.addcmul, self.bias, h, self.weight, out=h),
        ]


@dataclass
class Node:
    """An activation of a stream: its values, and their concat-ELU where something reads that."""

    raw: Tensor  # (W, C, B)
    act: Tensor | None = None  # (W, 2C, B)


class Block:
    """A gated block. `early` skips, from u to ul, are there when a row starts; `late` ones are the stream's own."""

    def __init__(
        self, net: Memory, level: int, name: Name, block: GatedBlock, early: list[Node], late: list[Node]
    ) -> None:
        self.net, self.level = net, level
        stage, stream, index = name
        site = f"{stage}.{stream}.{index}"
        C = block.conv_input.conv.out_channels
        before = net.model.channels_before(stage, stream, index, net.conditioning)
        bias = bias_of(block.conv_input) + net.of_label(block.conv_input, before, level, 2 * C)
        skips: list[tuple[Tensor, Node]] = []
        if block.nin_skip is not None:
            bias = bias + bias_of(block.nin_skip)
            weight = folded(block.nin_skip)[:, :, 0, 0]
            nodes = [*early, *late]
            positive, negative = weight.chunk(2, dim=1)  # concat-ELU of [skips ; extra] has all the negatives last
            for i, node in enumerate(nodes):
                part = slice(i * C, (i + 1) * C)
                skips.append((torch.cat([positive[:, part], negative[:, part]], dim=1), node))
            extra = net.model.channels_beside_skip(stage, stream, index, net.conditioning)
            if extra is not None:
                rest = slice(len(nodes) * C, None)
                of_label = torch.cat([positive[:, rest], negative[:, rest]], dim=1)[:, :, None, None]
                bias = bias + F.conv2d(concat_elu(extra), of_label)
        self.early, self.late = skips[: len(early)], skips[len(early) :]
        self.norm = None if block.norm is None else Norm(net, level, block.norm)
        if self.norm is None:
            shifted, self.hidden = net.fold(f"{site}.hidden", bias, level)
        else:  # it comes between the bias and the label
            shifted, self.hidden = net.field(bias, level), net.affine(f"{site}.hidden", level)
        self.conv_input = Conv(net, level, block.conv_input, shifted, channels=2 * C)
        bias = bias_of(block.conv_out) + net.of_label(block.conv_out, net.at(f"{site}.hidden").extra, level, 2 * C)
        shifted, self.gate = net.fold(f"{site}.gate", bias, level)
        self.conv_out = Conv(net, level, block.conv_out, shifted, channels=2 * C)
        self.output = net.affine(f"{site}.output", level)

    def begin(self, ops: Ops) -> None:
        self.conv_input.begin(ops)
        for weight, node in self.early:
            assert node.act is not None
            add_product(ops, self.conv_input.out, weight, node.act)
        self.conv_out.begin(ops)

    def record(self, ops: Ops, x: Tensor, out: Tensor, at: At) -> None:
        """`out` = this block of the stream's `x`, at column(s) `at`; the concat-ELU of x lies in `conv_input.input`."""
        h = self.conv_input.record(ops, at)
        for weight, node in self.late:
            assert node.act is not None
            add_product(ops, h, weight, node.act[at])
        if self.norm is not None:
            self.norm.record(ops, h, at)
        self.hidden.record(ops, h, at)
        self.net.concat_elu(ops, h, self.conv_out.input[at])
        gated = self.conv_out.record(ops, at)
        self.gate.record(ops, gated, at)
        value, gating = gated.chunk(2, dim=-2)
        ops.append(gating.sigmoid_)
        ops.append(partial(torch.addcmul, x[at], value, gating, out=out[at]))
        self.output.record(ops, out[at], at)


class Upsizing:
    """A transposed convolution: a row becomes two, of which the second waits in `spare`."""

    def __init__(self, net: Memory, level: int, conv: nn.Module, row: Tensor, act: Tensor) -> None:
        """`level` is the one that it fills: `row` (W, C, B) and its concat-ELU `act` (W, 2C, B)."""
        weight = folded(conv)  # (C, C, 2, 3) for u, (C, C, 2, 2) for ul
        self.net, self.row, self.act, self.spare = net, row, act, torch.zeros_like(row)
        width, C, batch = row.shape
        width //= 2
        self.bias = bias_of(conv)[0, :, 0].repeat(2, 1)  # of the columns 2j and 2j + 1
        left, right = [], []
        for i in range(2):
            tap = weight[:, :, i].permute(2, 1, 0)  # (taps, out, in)
            if len(tap) == 2:
                left.append(tap.flatten(0, 1))
            else:  # the first column is cropped: 2j gets tap 1 of j; 2j + 1 gets tap 2 of j, tap 0 of j + 1
                left.append(tap[1:].flatten(0, 1))
                right.append(torch.cat([torch.zeros_like(tap[0]), tap[0]]))
        # One column more than the row has: beyond the last there is nothing.
        self.padded = net.zeros(width + 1, C, batch)
        self.input = self.padded[:width]
        taps = 2 if right else 1
        self.windows = self.padded.as_strided((width, taps * C, batch), (C * batch, batch, 1))
        self.weights = [torch.cat(pair, dim=1) for pair in zip(left, right, strict=True)] if right else left

    def record(self, ops: Ops, at: At) -> None:
        """Fill the two columns that belong to column `at` of the lower resolution, or all."""
        width = len(self.input)
        for row, weight in zip((self.row, self.spare), self.weights, strict=True):
            pairs = row.view(width, -1, row.shape[2])
            set_product(ops, pairs[at], self.bias, weight, self.windows[at])
        columns = at if isinstance(at, slice) else slice(2 * at, 2 * at + 2)
        self.net.concat_elu(ops, self.row[columns], self.act[columns])

    def second(self, ops: Ops) -> None:
        """Take the row that waited."""
        ops.append(partial(self.row.copy_, self.spare))
        self.net.concat_elu(ops, self.row, self.act)


class Skip:
    """An activation on its way from the up pass to the down pass; a node of its own where a label enters there."""

    def __init__(self, net: Memory, level: int, source: Node, site: str) -> None:
        self.net, self.source, self.affine = net, source, net.affine(site, level)
        self.node = source
        if self.affine:
            width, C, batch = source.raw.shape
            self.node = Node(net.zeros(width, C, batch), net.zeros(width, 2 * C, batch))

    def record(self, ops: Ops, at: At) -> None:
        if self.affine:
            raw = self.node.raw[at]
            assert self.node.act is not None
            self.affine.record(ops, self.source.raw[at], at, out=raw)
            self.net.concat_elu(ops, raw, self.node.act[at])


class Stem:
    """The first convolutions. They see the image's rows; labels, padding and the plane of ones are known beforehand."""

    def __init__(self, net: Memory) -> None:
        model = net.model
        channels, height, width = model.image_shape
        C = model.config.nr_filters
        self.input = net.affine("input", 0).scale
        self.padded = net.zeros(width + 2, channels, net.batch)  # the image's current row, or the previous one
        self.windows = self.padded.as_strided((width, 3 * channels, net.batch), (channels * net.batch, net.batch, 1))
        u, ul_above, ul_left = (folded(c)[:, :channels] for c in (model.u_init, *model.ul_init))
        self.u_two_above, self.u_above = side_by_side(u[:, :, 0]), side_by_side(u[:, :, 1])
        ul_above = ul_above[:, :, 0].clone()
        ul_above[:, :, 0] += ul_left[:, :, 0, 0]  # above and to the left
        self.ul_above, self.ul_left = side_by_side(ul_above), ul_left[:, :, 1, 0].contiguous()
        self.from_two_above = net.zeros(width, C, net.batch)

        entry = net.at("input")
        nr_classes = max([1, *(len(t) for t in (entry.shift, entry.extra) if t is not None)])
        planes = net.like.new_zeros(nr_classes, channels, height, width)
        if entry.shift is not None:
            planes += entry.shift
        extra = [] if entry.extra is None else [entry.extra.expand(-1, -1, height, width)]
        planes = torch.cat([planes, *extra, torch.ones_like(planes[:, :1])], dim=1)
        of_u = down_shift(model.u_init(planes))
        of_ul = down_shift(model.ul_init[0](planes)) + right_shift(model.ul_init[1](planes))
        self.u_known, self.u_affine = net.fold("stem.u", of_u, 0)
        self.ul_known, self.ul_affine = net.fold("stem.ul", of_ul, 0)

    def connect(self, u: Tensor, ul: Tensor) -> None:
        """Where the output goes, (W, C, B) each."""
        self.u, self.ul = u, ul

    def begin(self, ops: Ops) -> None:
        """The row of u, and of ul what the rows above give."""
        width = len(self.u)
        ops.append(partial(torch.add, self.u_known, self.from_two_above, out=self.u))
        add_product(ops, self.u, self.u_above, self.windows)
        self.u_affine.record(ops, self.u, ALL)
        ops.append(
            partial(torch.bmm, self.u_two_above.expand(width, -1, -1), self.windows, out=self.from_two_above)
        )  # for the next row
        set_product(ops, self.ul, self.ul_known, self.ul_above, self.windows)

    def record(self, ops: Ops, at: At) -> None:
        """Complete ul with the pixel to the left."""
        left = self.padded[:-2] if isinstance(at, slice) else self.padded[at]
        add_product(ops, self.ul[at], self.ul_left, left)
        self.ul_affine.record(ops, self.ul[at], at)

    def place(self, at: At) -> Tensor:
        """Where the pixel at `at` belongs, for the pixels after it."""
        return self.padded[1:-1][at]

    def put(self, pixels: Tensor, at: At = ALL) -> None:
        """Set pixels, (W, C, B) or (C, B) in [-1, 1]."""
        scale = pick(self.input, at)
        self.place(at).copy_(pixels if scale is None else pixels * scale)


class Head:
    """The last 1x1 convolution, at one column after the other: `params` (P, B)."""

    def __init__(self, net: Memory, ul: Tensor) -> None:
        conv = net.model.nin_out
        self.ul = ul
        self.affine, self.one, self.few_calls = net.affine("head", 0), net.one, net.few_calls
        C, extra, bias = ul.shape[1], net.at("head").extra, bias_of(conv)
        if extra is not None:
            bias = bias + F.conv2d(F.elu(extra), folded(conv)[:, C:])
        self.weight, self.bias = folded(conv)[:, :C, 0, 0].contiguous(), net.field(bias, 0)
        self.params = net.zeros(len(self.weight), net.batch)
        self.act = net.zeros(*ul.shape[1:])

    def record(self, ops: Ops, column: int) -> None:
        x = self.ul[column]
        self.affine.record(ops, x, column)
        if self.few_calls:
            ops.append(partial(torch.ops.aten.elu.out, x, out=self.act))
        else:
            ops += [
                partial(torch.clamp, x, max=0, out=self.act),
                self.act.exp_,
                partial(self.act.sub_, self.one),
                partial(torch.maximum, x, self.act, out=self.act),
            ]
        bias = pick(self.bias, column)
        assert bias is not None
        set_product(ops, self.params, bias, self.weight, self.act)


def folded(conv: nn.Module) -> Tensor:
    """The weight of one of the network's convolutions, its weight norm applied."""
    return cast("nn.Conv2d", conv.conv).weight.detach()


def bias_of(conv: nn.Module) -> Tensor:
    """The bias of one of the network's convolutions, (1, C, 1, 1)."""
    bias = cast("nn.Conv2d", conv.conv).bias
    assert bias is not None
    return bias.detach()[None, :, None, None]


def side_by_side(row: Tensor) -> Tensor:
    """(out, in, taps) -> (out, taps * in): the weights of one row of a kernel, as the row of activations lies."""
    return row.permute(0, 2, 1).flatten(1)
