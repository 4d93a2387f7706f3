"""`block_film`: FiLM in every block."""

from __future__ import annotations

from typing import ClassVar

from cpcnn_core.fusion.base import DepthOptions, FusionOptions, Site, select
from cpcnn_core.fusion.film import Film, FilmOptions


class BlockFilmOptions(FilmOptions, DepthOptions):
    """FiLM's options, and at which blocks."""


class BlockFilm(Film):
    """gamma(y) * hidden + beta(y), a two-layer MLP per block. "Project-455"."""

    Options: ClassVar[type[FusionOptions]] = BlockFilmOptions

    def choose(self, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        return tuple(select(sites, "hidden"))
