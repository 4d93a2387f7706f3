"""How long a sweep takes, as an interval, from what a few of its configurations take.

Many sweeps are played through: each draws configurations of the space at random and gives them to the places in turn.
What a configuration takes lies on a line through what was measured, by the work that one step of it is.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cpcnn_core.config import ConfigError, TrialConfig
from orchestrator.search.space import at_random

if TYPE_CHECKING:
    from cpcnn_core.data import Dataset
    from orchestrator.search.scheduling import Schedule
    from orchestrator.search.space import SearchSpace

_DRAWN = 24  # configurations; each is a network that is built to be counted
_PLAYED = 300  # sweeps
_TAIL = 0.05  # of them below the interval, and above it
_FASTER, _SLOWER = 0.8, 1.35  # what steps leave out, and a machine that others use too
_SMALLEST_PART = 0.3  # of the median configuration's time, which the smallest takes at least


@dataclass(frozen=True)
class Load:
    """A configuration, and how much work an epoch of it is, in parameters times passes."""

    config: TrialConfig
    work: float


@dataclass(frozen=True)
class Measured:
    """What a configuration was measured to take: before its first epoch, and for each."""

    load: Load
    begin_seconds: float
    epoch_seconds: float


@dataclass(frozen=True)
class Interval:
    """From how much to how much."""

    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """Seconds by the clock, and seconds of all trials together."""

    wall: Interval
    trials: Interval


def load(config: TrialConfig, dataset: Dataset) -> Load:
    """Count the network's parameters, and how often an image goes through it in a step."""
    from cpcnn_core.checkpoint import build_model

    model = build_model(config, dataset.image_shape, dataset.nr_classes)
    passes = 1
    if config.train.class_loss_weight:
        passes = 1 + (config.train.class_loss_others or dataset.nr_classes - 1)
    return Load(config, passes * float(sum(each.numel() for each in model.parameters())))


def drawn(space: SearchSpace, dataset: Dataset, seed: int = 0) -> list[Load]:
    """Some configurations of the space, drawn at random, by their work."""
    rng, loads = random.Random(seed), list[Load]()
    for _ in range(10 * _DRAWN):
        try:
            loads.append(load(space.configure(at_random(rng)), dataset))
        except ConfigError:
            continue
        if len(loads) == _DRAWN:
            break
    return sorted(loads or [load(space.default(), dataset)], key=lambda each: each.work)


def epoch_seconds(asked: Load, median: Measured, largest: Measured) -> float:
    """What an epoch takes, on a line through what was measured; never less than a part of the median."""
    low, high = median.load.work, largest.load.work
    if asked.work <= low or high <= low:
        return median.epoch_seconds * max(_SMALLEST_PART, min(1.0, asked.work / low))
    rise = max(0.0, largest.epoch_seconds - median.epoch_seconds) / (high - low)
    return median.epoch_seconds + rise * (min(asked.work, high) - low)


def stopped_epochs(schedule: Schedule, epochs: int, trials: int) -> list[int]:
    """The epochs that each trial trains where each is worse than all before, so that as many stop as may."""
    scheduler = schedule.scheduler(epochs)
    trained: list[int] = []
    for number in range(trials):
        name = str(number)
        epoch = 0
        while epoch < epochs:
            epoch += 1
            scheduler.observe(name, epoch, ((float(number),),))
            if number and epoch < epochs and scheduler.stops(name, epoch):  # one at least is trained to its end
                break
        trained.append(epoch)
    return trained


def played(
    loads: Sequence[Load],
    median: Measured,
    largest: Measured,
    *,
    places: int,
    most_epochs: Sequence[int | None],
    fixed_seconds: float,
) -> Forecast:
    """What sweeps take whose trials train at most so many epochs each, one entry a trial; None is all of them."""
    rng = random.Random(0)
    walls, totals = list[float](), list[float]()
    begin = max(median.begin_seconds, largest.begin_seconds)
    for _ in range(_PLAYED):
        free, total = [0.0] * places, 0.0
        for most in most_epochs:
            chosen = rng.choice(loads)
            epochs = chosen.config.train.epochs if most is None else min(most, chosen.config.train.epochs)
            took = begin + epochs * epoch_seconds(chosen, median, largest)
            heapq.heapreplace(free, free[0] + took)
            total += took
        walls.append(fixed_seconds + max(free))
        totals.append(total)
    return Forecast(_interval(walls), _interval(totals))


def _interval(values: list[float]) -> Interval:
    values.sort()
    tail = int(_TAIL * len(values))
    return Interval(_FASTER * values[tail], _SLOWER * values[-1 - tail])
