"""`block_concat`: the label as extra channels of each skip path."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.concat import Concat


class BlockConcat(Concat):
    """The skip path of a block sees [a ; e(y)]; the u stream of the up pass has none, so its blocks see no label."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "block_skip"))
