"""ConditionalPixelCNN: two streams, three resolutions, and the sites where a label may enter; no fusion by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core import fusion as fusions
from cpcnn_core.config import ModelConfig
from cpcnn_core.fusion import Conditioning, FusionError, Modulation, Site
from cpcnn_core.fusion.base import CHANNELS_ONLY, RESOLUTIONS, blocks, per_label, together
from cpcnn_core.labels import ENCODINGS
from cpcnn_core.layers import (
    IDENTITY,
    DownRightShiftedConv2d,
    DownRightShiftedDeconv2d,
    DownShiftedConv2d,
    DownShiftedDeconv2d,
    GatedBlock,
    NetworkInNetwork,
    beside,
    call_block,
    down_shift,
    right_shift,
)
from cpcnn_core.likelihood import nr_params
from cpcnn_core.weights import Weights, autocast_dtype

NR_LEVELS = 3

Masks = Sequence[Tensor]
"""One dropout mask per gated block, in the order of the forward pass."""


class ConditionalPixelCNN(nn.Module):
    """log p(x | y) as the parameters of a mixture per pixel (Salimans et al. 2017, figure 2).

    The u stream sees the rows above a pixel, the ul stream also the pixels to its left in its own row. The up pass
    halves the resolution twice, the down pass doubles it again and takes the up pass's activations back by skips.
    """

    def __init__(self, config: ModelConfig, image_shape: tuple[int, int, int], nr_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if height % 4 or width % 4:
            raise ValueError(
                f"images of {height}x{width}: both sides must be multiples of 4, for they are halved twice"
            )
        self.config = config
        self.image_shape = image_shape
        self.nr_classes = nr_classes
        self.nr_resnet = nr_resnet = config.nr_resnet
        C = config.nr_filters

        self.sites = tuple(_sites(config, image_shape))
        self.label = ENCODINGS[config.label_encoding](nr_classes, config.label_dim)
        self.fusion = fusions.build(config.fusion, config.fusion_options, self.sites, self.label.dim)
        self.extra_channels = extra = {site.name: self.fusion.extra_channels(site) for site in self.sites}
        self._kinds = {site.name: site.kind for site in self.sites}

        n_in = channels + 1 + extra["input"]
        self.u_init = DownShiftedConv2d(n_in, C, (2, 3))
        self.ul_init = nn.ModuleList([DownShiftedConv2d(n_in, C, (1, 3)), DownRightShiftedConv2d(n_in, C, (2, 1))])

        def blocks(stage: str, stream: str, count: int, skips: int) -> nn.ModuleList:
            conv = DownShiftedConv2d if stream == "u" else DownRightShiftedConv2d
            return nn.ModuleList(
                GatedBlock(
                    C,
                    conv,
                    skip_channels=skips * C,
                    extra_channels=sum(extra.get(site, 0) for site in _beside_skip(stage, stream, i, nr_resnet)),
                    before=0 if i else extra.get(_FIRST.get(stage, "").format(stream), 0),
                    inside=extra[f"{stage}.{stream}.{i}.hidden"],
                    norm=config.norm == "channel",
                )
                for i in range(count)
            )

        levels = range(NR_LEVELS)
        self.up_u = nn.ModuleList(blocks(f"up.{level}", "u", nr_resnet, 0) for level in levels)
        self.up_ul = nn.ModuleList(blocks(f"up.{level}", "ul", nr_resnet, 1) for level in levels)
        self.down_u = nn.ModuleList(blocks(f"down.{stage}", "u", nr_resnet + (stage > 0), 1) for stage in levels)
        self.down_ul = nn.ModuleList(blocks(f"down.{stage}", "ul", nr_resnet + (stage > 0), 2) for stage in levels)
        self.downsize_u = nn.ModuleList(DownShiftedConv2d(C, C, (2, 3), stride=2) for _ in range(NR_LEVELS - 1))
        self.downsize_ul = nn.ModuleList(DownRightShiftedConv2d(C, C, (2, 2), stride=2) for _ in range(NR_LEVELS - 1))
        self.upsize_u = nn.ModuleList(DownShiftedDeconv2d(C, C) for _ in range(NR_LEVELS - 1))
        self.upsize_ul = nn.ModuleList(DownRightShiftedDeconv2d(C, C) for _ in range(NR_LEVELS - 1))
        self.nin_out = NetworkInNetwork(C + extra["head"], nr_params(channels, config.nr_logistic_mix))
        self.call_block: Callable[..., Tensor] = call_block  # or, while it trains, what the compiler made of it
        self.weights = Weights(self, exact=(self.u_init, self.ul_init, self.nin_out))

    def condition(self, labels: Tensor) -> Conditioning:
        """What the fusion does at each site for labels (B,); -1 withholds the label.

        Raise FusionError where a variant returns what the site cannot take, which would be lost without a word.
        """
        conditioning: Conditioning = self.fusion(self.label(labels))
        for name, modulation in conditioning.items():
            self._check(name, modulation)
        return conditioning

    def _check(self, name: str, modulation: Modulation) -> None:
        if name not in self._kinds:
            raise FusionError(f"{self.config.fusion}: modulates {name!r}, and there is no such site")
        declared, given = self.extra_channels[name], 0 if modulation.extra is None else modulation.extra.shape[1]
        if given != declared:
            raise FusionError(
                f"{self.config.fusion}: returns {given} extra channels at {name}; its extra_channels says {declared}"
            )
        if self._kinds[name] in CHANNELS_ONLY and (modulation.scale is not None or modulation.shift is not None):
            raise FusionError(
                f"{self.config.fusion}: scales or shifts at {name}, which takes extra channels only; use a site of the "
                "kind skips, or hidden"
            )

    def forward(self, x: Tensor, labels: Tensor, masks: Masks | None = None) -> Tensor:
        """Mixture parameters (B, P, H, W) for images x (B, C, H, W) in [-1, 1] and labels (B,) int64.

        With n labels per image, (B * n,), those of an image side by side, the parameters are (B * n, P, H, W), and what
        does not depend on the label is computed once per image.
        `masks` are dropout masks from `dropout_masks`; without them there is no dropout.
        """
        if len(labels) % max(1, len(x)):
            raise ValueError(f"{len(labels)} labels for {len(x)} images; expected the same number for each image")
        with self.weights.ready(autocast_dtype(x.device)):
            return self._forward(x, self.condition(labels), len(labels), masks)

    def _forward(self, x: Tensor, conditioning: Conditioning, labels: int, masks: Masks | None) -> Tensor:
        mask = iter(masks) if masks is not None else None
        at = conditioning.get
        x_in = at("input", IDENTITY)
        x = x_in(x)
        if x_in.extra is not None:
            x = beside(x, x_in.extra.expand(-1, -1, *x.shape[2:]))
        x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)  # the plane of ones tells padding from black
        x = x.contiguous(memory_format=torch.channels_last)  # several times faster on a CPU, and the GPU's own order

        u, of_above, of_left = self._stem(x)
        u = at("stem.u", IDENTITY)(down_shift(u))
        ul = at("stem.ul", IDENTITY)(down_shift(of_above) + right_shift(of_left))
        us, uls = [u], [ul]
        for level in range(NR_LEVELS):
            for i in range(self.nr_resnet):
                u = self._block("up", level, "u", i, conditioning, mask, u)
                ul = self._block("up", level, "ul", i, conditioning, mask, ul, u)
                us.append(u)
                uls.append(ul)
            if level < NR_LEVELS - 1:
                u, ul = self.downsize_u[level](u), self.downsize_ul[level](ul)
                us.append(u)
                uls.append(ul)

        u = at("bottleneck.u", IDENTITY)(us.pop())
        ul = at("bottleneck.ul", IDENTITY)(uls.pop())
        us = [at(f"skips.{i}.u", IDENTITY)(skip) for i, skip in enumerate(us)]
        uls = [at(f"skips.{i}.ul", IDENTITY)(skip) for i, skip in enumerate(uls)]
        for stage in range(NR_LEVELS):
            for i in range(self.nr_resnet + (stage > 0)):
                u = self._block("down", stage, "u", i, conditioning, mask, u, us.pop())
                skip = beside(u, uls.pop())
                ul = self._block("down", stage, "ul", i, conditioning, mask, ul, skip)
            if stage < NR_LEVELS - 1:
                u, ul = self.upsize_u[stage](u), self.upsize_ul[stage](ul)
        return per_label(self._head(ul, at("head", IDENTITY)), labels)

    def _block(
        self,
        direction: str,
        stage: int,
        stream: str,
        index: int,
        conditioning: Conditioning,
        mask: Iterator[Tensor] | None,
        x: Tensor,
        skip: Tensor | None = None,
    ) -> Tensor:
        """Block `index` of a stage of a stream, with the label where the fusion has it enter."""
        name = f"{direction}.{stage}.{stream}.{index}"
        stages = cast("nn.ModuleList", getattr(self, f"{direction}_{stream}"))
        return self.call_block(
            cast("GatedBlock", cast("nn.ModuleList", stages[stage])[index]),
            x,
            skip,
            hidden=conditioning.get(f"{name}.hidden", IDENTITY),
            gate=conditioning.get(f"{name}.gate", IDENTITY),
            output=conditioning.get(f"{name}.output", IDENTITY),
            before=self.channels_before(f"{direction}.{stage}", stream, index, conditioning),
            extra=self.channels_beside_skip(f"{direction}.{stage}", stream, index, conditioning),
            mask=None if mask is None else next(mask),
        )

    def channels_before(self, stage: str, stream: str, index: int, conditioning: Conditioning) -> Tensor | None:
        """The label's channels beside the input of a block; only the first block of a pass has any."""
        if index or stage not in _FIRST:
            return None
        return conditioning.get(_FIRST[stage].format(stream), IDENTITY).extra

    def channels_beside_skip(self, stage: str, stream: str, index: int, conditioning: Conditioning) -> Tensor | None:
        """The label's channels beside a block's skip: those of the way from the up pass, then the block's own."""
        sites = _beside_skip(stage, stream, index, self.nr_resnet)
        return together(*(conditioning.get(site, IDENTITY).extra for site in sites))

    def _stem(self, x: Tensor) -> list[Tensor]:
        """The first convolutions of x (B, C, H, W).

        Here and at the end autocast harms most and gains nothing: bf16 rounds pixels by up to a quarter of a level, and
        means, which are not held to [-1, 1], by more.
        """
        with torch.autocast(x.device.type, enabled=False):
            outs = [conv(x) for conv in (self.u_init, *self.ul_init)]
        dtype = autocast_dtype(x.device)
        return outs if dtype is None else [out.to(dtype) for out in outs]

    def _head(self, ul: Tensor, head: Modulation) -> Tensor:
        """The last 1x1 convolution, in float32 as the first ones."""
        with torch.autocast(ul.device.type, enabled=False):
            ul = F.elu(head(ul)).float()
            if head.extra is not None:
                ul = beside(ul, F.elu(head.extra).float().expand(-1, -1, *ul.shape[2:]))
            out: Tensor = self.nin_out(ul)
        return out

    def dropout_masks(self, batch: int, generator: torch.Generator) -> list[Tensor] | None:
        """One mask per gated block for `batch` images, scaled by 1 / keep probability; None where the rate is 0."""
        drawn = self.draw_masks(batch, generator)
        return None if drawn is None else self.masks_of(drawn)

    def draw_masks(self, batch: int, generator: torch.Generator) -> Tensor | None:
        """The dropout masks of all gated blocks side by side, (batch, M), in a few calls for however many blocks.

        Drawn outside the network, from a given generator, so that a step is the same whether it runs in one process or
        several, in one micro-batch or many, compiled or not, as one graph or call by call, at once or after a restart.
        """
        rate = self.config.dropout
        if rate == 0:
            return None
        width = sum(math.prod(shape) for shape in self._mask_shapes())
        draw = torch.rand((batch, width), generator=generator, device=generator.device)
        return (draw < 1 - rate).to(torch.float32).div_(1 - rate)

    def masks_of(self, drawn: Tensor) -> list[Tensor]:
        """Each gated block's part of what `draw_masks` gave, (batch, 2C, H or 1, W or 1)."""
        shapes = list(self._mask_shapes())
        parts = drawn.split([math.prod(shape) for shape in shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def _mask_shapes(self) -> Iterator[tuple[int, int, int]]:
        for site in self.sites:
            if site.kind == "gate":
                whole = self.config.dropout_kind == "channel"
                yield site.channels, *((1, 1) if whole else (site.height, site.width))


_FIRST = {"up.0": "stem.{}", "down.0": "bottleneck.{}"}
"""The site whose activation the first block of a stage reads, by the stage; `{}` is the stream."""


def _beside_skip(stage: str, stream: str, index: int, nr_resnet: int) -> Iterator[str]:
    """The sites whose extra channels stand beside the skip of a block, in their order."""
    direction, number = stage.split(".")
    if direction == "down":
        taken = int(number) * (nr_resnet + 1) - (int(number) > 0) + index  # the up pass's last is taken first
        yield f"skips.{NR_LEVELS * (nr_resnet + 1) - 2 - taken}.{stream}"
    yield f"{stage}.{stream}.{index}.block_skip"


def _sites(config: ModelConfig, image_shape: tuple[int, int, int]) -> Iterator[Site]:
    """Every site, in the order of the forward pass."""
    C, n = config.nr_filters, config.nr_resnet
    channels, height, width = image_shape
    size = [(height >> level, width >> level) for level in range(NR_LEVELS)]
    lowest = NR_LEVELS - 1

    known = dict(blocks(n))

    def block(name: str, skips: int) -> Iterator[Site]:
        where = known[name]
        level = RESOLUTIONS.index(where.resolution)
        if skips:
            yield Site(f"{name}.block_skip", "block_skip", skips * C, *size[level], where)
        yield Site(f"{name}.hidden", "hidden", C, *size[level], where)
        yield Site(f"{name}.gate", "gate", 2 * C, *size[level], where)
        yield Site(f"{name}.output", "output", C, *size[level], where)

    yield Site("input", "input", channels, height, width)
    yield Site("stem.u", "stem", C, *size[0])
    yield Site("stem.ul", "stem", C, *size[0])
    for level in range(NR_LEVELS):
        for i in range(n):
            yield from block(f"up.{level}.u.{i}", 0)
            yield from block(f"up.{level}.ul.{i}", 1)
    yield Site("bottleneck.u", "bottleneck", C, *size[lowest])
    yield Site("bottleneck.ul", "bottleneck", C, *size[lowest])
    handed = [level for level in range(NR_LEVELS) for _ in range(n + 1)][:-1]  # stem or downsized, then the blocks
    for i, level in enumerate(handed):
        yield Site(f"skips.{i}.u", "skips", C, *size[level])
        yield Site(f"skips.{i}.ul", "skips", C, *size[level])
    for stage in range(NR_LEVELS):
        for i in range(n + (stage > 0)):
            yield from block(f"down.{stage}.u.{i}", 1)
            yield from block(f"down.{stage}.ul.{i}", 2)
    yield Site("head", "head", C, height, width)
