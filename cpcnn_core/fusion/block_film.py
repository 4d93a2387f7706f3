"""`block_film`: FiLM in every block."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.film import Film


class BlockFilm(Film):
    """gamma(y) * hidden + beta(y), a two-layer MLP per block. "Project-455"."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "hidden"))
