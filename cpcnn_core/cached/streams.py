"""The two streams of a cached network: u, which sees the rows above, and ul, which also sees the pixels to the left."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from cpcnn_core.cached.ops import At, Ops
from cpcnn_core.cached.parts import Block, Conv, Memory, Node, Skip, Upsizing, bias_of
from cpcnn_core.layers import GatedBlock
from cpcnn_core.model import NR_LEVELS


class Stream:
    """u or ul: its nodes and blocks at three resolutions. `other` is the u stream where this is ul."""

    def __init__(self, net: Memory, name: str, other: Stream | None) -> None:
        self.net, self.name, self.other = net, name, other
        self.nr_resnet, self.nr_filters = net.model.nr_resnet, net.model.config.nr_filters
        # All by level, from the full resolution to the lowest.
        self.up: list[list[Node]] = []
        self.up_blocks: list[list[Block]] = []
        self.downsize: list[Conv] = []  # by the level that it reads
        for level in range(NR_LEVELS):
            self._add_up(level)
        self.skips = self._skips()
        self.bottleneck = net.affine(f"bottleneck.{name}", NR_LEVELS - 1)
        self.down: list[list[Node]] = []
        self.down_blocks: list[list[Block]] = []
        self.upsize: list[Upsizing | None] = [None] * NR_LEVELS  # by the level that it fills
        for level in range(NR_LEVELS):
            self._add_down(level)

    def _add_up(self, level: int) -> None:
        """The up pass at a level, and the convolution to the next one."""
        net, name, lowest = self.net, self.name, level == NR_LEVELS - 1
        blocks = [
            Block(net, level, (f"up.{level}", name, i), module, self._early(level, i, down=False), late=[])
            for i, module in enumerate(self._modules("up", level))
        ]
        nodes = self._nodes(self.downsize[-1].out if level else self._row(0), blocks)
        if not lowest:
            conv = cast("nn.ModuleList", getattr(net.model, f"downsize_{name}"))[level]
            self.downsize.append(Conv(net, level, conv, net.constant(bias_of(conv)), stride=2))
            nodes[-1].raw = self.downsize[-1].input
        if self.other is None or not lowest:
            nodes[-1].act = self._row(level, 2 * self.nr_filters)
        self.up.append(nodes)
        self.up_blocks.append(blocks)

    def _skips(self) -> dict[tuple[int, int], Skip]:
        """What the up pass hands to the down pass, by level and node: all but the last node of the lowest level."""
        places = [(level, i) for level in range(NR_LEVELS) for i in range(self.nr_resnet + 1)][:-1]
        return {
            (level, i): Skip(self.net, level, self.up[level][i], f"skips.{at}.{self.name}")
            for at, (level, i) in enumerate(places)
        }

    def _add_down(self, level: int) -> None:
        """The down pass at a level, and the transposed convolution to the next higher resolution."""
        net, name, lowest = self.net, self.name, level == NR_LEVELS - 1
        stage = NR_LEVELS - 1 - level  # the model counts from the lowest resolution
        last = self.nr_resnet - 1 if lowest else self.nr_resnet  # skips are taken in reverse
        blocks = [
            Block(
                net,
                level,
                (f"down.{stage}", name, i),
                module,
                early=self._early(level, i, down=True),
                late=[self.skips[level, last - i].node],
            )
            for i, module in enumerate(self._modules("down", stage))
        ]
        nodes = self._nodes(self.up[level][-1].raw if lowest else self._row(level), blocks)
        if self.other is None:
            nodes[-1].act = self._row(level, 2 * self.nr_filters)
        if level:
            conv = cast("nn.ModuleList", getattr(net.model, f"upsize_{name}"))[stage]
            into = self.down[level - 1][0]
            assert into.act is not None
            upsizing = Upsizing(net, level - 1, conv, into.raw, into.act)
            self.upsize[level - 1] = upsizing
            nodes[-1].raw = upsizing.input
        self.down.append(nodes)
        self.down_blocks.append(blocks)

    def _modules(self, direction: str, stage: int) -> list[GatedBlock]:
        """The model's blocks of a stage."""
        stages = cast("nn.ModuleList", getattr(self.net.model, f"{direction}_{self.name}"))
        return [cast("GatedBlock", block) for block in cast("nn.ModuleList", stages[stage])]

    def _early(self, level: int, i: int, *, down: bool) -> list[Node]:
        """What block `i` of the ul stream sees of the u stream: the output of its block `i`."""
        if self.other is None:
            return []
        return [(self.other.down if down else self.other.up)[level][i + 1]]

    def _nodes(self, first: Tensor, blocks: list[Block]) -> list[Node]:
        """A level's first input and each block's output; the concat-ELU of an input lies where its block reads it."""
        nodes = [Node(first), *(Node(self._row(block.level)) for block in blocks)]
        for node, block in zip(nodes, blocks, strict=False):
            node.act = block.conv_input.input
        return nodes

    def _row(self, level: int, channels: int | None = None) -> Tensor:
        return self.net.zeros(self.net.widths[level], channels or self.nr_filters, self.net.batch)

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

    def _blocks(self, ops: Ops, nodes: list[Node], blocks: list[Block], at: At, *, first: bool = True) -> None:
        if first:
            self._act(ops, nodes[0], at)
        for before, block, after in zip(nodes[:-1], blocks, nodes[1:], strict=True):
            block.record(ops, before.raw, after.raw, at)
            self._act(ops, after, at)

    def _act(self, ops: Ops, node: Node, at: At) -> None:
        if node.act is not None:
            self.net.concat_elu(ops, node.raw[at], node.act[at])
