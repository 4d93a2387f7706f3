"""`input_add`: a colour per class, added to the image."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.shift import Shift


class InputAdd(Shift):
    """x + e(y), e in R^C_in. "Conditional PixelCNN++", early fusion 1."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "input"))
