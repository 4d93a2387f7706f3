"""What the concatenating variants share: the label as constant channels beside an activation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from cpcnn_core.fusion.base import (
    Conditioning,
    FusionOptions,
    Modulation,
    Site,
    SiteFusion,
    per_channel,
    projection,
)


class ConcatOptions(FusionOptions):
    """`dim`: the number of channels that carry the label."""

    dim: int = Field(32, ge=1)


class Concat(SiteFusion):
    """[h ; e(y) broadcast] at each site of `used`, one e in R^dim for them all."""

    Options: ClassVar[type[FusionOptions]] = ConcatOptions

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        assert isinstance(options, ConcatOptions)
        self.dim = options.dim
        self.e = projection(label_dim, self.dim)

    def extra_channels(self, site: Site) -> int:
        return self.dim if site in self.used else 0

    def forward(self, label: Tensor) -> Conditioning:
        modulation = Modulation(extra=per_channel(self.e(label)))
        return {site.name: modulation for site in self.used}
