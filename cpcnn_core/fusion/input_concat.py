"""`input_concat`: the label as extra channels of the image."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.concat import Concat


class InputConcat(Concat):
    """[x ; e(y) broadcast], e in R^32 by default. "CPEN 455 Final Project, Conditional PixelCNN++"."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "input"))
