"""`block_three_bias`: three biases in every block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cpcnn_core.fusion.base import (
    Conditioning,
    Fusion,
    FusionOptions,
    Modulation,
    Site,
    key,
    per_channel,
    projection,
    select,
)


class BlockThreeBias(Fusion):
    """Biases on hidden (after the skip), on the gate half of the 2C channels only, and on the output.

    "Conditional PixelCNN++", section 1.2.1.
    """

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        self.used = tuple(select(sites, "hidden", "gate", "output"))
        self.e = nn.ModuleDict(
            {key(site): projection(label_dim, site.channels // (2 if site.kind == "gate" else 1)) for site in self.used}
        )

    def forward(self, label: Tensor) -> Conditioning:
        shifts = {}
        for site in self.used:
            bias = self.e[key(site)](label)
            if site.kind == "gate":
                bias = F.pad(bias, (bias.shape[1], 0))  # [value half; gate half]
            shifts[site.name] = Modulation(shift=per_channel(bias))
        return shifts
