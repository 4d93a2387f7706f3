"""`input_map`: an image per class, added to the image."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import ShiftMap


class InputMap(ShiftMap):
    """x + E(y), E in R^(C_in x H x W)."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "input"))
