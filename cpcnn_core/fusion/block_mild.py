"""`block_mild`: a bias before the gate of every block."""

from __future__ import annotations

from typing import ClassVar

from cpcnn_core.fusion.base import DepthOptions, FusionOptions, Site, select
from cpcnn_core.fusion.shift import Shift


class BlockMild(Shift):
    """conv_out(...) + e(y), e in R^2C. "Image Classification with Conditional PixelCNN++", Algorithm 1."""

    Options: ClassVar[type[FusionOptions]] = DepthOptions

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "gate"))
