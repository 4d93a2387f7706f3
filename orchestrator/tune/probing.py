"""What a sweep would cost, before it is begun: its trials, their sizes, hours and disk, from a probe of a few steps."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import LikelihoodError
from orchestrator.choosing.asked import asks_for
from orchestrator.machines import cluster_file
from orchestrator.machines.cluster import Cluster, ClusterError
from orchestrator.machines.cluster import besides as of_node
from orchestrator.machines.resources import Share
from orchestrator.objectives.objective import Direction, pareto_front
from orchestrator.records.location import RemotePath
from orchestrator.records.provenance import cores
from orchestrator.records.states import meaning_of
from orchestrator.text.formatting import plain
from orchestrator.training import trainer
from orchestrator.tune import packing
from orchestrator.views.progress import duration, settings

if TYPE_CHECKING:
    from cpcnn_core.data import Dataset
    from cpcnn_core.train import Run
    from orchestrator.tune.driver import Plan

_STEPS = 3  # timed, after one that is not
_NETWORKS = 64  # of more, only a part is built to find the smallest and the largest
_BYTES = 4  # a float32
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


def show(console: Console, plan: Plan, cluster: Path | None = None) -> None:
    """Print the plan, and what it costs on the cluster of a file. Raise what `sweep` would raise for bad input."""
    rented = None if cluster is None else cluster_file.cluster(cluster)  # before a probe is spent
    dataset = trainer.dataset(plan.space.default().data)
    trainer.check(plan.space.default())
    trainer.check_each(plan.space.extremes())
    resources, machine = plan.space.resources, _machine()
    if resources.packs and machine["GPU"]:
        resources, found = packing.probe(plan.space).packed(resources, machine)
        console.print(found, highlight=False)
    share = resources.share(machine, plan.trials)
    trainer.set_threads(share.cpus)
    smallest, largest = extremes(plan.space.extremes(), dataset)
    probed = {config.model.model_dump_json(): config for config in (smallest, largest)}
    probes = [probe(config, dataset) for config in probed.values()]
    left = max(0, plan.trials - _ended(plan))
    _describe(console, plan, share, left)
    table = Table(box=SIMPLE_HEAD)
    for column in ("configuration", "parameters", "peak memory", "an epoch", "a trial", "disk", "settings"):
        table.add_column(column, justify="left" if column in {"configuration", "settings"} else "right")
    for name, held in zip(("smallest", "largest"), probes, strict=False):
        table.add_row(
            name if len(probes) > 1 else "all",
            f"{held.parameters:,}",
            _size(held.memory_bytes),
            duration(held.epoch_seconds),
            duration(held.trial_seconds),
            _size(held.disk_bytes),
            settings(held.config, plan.space.searched),
        )
    console.print(table)
    if not left:
        console.print("Every trial has ended; nothing is left to run.")
        return
    rounds = math.ceil(left / share.concurrent)
    low, high = (rounds * seconds for seconds in _range(probes))
    limit = "" if plan.budget.hours is None else f"; --hours ends it after {plain(plan.budget.hours)} h"
    besides = ", and drawing images for FID comes on top" if plan.space.default().eval.fid_every else ""
    console.print(
        f"time: {duration(low)} to {duration(high)} if no trial is stopped early (scheduler "
        f"{plan.space.schedule.name}){besides}{limit}",
        highlight=False,
    )
    if rented is not None:
        console.print(f"{cluster}: {_bill(plan, rented, left, probes)}", highlight=False, soft_wrap=True)
    disk = left * max(held.disk_bytes for held in probes)
    if isinstance(plan.results, RemotePath):
        console.print(f"storage: at most {_size(disk)} at {plan.results}", highlight=False)
        return
    free = _free(plan.results)
    console.print(f"disk: at most {_size(disk)}; {_size(free)} are free at {plan.results}", highlight=False)
    if disk > free:
        console.print("warning: that may not be enough", style="yellow")


def _range(probes: list[Probe]) -> tuple[float, float]:
    """The seconds of the shortest trial and of the longest, which need not be that of the largest network."""
    seconds = [held.trial_seconds for held in probes]
    return min(seconds), max(seconds)


def _bill(plan: Plan, rented: Cluster, left: int, probes: list[Probe]) -> str:
    """What the sweep costs on a cluster. Raise ClusterError or ResourcesError where no trial has room there."""
    resources = plan.space.resources
    share = resources.share(rented.totals(), plan.trials)
    request = {"CPU": float(resources.cpus or resources.processes), "GPU": share.gpus}
    besides = of_node(resources.accelerator, resources.memory_gib)
    if problem := rented.missing({**request, **besides}):
        raise ClusterError(problem)
    price = rented.highest_price
    rounds = math.ceil(left / share.concurrent)
    low, high = (rounds * seconds / 3600 * price for seconds in _range(probes))
    limits = [
        f"--hours {plain(hours)} at most {hours * price:.2f}" for hours in [plan.budget.hours] if hours is not None
    ]
    limits += [f"--max-cost {plain(plan.max_cost)} ends it there"] if plan.max_cost is not None else []
    return "; ".join(
        [
            f"{share.concurrent} trials at once, {price:.2f} an hour with all nodes and {rented.price:.2f} with none",
            f"{low:.2f} to {high:.2f} were a trial to take as long there as here",
            *limits,
        ]
    )


def probe(config: TrialConfig, dataset: Dataset) -> Probe:
    """Train a few steps and evaluate one batch."""
    import torch

    from cpcnn_core import environment, evaluate
    from cpcnn_core.checkpoint import KEPT_STATES
    from cpcnn_core.precision import whole_float32
    from cpcnn_core.train import Run, peak_memory

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    environment.forget_launchers()
    with tempfile.TemporaryDirectory(prefix="cpcnn-probe-") as folder, whole_float32():
        accelerator = environment.accelerator(anew=True)
        run = Run(config.with_settings({"eval.fid_every": 0}), dataset, Path(folder), accelerator)
        size = config.train.batch_size
        chosen = torch.arange(size, device=run.device)
        run.optimize(chosen)
        step = _seconds(run, lambda: [run.optimize(chosen) for _ in range(_STEPS)]) / _STEPS
        images = evaluate.fixed_subset(dataset.validation, min(config.eval.batch_size, len(dataset.validation)), 0)

        def evaluating() -> None:
            with suppress(LikelihoodError):  # of a network that diverges this soon; it took as long
                evaluate.evaluate(
                    run.model,
                    images,
                    run.log_prior,
                    batch_size=config.eval.batch_size,
                    bf16=config.eval.precision == "bf16",
                    accelerator=run.accelerator,
                )

        evaluated = len(dataset.validation) + len(run.train_subset)
        parameters = sum(each.numel() for each in run.model.parameters())
        weights = _BYTES * parameters
        state = weights * (3 + (config.train.ema_decay is not None))  # the network, Adam's two moments, the average
        predictions = 8 * len(dataset.validation) * (dataset.nr_classes + 2)
        return Probe(
            config,
            parameters,
            peak_memory(run.device),
            step * run.steps_per_epoch + _seconds(run, evaluating) * evaluated / len(images),
            _kept_weights(config) * weights + KEPT_STATES * state + config.train.epochs * predictions,
        )


def _kept_weights(config: TrialConfig) -> int:
    """Of how many epochs the weights are kept at most: the best by each metric that is measured, and the last."""
    from cpcnn_core.checkpoint import KEPT_BEST_BY
    from cpcnn_core.metrics import OF_IMAGES

    measured = KEPT_BEST_BY.keys() - (frozenset() if config.eval.fid_every else OF_IMAGES)
    return min(config.train.epochs, len(measured) + 1)


def _describe(console: Console, plan: Plan, share: Share, left: int) -> None:
    size = plan.space.size
    count = "infinitely many" if math.isinf(size) else f"{int(size):,}"
    vary = ", ".join(plan.space.searched) or "nothing"
    console.print(f"{plan.space.source}: {count} configurations; what varies: {vary}", soft_wrap=True, highlight=False)
    there = "" if left == plan.trials else f" ({left} of them to run)"
    console.print(
        f"{plan.trials} trials{there} into {plan.store.folder}, {share.concurrent} at once, each with {share.cpus} "
        f"cores and {share.gpus:g} GPUs",
        soft_wrap=True,
        highlight=False,
    )


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
    held = [{key: value for key, value in config.model if type(value) is int} for config in configs]
    shared = sorted(set.intersection(*(set(sizes) for sizes in held)))
    sized = [([sizes[key] for key in shared], config) for config, sizes in zip(configs, held, strict=True)]
    ends: list[TrialConfig] = []
    for way in _WAYS:
        front = pareto_front(sized, lambda item: item[0], [way] * len(shared))
        ends += [config for _, config in front if not any(config is other for other in ends)]
    return ends


def _machine() -> dict[str, float]:
    """What Ray would find here, without starting it."""
    import torch

    return {"CPU": float(cores()), "GPU": float(torch.cuda.device_count())}


def _ended(plan: Plan) -> int:
    if not plan.store.trials_folder.is_dir():
        return 0
    sweep = plan.store.read_sweep() or {}
    rows = [row for row in plan.store.latest_attempts().rows() if asks_for(sweep, row)]
    return sum(meaning_of(row["state"]).ended for row in rows)


def _free(results: Path) -> int:
    there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _seconds(run: Run, work: Callable[[], object]) -> float:
    run.wait()  # for what was asked for before
    begun = time.perf_counter()
    work()
    run.wait()
    return time.perf_counter() - begun


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
