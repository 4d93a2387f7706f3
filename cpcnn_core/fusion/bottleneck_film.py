"""`bottleneck_film`: FiLM at the lowest resolution."""

from __future__ import annotations

from cpcnn_core.fusion.base import Site, select
from cpcnn_core.fusion.film import Film


class BottleneckFilm(Film):
    """gamma(y) * u + beta(y), and the same for ul, between the up pass and the down pass."""

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "bottleneck"))
