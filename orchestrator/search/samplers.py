"""Samplers: what chooses the next configuration, in one table. Optuna is imported only where one is made.

A sampler is made anew for each suggestion, seeded by the sweep's seed and the suggestion's number, and knows what the
study knows. So a restart changes nothing: no generator's state and no fitted model has to survive it.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import JsonValue

from cpcnn_core.errors import UserError
from cpcnn_core.suggest import nearest

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

DEFAULT = "tpe"
GRID = "grid"
GRID_SIZE = 100_000  # configurations; a larger grid is not walked

NSGA2_POPULATION = 16
"""Optuna's 50 would make the first 50 trials of a sweep random ones, and most sweeps have no more."""


class SamplerError(UserError, ValueError):
    """A sampler that there is not."""


def named(name: object) -> str:
    """The name, if there is such a sampler. Raise SamplerError."""
    if not isinstance(name, str) or name not in SAMPLERS:
        raise SamplerError(f"sampler: {name!r} is no sampler{nearest(str(name), SAMPLERS)}")
    return name


def make(name: str, seed: int, number: int) -> BaseSampler:
    """The sampler for suggestion `number` of the sweep."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](random.Random(f"{seed}/{number}").getrandbits(32))


def attributes_of_told(name: str) -> dict[str, JsonValue]:
    """What a trial that this sampler did not suggest needs, for the sampler to learn from it."""
    if name != "nsga2":
        return {}
    from optuna.samplers import NSGAIISampler

    return {NSGAIISampler._get_generation_key(): 0}  # NSGA-II breeds from trials of a generation only


def _tpe(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), joint over the fields of each branch of the space.

    Running trials count as bad ones, so that trials at the same time differ (constant liar).
    """
    from optuna.samplers import TPESampler

    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def _random(seed: int) -> BaseSampler:
    """Independent draws (Bergstra and Bengio 2012); also what a grid falls back on, which the study walks itself."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    """NSGA-II (Deb et al. 2002). It crosses the fields that every branch has; the others it draws at random."""
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(population_size=NSGA2_POPULATION, seed=seed)


def _gp(seed: int) -> BaseSampler:
    """Gaussian process with expected improvement, over the fields that every branch has; the others at random."""
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, warn_independent_sampling=False)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    GRID: _random,
    "nsga2": _nsga2,
    "gp": _gp,
}
