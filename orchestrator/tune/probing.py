"""A few steps of a configuration: what an epoch of it takes, in time, memory and on disk."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import LikelihoodError
from orchestrator.objectives.objective import Direction, pareto_front

if TYPE_CHECKING:
    from torch import Tensor

    from cpcnn_core.data import Dataset
    from cpcnn_core.train import Run

_WAYS: tuple[Direction, ...] = ("min", "max")


@dataclass(frozen=True)
class Probe:
    """What one configuration takes."""

    config: TrialConfig
    parameters: int
    memory_bytes: int  # peak: of the device, or on a CPU of the process
    epoch_seconds: float  # training and evaluation; images drawn for FID apart
    disk_bytes: int  # of a whole trial

    @property
    def trial_seconds(self) -> float:
        """A trial of all its epochs."""
        return self.epoch_seconds * self.config.train.epochs


def probe(config: TrialConfig, dataset: Dataset) -> Probe:
    """Train a few steps and evaluate one batch."""
    import torch

    from cpcnn_core.checkpoint import KEPT_STATES
    from cpcnn_core.train import peak_memory

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with prepared(config.with_settings({"eval.fid_every": 0}), dataset) as run:
        chosen = batch_of(run)
        run.optimize(chosen)
        step = _seconds(run, lambda: [run.optimize(chosen) for _ in range(_STEPS)]) / _STEPS
        images = min(config.eval.batch_size, len(dataset.validation))
        evaluated = len(dataset.validation) + len(run.train_subset)
        parameters = sum(each.numel() for each in run.model.parameters())
        weights = _BYTES * parameters
        state = weights * (3 + (config.train.ema_decay is not None))  # the network, Adam's two moments, the average
        predictions = 8 * len(dataset.validation) * (dataset.nr_classes + 2)
        return Probe(
            config,
            parameters,
            peak_memory(run.device),
            step * run.steps_per_epoch + _seconds(run, lambda: evaluate_some(run, images)) * evaluated / images,
            _kept_weights(config) * weights + KEPT_STATES * state + config.train.epochs * predictions,
        )


@contextmanager
def prepared(config: TrialConfig, dataset: Dataset) -> Generator[Run]:
    """A trial as it is before its first step, on this process's device, in a folder that is thrown away."""
    from cpcnn_core import environment
    from cpcnn_core.precision import whole_float32
    from cpcnn_core.train import Run

    environment.forget_launchers()
    with tempfile.TemporaryDirectory(prefix="cpcnn-probe-") as folder, whole_float32():
        yield Run(config, dataset, Path(folder), environment.accelerator(anew=True))


def batch_of(run: Run) -> Tensor:
    """A batch of a run's images, as its numbers on the device."""
    import torch

    return torch.arange(run.config.train.batch_size, device=run.device)


def evaluate_some(run: Run, count: int) -> None:
    """Evaluate so many images, whatever comes out."""
    from cpcnn_core import evaluate

    asked = run.config.eval
    with suppress(LikelihoodError):  # of a network that diverges this soon; it took as long
        evaluate.evaluate(
            run.model,
            evaluate.fixed_subset(run.dataset.validation, count, 0),
            run.log_prior,
            batch_size=asked.batch_size,
            bf16=asked.precision == "bf16",
            accelerator=run.accelerator,
        )


def _kept_weights(config: TrialConfig) -> int:
    """Of how many epochs the weights are kept at most: the best by each metric that is measured, the last, and some."""
    from cpcnn_core.keeping import KEPT_BEST_BY
    from cpcnn_core.metrics import OF_IMAGES

    measured = KEPT_BEST_BY.keys() - (frozenset() if config.eval.fid_every else OF_IMAGES)
    steps = [every for every in (config.eval.fid_every, config.train.keep_every) if every]
    wanted = sum(any(epoch % every == 0 for every in steps) for epoch in range(1, config.train.epochs))
    return min(config.train.epochs, len(measured) + 1 + min(wanted, config.train.keep_most))


def extremes(configs: Iterable[TrialConfig], dataset: Dataset) -> tuple[TrialConfig, TrialConfig]:
    """The configurations with the fewest and with the most parameters."""
    from cpcnn_core.checkpoint import build_model

    networks = _smallest_and_largest({config.model.model_dump_json(): config for config in configs}.values())
    networks = networks[:: math.ceil(len(networks) / _NETWORKS)]
    sizes = [
        sum(each.numel() for each in build_model(config, dataset.image_shape, dataset.nr_classes).parameters())
        for config in networks
    ]
    return networks[sizes.index(min(sizes))], networks[sizes.index(max(sizes))]


def _smallest_and_largest(configs: Collection[TrialConfig]) -> list[TrialConfig]:
    """Those than which none is smaller, or none larger, in all whole numbers: the others lie between."""
    each = [{key: value for key, value in config.model if type(value) is int} for config in configs]
    shared = sorted(set.intersection(*(set(sizes) for sizes in each)))
    sized = [([sizes[key] for key in shared], config) for config, sizes in zip(configs, each, strict=True)]
    ends: list[TrialConfig] = []
    for way in _WAYS:
        front = pareto_front(sized, lambda item: item[0], [way] * len(shared))
        ends += [config for _, config in front if not any(config is other for other in ends)]
    return ends


def _seconds(run: Run, work: Callable[[], object]) -> float:
    run.wait()  # for what was asked for before
    begun = time.perf_counter()
    work()
    run.wait()
    return time.perf_counter() - begun


_STEPS = 3  # timed, after one that is not


_NETWORKS = 64  # of more, only a part is built to find the smallest and the largest


_BYTES = 4  # a float32
