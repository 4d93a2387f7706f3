"""The network with a memory: what one more pixel needs is kept, so that a pixel costs one pixel's work.

A full forward pass per pixel computes everything again (Ramachandran et al. 2017, "Fast Generation for Convolutional
Autoregressive Models"). Here the u stream, which sees only the rows above, is computed once per row; the ul stream once
per pixel; the half and quarter resolutions where a pixel of theirs is due, which is every 4th and 16th.

What makes it fast on a CPU:

- Activations are stored as (column, channel, image). The taps of a convolution then lie in one piece of memory,
  whichever column it is at: it is a matrix product of its weights with a view of the row, and nothing is gathered.
- Every convolution is two rows high. The upper row's share (half of the ul stream's work), the bias, the label's share
  and the ul stream's view of the u stream are known when a row starts, and are computed for the row at once.
- A concat-ELU is computed once per activation, straight into the memory of the convolution that reads it first.
- Weight norm is folded, and the label's modulations are computed per class, before the first pixel.
- All memory is allocated and every view taken in advance. The work of a row is a list of calls without arguments, one
  of three lists (every 4th row, the other even rows, odd rows), which is also what a CUDA graph captures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core.fusion import Modulation
from cpcnn_core.layers import IDENTITY, GatedBlock, concat_elu, down_shift, right_shift
from cpcnn_core.likelihood import MAX_LOG_SCALE, MIN_LOG_SCALE
from cpcnn_core.memory import is_out_of_memory
from cpcnn_core.model import NR_LEVELS, ConditionalPixelCNN

logger = logging.getLogger(__name__)

Ops = list[Callable[[], object]]
"""Calls that write into memory allocated before: run in order, they are a piece of the forward pass."""

Capture = Callable[[Ops], Callable[[], None]]
"""Turns calls that were made once before into one call that makes them all."""

At = int | slice
"""A column, or all of them."""

ALL = slice(None)
MID_GREY = 127.5  # the 8-bit value of 0.0, and the number of 8-bit steps in 1.0


def run(ops: Ops) -> None:
    """Make every call."""
    for op in ops:
        op()


def few_calls(device: torch.device) -> bool:
    """Whether a call's own cost, which on a GPU is a kernel's, matters more than what a CPU computes quickly."""
    return device.type != "cpu"


def due(index: int) -> int:
    """How many resolutions have a row (column) that starts at row (column) `index` of the image: 3, 1, 2, 1, 3, ..."""
    return 1 if index % 2 else 2 if index % 4 else NR_LEVELS


# ------------------------------------------------------------------------------------------------------- recorded ops
# Activations are (W, C, B), or (C, B) at one column.


def _add_product(ops: Ops, out: Tensor, weight: Tensor, x: Tensor) -> None:
    """Out += weight @ x, per column."""
    if x.dim() == 2:
        ops.append(partial(out.addmm_, weight, x))
    else:
        ops.append(partial(out.baddbmm_, weight.expand(len(x), -1, -1), x))


def _set_product(ops: Ops, out: Tensor, bias: Tensor, weight: Tensor, x: Tensor) -> None:
    """Out = bias + weight @ x, per column."""
    if x.dim() == 2:
        ops.append(partial(torch.addmm, bias, weight, x, out=out))
    else:
        ops.append(partial(torch.baddbmm, bias, weight.expand(len(x), -1, -1), x, out=out))


@dataclass(frozen=True)
class _Affine:
    """A modulation: each of scale and shift is (1 or W, C, 1 or B) or None."""

    scale: Tensor | None = None
    shift: Tensor | None = None

    def record(self, ops: Ops, x: Tensor, at: At, out: Tensor | None = None) -> None:
        """Modulate x, the activation at column(s) `at`, in place or into `out`."""
        scale, shift = _pick(self.scale, at), _pick(self.shift, at)
        out = x if out is None else out
        if scale is not None and shift is not None:
            ops.append(partial(torch.addcmul, shift, x, scale, out=out))
        elif scale is not None:
            ops.append(partial(torch.mul, x, scale, out=out))
        elif shift is not None:
            ops.append(partial(torch.add, x, shift, out=out))

    def __bool__(self) -> bool:
        return self.scale is not None or self.shift is not None


def _pick(value: Tensor | None, at: At) -> Tensor | None:
    if value is None or isinstance(at, slice):
        return value
    return value[at if len(value) > 1 else 0]


class _Map:
    """A value for each place of an image, of which `now` (W, C, 1 or B) holds the current row."""

    def __init__(self, values: Tensor, class_of: Tensor) -> None:
        self.values = values.permute(2, 3, 1, 0).contiguous()  # (H, W, C, one class or all)
        self.class_of = class_of if values.shape[0] > 1 else class_of.new_zeros(1)
        self.now = values.new_empty(*self.values.shape[1:3], len(self.class_of))

    def load(self, row: int) -> None:
        torch.index_select(self.values[row], 2, self.class_of, out=self.now)


class _Conv:
    """A convolution two rows high that keeps its input's current row, and before that is written, the previous one."""

    def __init__(self, net: _Memory, level: int, conv: nn.Module, bias: Tensor, stride: int = 1) -> None:
        weight = folded(conv)
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
        _set_product(ops, self.out, self.bias, self.above, self.windows)

    def record(self, ops: Ops, at: At) -> Tensor:
        """Complete the output at column(s) `at`."""
        out = self.out[at]
        _add_product(ops, out, self.now, self.windows[at])
        return out


@dataclass
class _Node:
    """An activation of a stream: its values, and their concat-ELU where something reads that."""

    raw: Tensor  # (W, C, B)
    act: Tensor | None = None  # (W, 2C, B)


class _Block:
    """A gated block. `early` skips, from u to ul, are there when a row starts; `late` ones are the stream's own."""

    def __init__(
        self, net: _Memory, level: int, name: str, block: GatedBlock, early: list[_Node], late: list[_Node]
    ) -> None:
        self.net, self.level = net, level
        bias = _bias(block.conv_input)
        skips: list[tuple[Tensor, _Node]] = []
        if block.nin_skip is not None:
            bias = bias + _bias(block.nin_skip)
            weight = folded(block.nin_skip)[:, :, 0, 0]
            nodes = [*early, *late]
            C = block.conv_input.conv.out_channels
            positive, negative = weight.chunk(2, dim=1)  # concat-ELU of [skips ; extra] has all the negatives last
            for i, node in enumerate(nodes):
                part = slice(i * C, (i + 1) * C)
                skips.append((torch.cat([positive[:, part], negative[:, part]], dim=1), node))
            extra = net.at(f"{name}.block_skip").extra
            if extra is not None:
                rest = slice(len(nodes) * C, None)
                of_label = torch.cat([positive[:, rest], negative[:, rest]], dim=1)[:, :, None, None]
                bias = bias + F.conv2d(concat_elu(extra), of_label)
        self.early, self.late = skips[: len(early)], skips[len(early) :]
        shifted, self.hidden = net.fold(f"{name}.hidden", bias, level)
        self.conv_input = _Conv(net, level, block.conv_input, shifted)
        shifted, self.gate = net.fold(f"{name}.gate", _bias(block.conv_out), level)
        self.conv_out = _Conv(net, level, block.conv_out, shifted)
        self.output = net.affine(f"{name}.output", level)

    def begin(self, ops: Ops) -> None:
        self.conv_input.begin(ops)
        for weight, node in self.early:
            assert node.act is not None
            _add_product(ops, self.conv_input.out, weight, node.act)
        self.conv_out.begin(ops)

    def record(self, ops: Ops, x: Tensor, out: Tensor, at: At) -> None:
        """`out` = this block of the stream's `x`, at column(s) `at`; the concat-ELU of x lies in `conv_input.input`."""
        h = self.conv_input.record(ops, at)
        for weight, node in self.late:
            assert node.act is not None
            _add_product(ops, h, weight, node.act[at])
        self.hidden.record(ops, h, at)
        self.net.concat_elu(ops, h, self.conv_out.input[at])
        gated = self.conv_out.record(ops, at)
        self.gate.record(ops, gated, at)
        value, gating = gated.chunk(2, dim=-2)
        ops.append(gating.sigmoid_)
        ops.append(partial(torch.addcmul, x[at], value, gating, out=out[at]))
        self.output.record(ops, out[at], at)


class _Upsizing:
    """A transposed convolution: a row becomes two, of which the second waits in `spare`."""

    def __init__(self, net: _Memory, level: int, conv: nn.Module, row: Tensor, act: Tensor) -> None:
        """`level` is the one that it fills: `row` (W, C, B) and its concat-ELU `act` (W, 2C, B)."""
        weight = folded(conv)  # (C, C, 2, 3) for u, (C, C, 2, 2) for ul
        self.net, self.row, self.act, self.spare = net, row, act, torch.zeros_like(row)
        width, C, batch = row.shape
        width //= 2
        self.bias = _bias(conv)[0, :, 0].repeat(2, 1)  # of the columns 2j and 2j + 1
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
            _set_product(ops, pairs[at], self.bias, weight, self.windows[at])
        columns = at if isinstance(at, slice) else slice(2 * at, 2 * at + 2)
        self.net.concat_elu(ops, self.row[columns], self.act[columns])

    def second(self, ops: Ops) -> None:
        """Take the row that waited."""
        ops.append(partial(self.row.copy_, self.spare))
        self.net.concat_elu(ops, self.row, self.act)


# ------------------------------------------------------------------------------------------------------ the two streams


class _Stream:
    """u or ul: its nodes and blocks at three resolutions. `other` is the u stream where this is ul."""

    def __init__(self, net: _Memory, name: str, other: _Stream | None) -> None:
        model = net.model
        self.net, self.name, self.is_u = net, name, other is None
        n, C = model.nr_resnet, model.config.nr_filters
        self.up: list[list[_Node]] = []
        self.up_blocks: list[list[_Block]] = []
        self.downsize: list[_Conv] = []

        def blocks_of(direction: str, stage: int) -> list[GatedBlock]:
            stages = cast("nn.ModuleList", getattr(model, f"{direction}_{name}"))
            return [cast("GatedBlock", block) for block in cast("nn.ModuleList", stages[stage])]

        def row(level: int, channels: int = C) -> Tensor:
            return net.zeros(net.widths[level], channels, net.batch)

        for level in range(NR_LEVELS):
            first = row(0) if level == 0 else self.downsize[-1].out
            blocks = [
                _Block(
                    net,
                    level,
                    f"up.{level}.{name}.{i}",
                    block,
                    early=[] if other is None else [other.up[level][i + 1]],
                    late=[],
                )
                for i, block in enumerate(blocks_of("up", level))
            ]
            nodes = [_Node(first), *(_Node(row(level)) for _ in range(n))]
            for node, block in zip(nodes, blocks, strict=False):
                node.act = block.conv_input.input
            lowest = level == NR_LEVELS - 1
            if not lowest:
                conv = cast("nn.ModuleList", getattr(model, f"downsize_{name}"))[level]
                self.downsize.append(_Conv(net, level, conv, net.constant(_bias(conv)), stride=2))
                nodes[-1].raw = self.downsize[-1].input
            if self.is_u or not lowest:
                nodes[-1].act = row(level, 2 * C)
            self.up.append(nodes)
            self.up_blocks.append(blocks)

        handed = [(level, i) for level in range(NR_LEVELS) for i in range(n + 1)][:-1]
        self.skips = {
            place: _Skip(net, place[0], self.up[place[0]][place[1]], f"skips.{i}.{name}")
            for i, place in enumerate(handed)
        }
        self.bottleneck = net.affine(f"bottleneck.{name}", NR_LEVELS - 1)

        self.down: list[list[_Node]] = []  # by level, as `up`
        self.down_blocks: list[list[_Block]] = []
        self.upsize: list[_Upsizing | None] = [None] * NR_LEVELS  # by the level that it fills
        for level in range(NR_LEVELS):
            lowest, stage = level == NR_LEVELS - 1, NR_LEVELS - 1 - level
            last = n - 1 if lowest else n  # skips are taken in reverse
            blocks = []
            for i, module in enumerate(blocks_of("down", stage)):
                skip = self.skips[level, last - i].node
                early = [] if other is None else [other.down[level][i + 1]]
                blocks.append(_Block(net, level, f"down.{stage}.{name}.{i}", module, early=early, late=[skip]))
            first = self.up[level][-1].raw if lowest else row(level)
            nodes = [_Node(first), *(_Node(row(level)) for _ in blocks)]
            for node, block in zip(nodes, blocks, strict=False):
                node.act = block.conv_input.input
            if self.is_u:
                nodes[-1].act = row(level, 2 * C)
            if level:
                conv = cast("nn.ModuleList", getattr(model, f"upsize_{name}"))[stage]
                into = self.down[level - 1][0]
                assert into.act is not None
                upsizing = _Upsizing(net, level - 1, conv, into.raw, into.act)
                self.upsize[level - 1] = upsizing
                nodes[-1].raw = upsizing.input
            self.down.append(nodes)
            self.down_blocks.append(blocks)

    def begin(self, ops: Ops, levels: int) -> None:
        """Start a row of the first `levels` resolutions."""
        for level in range(levels):
            for block in [*self.up_blocks[level], *self.down_blocks[level]]:
                block.begin(ops)
        for conv in self.downsize[: levels - 1]:
            conv.begin(ops)
        waiting = self.upsize[levels - 1]  # the lowest resolution with a row now, if it is not the lowest of all
        if waiting is not None:
            waiting.second(ops)

    def record(self, ops: Ops, levels: int, at: At) -> None:
        """From the stem's output to the last block's, at the first `levels` resolutions; `at` is the image's column."""
        ats = [at if isinstance(at, slice) else at >> level for level in range(NR_LEVELS)]
        for level in range(levels):
            if level:
                self.downsize[level - 1].record(ops, ats[level])
            self._blocks(ops, self.up[level], self.up_blocks[level], ats[level])
            for i in range(len(self.up[level])):
                if (level, i) in self.skips:
                    self.skips[level, i].record(ops, ats[level])
        for level in reversed(range(levels)):
            nodes = self.down[level]
            if level == NR_LEVELS - 1:
                self.bottleneck.record(ops, nodes[0].raw[ats[level]], ats[level])
                self._act(ops, nodes[0], ats[level])
            self._blocks(ops, nodes, self.down_blocks[level], ats[level], first=False)
            upsizing = self.upsize[level - 1] if level else None
            if upsizing is not None:
                upsizing.record(ops, ats[level])

    def _blocks(self, ops: Ops, nodes: list[_Node], blocks: list[_Block], at: At, *, first: bool = True) -> None:
        if first:
            self._act(ops, nodes[0], at)
        for before, block, after in zip(nodes[:-1], blocks, nodes[1:], strict=True):
            block.record(ops, before.raw, after.raw, at)
            self._act(ops, after, at)

    def _act(self, ops: Ops, node: _Node, at: At) -> None:
        if node.act is not None:
            self.net.concat_elu(ops, node.raw[at], node.act[at])


class _Skip:
    """An activation on its way from the up pass to the down pass; a node of its own where a label enters there."""

    def __init__(self, net: _Memory, level: int, source: _Node, site: str) -> None:
        self.net, self.source, self.affine = net, source, net.affine(site, level)
        self.node = source
        if self.affine:
            width, C, batch = source.raw.shape
            self.node = _Node(net.zeros(width, C, batch), net.zeros(width, 2 * C, batch))

    def record(self, ops: Ops, at: At) -> None:
        if self.affine:
            raw = self.node.raw[at]
            assert self.node.act is not None
            self.affine.record(ops, self.source.raw[at], at, out=raw)
            self.net.concat_elu(ops, raw, self.node.act[at])


# --------------------------------------------------------------------------------------------------------- the network


class _Memory:
    """What the parts of a cached network share: the label's modulations, and memory."""

    def __init__(self, model: ConditionalPixelCNN, labels: Tensor) -> None:
        self.model = model
        self.batch = len(labels)
        self.like = model.nin_out.conv.bias
        _, _, width = model.image_shape
        self.widths = [width >> level for level in range(NR_LEVELS)]
        classes, self.class_of = labels.to(self.like.device).unique(return_inverse=True)
        self.conditioning: Mapping[str, Modulation] = model.condition(classes)
        self.maps: list[list[_Map]] = [[] for _ in range(NR_LEVELS)]
        self.allocated: list[Tensor] = []
        C = model.config.nr_filters
        self.few_calls = few_calls(self.like.device)
        self.minus = self.zeros(width, C, self.batch)
        self.minus_abs = self.zeros(width, C, self.batch)
        self.one: Tensor = self.like.new_ones(())  # a Python number would be made a tensor in every call

    def zeros(self, *size: int) -> Tensor:
        made: Tensor = self.like.new_zeros(size)
        self.allocated.append(made)
        return made

    def at(self, site: str) -> Modulation:
        return self.conditioning.get(site, IDENTITY)

    def affine(self, site: str, level: int) -> _Affine:
        """The modulation at a site."""
        modulation = self.at(site)
        return _Affine(
            None if modulation.scale is None else self.field(modulation.scale, level),
            None if modulation.shift is None else self.field(modulation.shift, level),
        )

    def fold(self, site: str, bias: Tensor, level: int) -> tuple[Tensor, _Affine]:
        """The bias (1 or Y, C, 1 or H, 1 or W) before a site, which takes in the shift there; what is left to do."""
        modulation = self.at(site)
        if modulation.scale is not None:
            return self.field(bias, level), self.affine(site, level)
        return self.field(bias if modulation.shift is None else bias + modulation.shift, level), _Affine()

    def field(self, values: Tensor, level: int) -> Tensor:
        """(Y, C, 1 or H, 1 or W), a value per class, as (1 or W, C, B): of every row, or of the current one."""
        if values.shape[2:] == (1, 1):
            return self.constant(values)
        height, width = self.model.image_shape[1] >> level, self.widths[level]
        made = _Map(values.expand(-1, -1, height, width), self.class_of)
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


class CachedNetwork:
    """A model and a batch of labels, ready to be asked for one pixel's mixture after the other, in raster order.

    All methods must run under `torch.inference_mode`, the constructor too.
    """

    def __init__(self, model: ConditionalPixelCNN, labels: Tensor, capture: Capture | None = None) -> None:
        self.model = model
        self.channels, self.height, self.width = model.image_shape
        self._memory = net = _Memory(model, labels)
        self._capture = capture
        self._stem = _Stem(net)
        self._u = _Stream(net, "u", None)
        self._ul = _Stream(net, "ul", self._u)
        self._stem.connect(self._u.up[0][0].raw, self._ul.up[0][0].raw)
        self._head = _Head(net, self._ul.down[0][-1].raw)
        self._draw = _Draw(net, self._head.params, self._stem)
        self._begin = {levels: self._record_begin(levels) for levels in range(1, NR_LEVELS + 1)}
        self._pixels: dict[tuple[int, int], Ops] = {}
        self._given: dict[int, Ops] = {}
        self._rows: dict[int, Ops] = {}
        self._graphs: dict[int, Callable[[], None]] = {}

    def restart(self) -> None:
        """Forget the images: the next row is the first."""
        for memory in self._memory.allocated:
            memory.zero_()

    def draw_row(self, row: int, gumbel: Tensor, logistic: Tensor) -> Tensor:
        """Draw row `row` of every image -> (W, C, B) float, 0 to 255, valid until the next call.

        `gumbel` (W, K, B) and `logistic` (W, C, B) are the noise, times the temperature.
        """
        self._load(row)
        self._draw.gumbel.copy_(gumbel)
        self._draw.logistic.copy_(logistic)
        self._run_row(due(row))
        return self._draw.levels

    def give_row(self, row: int, pixels: Tensor) -> None:
        """Take row `row` of every image, (W, C, B) in [-1, 1], as given: a row's work at once instead of a pixel's."""
        self._load(row)
        levels = due(row)
        run(self._begin[levels])
        self._stem.put(pixels)
        if levels not in self._given:
            ops: Ops = []
            self._stem.record(ops, ALL)
            self._ul.record(ops, levels, ALL)
            self._given[levels] = ops
        run(self._given[levels])

    def replay(self, x: Tensor) -> Tensor:
        """The network's outputs (B, P, H, W) for images x (B, C, H, W) in [-1, 1], pixel by pixel: a check.

        What is returned for a pixel was computed before that pixel was looked at.
        """
        self.restart()
        x = x.permute(2, 3, 1, 0).to(self._head.params)
        outputs = self._head.params.new_empty(self.height, self.width, *self._head.params.shape)
        for row in range(self.height):
            self._load(row)
            levels = due(row)
            run(self._begin[levels])
            for column in range(self.width):
                run(self._pixel(min(levels, due(column)), column))
                outputs[row, column] = self._head.params
                self._stem.put(x[row, column], column)
        return outputs.permute(3, 2, 0, 1).contiguous()

    def _load(self, row: int) -> None:
        for level in range(due(row)):
            for made in self._memory.maps[level]:
                made.load(row >> level)

    def _record_begin(self, levels: int) -> Ops:
        """All of the u stream, and of the ul stream what does not need the row's own pixels."""
        ops: Ops = []
        self._stem.begin(ops)
        self._u.begin(ops, levels)
        self._u.record(ops, levels, ALL)
        self._ul.begin(ops, levels)
        return ops

    def _pixel(self, levels: int, column: int) -> Ops:
        if (levels, column) not in self._pixels:
            ops: Ops = []
            self._stem.record(ops, column)
            self._ul.record(ops, levels, column)
            self._head.record(ops, column)
            self._pixels[levels, column] = ops
        return self._pixels[levels, column]

    def _run_row(self, levels: int) -> None:
        """The work of a row. Where a graph is wanted, the calls run one by one the first time, as a capture demands."""
        if levels in self._graphs:
            self._graphs[levels]()
        elif levels in self._rows and self._capture is not None:
            self._graphs[levels] = self._capture(self._rows[levels])
            self._graphs[levels]()
        else:
            if levels not in self._rows:
                ops = self._rows[levels] = list(self._begin[levels])
                for column in range(self.width):
                    ops += self._pixel(min(levels, due(column)), column)
                    self._draw.record(ops, column)
            run(self._rows[levels])


def cuda_graph(ops: Ops) -> Callable[[], None]:
    """The calls as one CUDA graph; one by one, as before, where the driver refuses to capture them.

    Not yet run: this was written on a machine without a GPU.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # What other threads ask of the GPU meanwhile is none of this graph's business.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run(ops)
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # a capture that fails may leave its own behind
        if is_out_of_memory(error):
            raise
        logger.warning("a row's work was not captured as a CUDA graph, which costs time only: %s", error)
        return partial(run, ops)
    replay: Callable[[], None] = graph.replay
    return replay


class _Stem:
    """The first convolutions. They see the image's rows; labels, padding and the plane of ones are known beforehand."""

    def __init__(self, net: _Memory) -> None:
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
        _add_product(ops, self.u, self.u_above, self.windows)
        self.u_affine.record(ops, self.u, ALL)
        ops.append(
            partial(torch.bmm, self.u_two_above.expand(width, -1, -1), self.windows, out=self.from_two_above)
        )  # for the next row
        _set_product(ops, self.ul, self.ul_known, self.ul_above, self.windows)

    def record(self, ops: Ops, at: At) -> None:
        """Complete ul with the pixel to the left."""
        left = self.padded[:-2] if isinstance(at, slice) else self.padded[at]
        _add_product(ops, self.ul[at], self.ul_left, left)
        self.ul_affine.record(ops, self.ul[at], at)

    def place(self, at: At) -> Tensor:
        """Where the pixel at `at` belongs, for the pixels after it."""
        return self.padded[1:-1][at]

    def put(self, pixels: Tensor, at: At = ALL) -> None:
        """Set pixels, (W, C, B) or (C, B) in [-1, 1]."""
        scale = _pick(self.input, at)
        self.place(at).copy_(pixels if scale is None else pixels * scale)


class _Head:
    """The last 1x1 convolution, at one column after the other: `params` (P, B)."""

    def __init__(self, net: _Memory, ul: Tensor) -> None:
        conv = net.model.nin_out
        self.ul = ul
        self.affine, self.one, self.few_calls = net.affine("head", 0), net.one, net.few_calls
        self.weight, self.bias = folded(conv)[:, :, 0, 0].contiguous(), net.constant(_bias(conv))[0]
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
        _set_product(ops, self.params, self.bias, self.weight, self.act)


class _Draw:
    """`likelihood.sample` for one column after the other, without allocating; means and scales in 8-bit steps."""

    def __init__(self, net: _Memory, params: Tensor, stem: _Stem) -> None:
        channels, _, width = net.model.image_shape
        K, B = net.model.config.nr_logistic_mix, net.batch
        self.stem, self.source = stem, params
        self.params = params if params.dtype == torch.float32 else params.float()
        numbers = 2 if channels == 1 else 3
        self.logits = self.params[:K]
        self.per_component = self.params[K:].view(channels, numbers, K, B)
        self.gumbel = self.params.new_zeros(width, K, B)
        self.logistic = self.params.new_zeros(width, channels, B)
        self.levels = self.params.new_zeros(width, channels, B)
        self.score = self.params.new_zeros(K, B)
        self.component = torch.zeros(1, B, dtype=torch.int64, device=params.device)
        self.chosen = self.params.new_zeros(channels, numbers, 1, B)
        self.centred = self.params.new_zeros(channels, B)
        self.one, self.mid_grey, self.step = (self.params.new_full((), value) for value in (1, MID_GREY, 1 / MID_GREY))

    def record(self, ops: Ops, column: int) -> None:
        if self.params is not self.source:
            ops.append(partial(self.params.copy_, self.source))
        component = self.component.expand(*self.chosen.shape[:2], -1, -1)
        mean, scale, *coefficients = self.chosen[:, :, 0].unbind(1)
        levels, x = self.levels[column], self.centred
        ops += [
            partial(torch.add, self.logits, self.gumbel[column], out=self.score),
            partial(torch.argmax, self.score, 0, keepdim=True, out=self.component),
            partial(torch.gather, self.per_component, 2, component, out=self.chosen),
            partial(scale.clamp_, MIN_LOG_SCALE, MAX_LOG_SCALE),
            scale.exp_,
            partial(scale.mul_, self.logistic[column]),
            partial(mean.add_, self.one),
            partial(torch.add, mean, scale, out=levels),
            partial(levels.mul_, self.mid_grey),
        ]
        if coefficients:
            (c,) = coefficients
            ops.append(c.tanh_)
            before = [(), ((0, 0),), ((1, 0), (2, 1))]
        else:
            before = [()]
        for channel, coupled in enumerate(before):
            value = levels[channel]
            ops += [partial(value.addcmul_, c[i], x[earlier]) for i, earlier in coupled]
            ops += [
                value.round_,
                partial(value.clamp_, 0, 255),
                partial(torch.sub, value, self.mid_grey, out=x[channel]),
            ]
        place, scale_in = self.stem.place(column), _pick(self.stem.input, column)
        ops.append(partial(torch.mul, x, self.step, out=place))
        if scale_in is not None:
            ops.append(partial(place.mul_, scale_in))


# ------------------------------------------------------------------------------------------------------------- weights


def folded(conv: nn.Module) -> Tensor:
    """The weight of one of the network's convolutions, its weight norm applied."""
    return cast("nn.Conv2d", conv.conv).weight.detach()


def _bias(conv: nn.Module) -> Tensor:
    """The bias of one of the network's convolutions, (1, C, 1, 1)."""
    bias = cast("nn.Conv2d", conv.conv).bias
    assert bias is not None
    return bias.detach()[None, :, None, None]


def side_by_side(row: Tensor) -> Tensor:
    """(out, in, taps) -> (out, taps * in): the weights of one row of a kernel, as the row of activations lies."""
    return row.permute(0, 2, 1).flatten(1)
