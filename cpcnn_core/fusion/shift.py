"""What the additive variants share: a learned shift per site, a linear function of the encoded label."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core.fusion.base import (
    Conditioning,
    FusionOptions,
    Modulation,
    Site,
    SiteFusion,
    key,
    per_channel,
    projection,
)


class Shift(SiteFusion):
    """h + e(y) at each site of `used`, one e in R^C per site."""

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        self.e = nn.ModuleDict({key(site): projection(label_dim, site.channels) for site in self.used})

    def forward(self, label: Tensor) -> Conditioning:
        # All in one product, and their gradients too.
        weights = [cast("nn.Linear", self.e[key(site)]).weight for site in self.used]
        shifts = F.linear(label, torch.cat(weights)).split([len(weight) for weight in weights], dim=1)
        return {site.name: Modulation(shift=per_channel(e)) for site, e in zip(self.used, shifts, strict=True)}


class SharedShift(SiteFusion):
    """h + e(y) at each site of `used`, one e in R^C for them all."""

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        self.e = projection(label_dim, self.used[0].channels)

    def forward(self, label: Tensor) -> Conditioning:
        modulation = Modulation(shift=per_channel(self.e(label)))
        return {site.name: modulation for site in self.used}


class ShiftMap(SiteFusion):
    """h + E(y) at each site of `used`, one E in R^(C x H x W) per site."""

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        self.e = nn.ModuleDict(
            {key(site): projection(label_dim, site.channels * site.height * site.width) for site in self.used}
        )

    def forward(self, label: Tensor) -> Conditioning:
        return {
            site.name: Modulation(shift=self.e[key(site)](label).view(-1, site.channels, site.height, site.width))
            for site in self.used
        }
