"""The sites where a label may enter the network, and what a fusion does there.

Given the label, every fusion is an affine map of the activation at a site, or extra constant channels beside it. The
network applies these `Modulation`s without knowing which variant made them. Since they depend on the label alone, a
sampler computes them once per image and not once per pixel, and a classifier computes what precedes the first site once
for all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cpcnn_core.errors import UserError

SiteKind = Literal["input", "stem", "block_skip", "hidden", "gate", "output", "skips", "bottleneck", "head"]

WITH_CHANNELS: frozenset[SiteKind] = frozenset({"input", "stem", "block_skip", "hidden", "skips", "bottleneck", "head"})
"""Where extra channels may stand beside the activation: it has one convolution to go to next, which reads them too.

The two halves before a gate go to no convolution, and a block's output goes to several.
"""

CHANNELS_ONLY: frozenset[SiteKind] = frozenset({"block_skip"})
"""Where only they may: the skip path's activations belong to other sites, where they can be shifted and scaled."""


class FusionError(UserError, ValueError):
    """A fusion name or option that does not exist, or a value that the option does not allow."""


Resolution = Literal["full", "half", "quarter"]
RESOLUTIONS: tuple[Resolution, ...] = ("full", "half", "quarter")


@dataclass(frozen=True)
class Block:
    """Where in the network a gated block stands: `number` counts the blocks of its pass and stream, from 0."""

    direction: Literal["up", "down"]
    resolution: Resolution
    stream: Literal["u", "ul"]
    number: int


@dataclass(frozen=True)
class Site:
    """One place where a label may enter: an activation of shape (B, channels, height, width)."""

    name: str
    kind: SiteKind
    channels: int
    height: int
    width: int
    block: Block | None = None  # where it is one of a block's


@dataclass(frozen=True)
class Modulation:
    """`scale * h + shift` at a site, then `extra` channels beside it. Shapes (B, C, 1 or H, 1 or W); None: identity."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    extra: Tensor | None = None

    def __call__(self, h: Tensor) -> Tensor:
        """The modulated activation, without the extra channels, which the network places itself."""
        changed = self.scale if self.scale is not None else self.shift
        if changed is not None:
            h = per_label(h, max(len(h), len(changed)))
        if self.scale is not None:
            return h * self.scale if self.shift is None else torch.addcmul(self.shift, h, self.scale)
        return h if self.shift is None else h + self.shift

    def then(self, later: Modulation) -> Modulation:
        """This modulation followed by `later`."""
        scale, shift = self.scale, self.shift
        if later.scale is not None:
            scale = later.scale if scale is None else scale * later.scale
            shift = None if shift is None else shift * later.scale
        if later.shift is not None:
            shift = later.shift if shift is None else shift + later.shift
        return Modulation(scale, shift, together(self.extra, later.extra))

    def map(self, function: Callable[[Tensor], Tensor]) -> Modulation:
        """Apply `function` to each tensor that is there."""
        return Modulation(*(None if t is None else function(t) for t in (self.scale, self.shift, self.extra)))


Conditioning = Mapping[str, Modulation]
"""Modulations by site name; a site that is not named is left alone."""


def together(*extras: Tensor | None) -> Tensor | None:
    """Extra channels (B, E, 1 or H, 1 or W) side by side, as far as there are any."""
    there = [extra for extra in extras if extra is not None]
    if len(there) < 2:
        return there[0] if there else None
    height, width = (max(extra.shape[side] for extra in there) for side in (2, 3))
    return torch.cat([extra.expand(-1, -1, height, width) for extra in there], dim=1)


def per_label(h: Tensor, count: int) -> Tensor:
    """One activation for each of `count` labels: (B, C, H, W) -> (count, C, H, W), each image's copies side by side.

    A network that is given several labels per image computes what lies before the first site that it uses once for all
    of them; this is where one activation becomes several.
    """
    if len(h) == count:
        return h
    if count % len(h):
        raise ValueError(f"{len(h)} activations cannot become {count}; expected the same number for each image")
    # By way of (B, H, W, C), the layout that convolutions like: the copy keeps it.
    return h.movedim(1, -1).repeat_interleave(count // len(h), dim=0).movedim(-1, 1)


_LEVELS = r"^(full|half|quarter)(\+(full|half|quarter))*$"


class FusionOptions(BaseModel):
    """The options of one variant, with their bounds; most variants have none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def blocks(nr_resnet: int) -> Iterator[tuple[str, Block]]:
    """Every block of a network by its name, as `up.0.ul.1`: direction, stage, stream, index in the stage.

    The down pass has one more than `nr_resnet` in all but its first stage.
    """
    for stream in ("u", "ul"):
        number = 0
        for stage, resolution in enumerate(RESOLUTIONS):
            for i in range(nr_resnet):
                yield f"up.{stage}.{stream}.{i}", Block("up", resolution, stream, number)
                number += 1
        number = 0
        for stage, resolution in enumerate(reversed(RESOLUTIONS)):
            for i in range(nr_resnet + (stage > 0)):
                yield f"down.{stage}.{stream}.{i}", Block("down", resolution, stream, number)
                number += 1


class DepthOptions(FusionOptions):
    """At which blocks: those of one pass (`passes` up, down or both) and of some resolutions (`levels`, as full+half).

    Of these the ones whose number, counted from 0 through their whole pass and stream, `every` divides.
    """

    passes: Literal["both", "up", "down"] = "both"
    levels: Annotated[str, Field(pattern=_LEVELS)] = "full+half+quarter"
    every: int = Field(1, ge=1)

    def includes(self, block: Block) -> bool:
        """Whether the label enters at this block."""
        return (
            self.passes in {"both", block.direction}
            and block.resolution in self.levels.split("+")
            and block.number % self.every == 0
        )


class Fusion(nn.Module):
    """Base of all variants. A variant builds its parameters for the sites it uses and returns their modulations."""

    Options: ClassVar[type[FusionOptions]] = FusionOptions
    Diagnostics: ClassVar[tuple[str, ...]] = ()  # the names in `diagnostics`: each is a column of the results

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__()
        self.label_dim = label_dim
        self.options = options

    def extra_channels(self, site: Site) -> int:
        """How many channels this fusion puts beside the activation at `site`."""
        return 0

    def forward(self, label: Tensor) -> Conditioning:
        """Modulations for encoded labels (B, label_dim)."""
        raise NotImplementedError

    def diagnostics(self, label: Tensor) -> dict[str, float]:
        """What is worth logging once per epoch, given the encodings of all classes (Y, label_dim)."""
        return {}


class SiteFusion(Fusion):
    """A fusion at some of the sites, which its variants choose."""

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        used = self.choose(sites)
        if isinstance(options, DepthOptions):
            used = tuple(site for site in used if site.block is None or options.includes(site.block))
        self.used = used

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """The sites that this variant uses."""
        raise NotImplementedError


def select(sites: tuple[Site, ...], *kinds: SiteKind) -> Iterator[Site]:
    """The sites of the given kinds, in the order of the forward pass."""
    return (site for site in sites if site.kind in kinds)


def key(site: Site) -> str:
    """The site's name as a module name, which must not hold dots."""
    return site.name.replace(".", "_")


def projection(label_dim: int, size: int) -> nn.Linear:
    """A bias-free linear map that starts small, and maps a withheld label (the zero vector) to zero."""
    linear = nn.Linear(label_dim, size, bias=False)
    nn.init.normal_(linear.weight, std=0.1 * label_dim**-0.5)
    return linear


def per_channel(values: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, 1)."""
    return values[:, :, None, None]
