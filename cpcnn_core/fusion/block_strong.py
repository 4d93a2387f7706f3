"""`block_strong`: two biases in every block."""

from __future__ import annotations

from typing import ClassVar

from cpcnn_core.fusion.base import DepthOptions, FusionOptions, Site, select
from cpcnn_core.fusion.shift import Shift


class BlockStrong(Shift):
    """`block_mild` and a bias after conv_input (the skip is added to it, so the order of the two sums is free).

    "Image Classification with Conditional PixelCNN++", Algorithm 2.
    """

    Options: ClassVar[type[FusionOptions]] = DepthOptions

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "hidden", "gate"))
