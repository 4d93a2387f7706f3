"""`bottleneck_add`: the label at the lowest resolution."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import Shift


class BottleneckAdd(Shift):
    """u + e_u(y), ul + e_ul(y) between the up pass and the down pass."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "bottleneck"))
