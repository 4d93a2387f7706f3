"""`skip_add`: the label on the way from the up pass to the down pass."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import SharedShift


class SkipAdd(SharedShift):
    """s + e(y) for every skip s of both streams, one shared e in R^C."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "skips"))
