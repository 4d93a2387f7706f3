"""`block_concat`: the label as extra channels in each block."""

from __future__ import annotations

from typing import ClassVar

from cpcnn_core.fusion.base import DepthOptions, FusionOptions, Site, select
from cpcnn_core.fusion.concat import Concat, ConcatOptions


class BlockConcatOptions(ConcatOptions, DepthOptions):
    """`dim` of the label, at which blocks, and whether at `up_u`, those that have no skip path, too."""

    up_u: bool = False


class BlockConcat(Concat):
    """The skip path of a block sees [a ; e(y)].

    The blocks of the up pass's u stream have none. With `up_u` their hidden activation has the label beside it, so that
    every block of the network sees it. "Conditional PixelCNN++", future work.
    """

    Options: ClassVar[type[FusionOptions]] = BlockConcatOptions

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        skips = tuple(select(sites, "block_skip"))
        if not (isinstance(self.options, BlockConcatOptions) and self.options.up_u):
            return skips
        with_skip = {site.block for site in skips}
        return (*skips, *(site for site in select(sites, "hidden") if site.block not in with_skip))
