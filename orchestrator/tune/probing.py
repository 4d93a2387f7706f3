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

from cpcnn_core import devices
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import LikelihoodError, RunError
from orchestrator.objectives.objective import Direction, pareto_front

if TYPE_CHECKING:
    from torch import Tensor

    from cpcnn_core.data import Dataset
    from cpcnn_core.quality import Drawn
    from cpcnn_core.train import Run

_WAYS: tuple[Direction, ...] = ("min", "max")


@dataclass(frozen=True)
class Probe:
    """What one configuration takes."""

    config: TrialConfig
    parameters: int
    memory_bytes: int  # peak: of the device, or on a CPU of the process
    epoch_seconds: float  # training, evaluation, and images for FID as often as they are drawn
    disk_bytes: int  # of a whole trial
    begin_seconds: float = 0.0  # from the trial's settings to its second step
    steps: int = 1  # that were timed
    pictures_seconds: float = 0.0  # of the images that the report shows of a finalist
    scoring_seconds: float = 0.0  # of an epoch's: images under each class, as often as they are scored

    @property
    def scoring_share(self) -> float:
        """What scoring images takes of an epoch."""
        return self.scoring_seconds / self.epoch_seconds

    @property
    def trial_seconds(self) -> float:
        """A trial of all its epochs."""
        return self.begin_seconds + self.epoch_seconds * self.config.train.epochs


def probe(config: TrialConfig, dataset: Dataset, together: Callable[[], object] = lambda: None) -> Probe:
    """Train a few steps, evaluate some images, draw some rows of images and measure them.

    `together` waits for the other processes that do the same.
    """
    from cpcnn_core.checkpoint import KEPT_STATES
    from orchestrator.exporting import pictures

    devices.begin_memory(devices.here())
    begun = time.perf_counter()
    with prepared(config, dataset) as run:
        chosen = batch_of(run)
        first = _seconds(run, lambda: run.optimize(chosen))
        begin = time.perf_counter() - begun
        together()
        step, steps = _step_seconds(run, chosen, first)
        of_report = pictures.per_class_of(dataset.nr_classes)
        of_report *= len(pictures.drawn_classes(dataset.nr_classes))
        each = config.eval.fid_images_per_class if run.evaluator is not None else 1
        asked = each * dataset.nr_classes  # images in all
        drawing = _drawing_seconds(run, each)
        scoring = _scoring_seconds(run, step)
        epoch = step * run.steps_per_epoch + scoring + _images_seconds(run, drawing)
        parameters = sum(each.numel() for each in run.model.parameters())
        weights = _BYTES * parameters
        state = weights * (3 + (config.train.ema_decay is not None))  # the network, Adam's two moments, the average
        predictions = 8 * len(run.validation) * (dataset.nr_classes + 2)
        disk = _kept_weights(config) * weights + KEPT_STATES * state
        disk += _times(config.eval.every, config.train.epochs) * predictions
        pictures_seconds = drawing * of_report / asked
        peak = devices.peak_memory(run.device)
        return Probe(config, parameters, peak, epoch, disk, begin, steps, pictures_seconds, scoring)


def _step_seconds(run: Run, chosen: Tensor, first: float) -> tuple[float, int]:
    """What a step takes, and how many were timed; the first one counts where it took all the time that there is."""
    if first >= _PART_SECONDS:
        return first, 1
    steps, taken = 0, 0.0
    while steps < _STEPS or taken < _PART_SECONDS:
        taken += _seconds(run, lambda: run.optimize(chosen))
        steps += 1
        if taken >= 2 * _PART_SECONDS:
            break
    return taken / steps, steps


def _scoring_seconds(run: Run, step: float) -> float:
    """What scoring images takes, from as many as there is time for, spread over the epochs after which it is not due.

    An image goes through the network once for each class, so that classes count as images do.
    """
    epochs, test = run.config.train.epochs, run.dataset.test
    count = (len(run.validation) + len(run.train_subset)) * _times(run.config.eval.every, epochs) / epochs
    if test.scorable:  # after the last epoch
        count += min(len(test), run.config.eval.max_images or len(test)) / epochs
    guess = step / run.config.train.batch_size * run.dataset.nr_classes / 3  # forward only, once for each class
    images = max(1, min(run.config.eval.batch_size, len(run.validation), int(_PART_SECONDS / guess)))
    return _seconds(run, lambda: evaluate_some(run, images)) * count / images


class _EnoughError(RunError):
    """So many rows are drawn as there was time for."""


def _drawing_seconds(run: Run, per_class: int) -> float:
    """What drawing so many images of each class takes, from as many rows as there is time for."""
    from cpcnn_core import quality

    begun, part = time.perf_counter(), 1.0

    def on_row(done: int, total: int) -> None:
        nonlocal part
        if time.perf_counter() - begun > _PART_SECONDS and done < total:
            part = done / total
            raise _EnoughError

    with suppress(_EnoughError):
        quality.draw(run.model, per_class, seed=run.config.seed, on_row=on_row)
    run.wait()
    return (time.perf_counter() - begun) / part


def _images_seconds(run: Run, drawing: float) -> float:
    """What drawing and measuring images takes, spread over the epochs of which only some have images."""
    asked, epochs = run.config.eval, run.config.train.epochs
    if run.evaluator is None:
        return 0.0
    drawn = _noise(run, asked.fid_images_per_class)
    measuring = _seconds(run, lambda: run.evaluator and run.evaluator.measure(drawn, seed=run.config.seed))
    return (drawing + measuring) * _times(asked.fid_every, epochs) / epochs


def _times(every: int, epochs: int) -> int:
    """How often what is due after every so many epochs, and after the last, is due."""
    return epochs // every + (epochs % every > 0)


def _noise(run: Run, per_class: int) -> Drawn:
    """Images that take as long to measure as drawn ones."""
    import torch

    from cpcnn_core.quality import Drawn

    labels = torch.arange(run.dataset.nr_classes).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(0)
    shape = (len(labels), *run.dataset.image_shape)
    return Drawn(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), labels)


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


_STEPS = 3  # timed at least, after one that is not


_PART_SECONDS = 2.0  # for steps, for evaluating and for drawing each


_NETWORKS = 64  # of more, only a part is built to find the smallest and the largest


_BYTES = 4  # a float32
