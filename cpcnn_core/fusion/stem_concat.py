"""`stem_concat`: the label as extra channels after the first convolutions."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.concat import Concat


class StemConcat(Concat):
    """[u0 ; e(y)], [ul0 ; e(y)]: the first convolutions see the image alone, the first block of each stream the label.

    A wish of "CPEN 455 Final Project, Conditional PixelCNN++": layers before the label is fused.
    """

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "stem"))
