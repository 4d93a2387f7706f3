"""`stem_add`: the label right after the first convolutions."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import SharedShift


class StemAdd(SharedShift):
    """u0 + e(y), ul0 + e(y), one shared e in R^C. "Conditional PixelCNN++", early fusion 2."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "stem"))
