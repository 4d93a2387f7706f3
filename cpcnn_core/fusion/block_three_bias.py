"""`block_three_bias`: three biases in every block."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core.fusion.base import (
    Conditioning,
    DepthOptions,
    FusionOptions,
    Modulation,
    Site,
    SiteFusion,
    key,
    per_channel,
    projection,
    select,
)


class BlockThreeBias(SiteFusion):
    """Biases on hidden (after the skip), on the gate half of the 2C channels only, and on the output.

    "Conditional PixelCNN++", section 1.2.1.
    """

    Options: ClassVar[type[FusionOptions]] = DepthOptions

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        self.e = nn.ModuleDict(
            {key(site): projection(label_dim, site.channels // (2 if site.kind == "gate" else 1)) for site in self.used}
        )

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "hidden", "gate", "output"))

    def forward(self, label: Tensor) -> Conditioning:
        shifts = {}
        for site in self.used:
            bias = self.e[key(site)](label)
            if site.kind == "gate":
                bias = F.pad(bias, (bias.shape[1], 0))  # [value half; gate half]
            shifts[site.name] = Modulation(shift=per_channel(bias))
        return shifts
