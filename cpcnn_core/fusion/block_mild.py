"""`block_mild`: a bias before the gate of every block."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import Shift


class BlockMild(Shift):
    """conv_out(...) + e(y), e in R^2C. "Image Classification with Conditional PixelCNN++", Algorithm 1."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "gate"))
