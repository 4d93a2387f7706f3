"""`head_add`: late fusion."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import Shift


class HeadAdd(Shift):
    """e(y) added to the ul stream before the last nonlinearity and 1x1 convolution."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "head"))
