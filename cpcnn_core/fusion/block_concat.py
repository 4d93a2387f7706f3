"""`block_concat`: the label as extra channels of each skip path."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.concat import Concat


class BlockConcat(Concat):
    """The skip path of a block sees [a ; e(y)]; blocks without one (the u stream of the up pass) do not see the label."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "block_skip"))
