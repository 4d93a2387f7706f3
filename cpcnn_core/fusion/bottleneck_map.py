"""`bottleneck_map`: the label at the lowest resolution, per pixel."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import ShiftMap


class BottleneckMap(ShiftMap):
    """u + E_u(y), ul + E_ul(y) between the up pass and the down pass, E in R^(C x H/4 x W/4)."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "bottleneck"))
