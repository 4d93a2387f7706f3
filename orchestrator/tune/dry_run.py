"""What a sweep would cost, before it is begun: its trials, their sizes, hours and disk, from a probe of a few steps."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console

from cpcnn_core import files
from cpcnn_core.config import TrialConfig
from orchestrator.choosing.asked import asks_for
from orchestrator.choosing.finalists import FINALISTS
from orchestrator.exporting import pictures
from orchestrator.machines import cluster_file, launch
from orchestrator.machines.cluster import Cluster, ClusterError
from orchestrator.machines.cluster import extra_resources as of_node
from orchestrator.machines.resources import Share
from orchestrator.records.location import Folder, RemotePath
from orchestrator.records.provenance import cores
from orchestrator.records.states import meaning_of
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text.formatting import plain
from orchestrator.training import trainer
from orchestrator.tune import forecast, local_ray, packing, probing, rehearsal
from orchestrator.views.board import Board, Column, Rank
from orchestrator.views.progress import duration, settings

if TYPE_CHECKING:
    from cpcnn_core.data import Dataset
    from orchestrator.search.space import SearchSpace
    from orchestrator.tune.plan import Plan


Doing: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Says what takes a while, for as long as it takes."""


@dataclass(frozen=True)
class Estimate:
    """What was measured here, and the trials that are left."""

    space: SearchSpace
    probes: list[probing.Probe]  # of the median configuration, and of the largest where time sufficed
    loads: list[forecast.Load]  # configurations that the search may draw
    largest: forecast.Load
    left: int
    start_seconds: float  # of this command, of Ray and of the first processes

    @property
    def end_seconds(self) -> float:
        """What drawing the finalists' images for the report takes, after the last trial."""
        return min(pictures.SECONDS, min(FINALISTS, self.left) * max(probe.pictures_seconds for probe in self.probes))

    def forecast(self, places: int, *, stopped: bool) -> forecast.Forecast:
        """What the trials take at so many places, with as many `stopped` early as the scheduler may, or none."""
        epochs: Sequence[int | None] = [None] * self.left
        if stopped:
            epochs = forecast.stopped_epochs(self.space.schedule, self.space.epochs, self.left)
        known, last = self.probes[0], self.probes[-1]
        median = forecast.Measured(self.loads[len(self.loads) // 2], known.begin_seconds, known.epoch_seconds)
        largest = forecast.Measured(self.largest, last.begin_seconds, last.epoch_seconds)
        if len(self.probes) == 1 and median.load.work:  # as if time grew with the work
            more = max(1.0, self.largest.work / median.load.work)
            largest = forecast.Measured(self.largest, known.begin_seconds, known.epoch_seconds * more)
        return forecast.played(
            self.loads,
            median,
            largest,
            places=places,
            most_epochs=epochs,
            fixed_seconds=self.start_seconds + self.end_seconds,
        )


def show(
    console: Console, plan: Plan, cluster: Path | None = None, doing: Doing = lambda _: nullcontext()
) -> Estimate | None:
    """Print the plan, and what it costs on the cluster of a file. Raise what `sweep` would raise for bad input.

    None where nothing is left to run.
    """
    rented = None if cluster is None else cluster_file.cluster(cluster)  # before a probe is spent
    dataset = trainer.dataset(plan.space.default().data)
    with doing("Checking data and configurations"):
        trainer.check(plan.space.default())
        trainer.check_each(plan.space.extremes())
    resources, machine = plan.space.resources, _machine()
    if resources.packs and machine["GPU"]:
        cores_beside = machine["CPU"] / machine["GPU"] / (resources.cpus or 1)
        measured = packing.probe(plan.space, cores_beside, use_mps=resources.mps)
        resources = measured.packed(resources)
        console.print(measured.sentence(), highlight=False)
    resources, rounding = resources.rounded()
    if rounding is not None:
        console.print(rounding, highlight=False)
    left = max(0, plan.trials - _ended(plan))
    share = resources.share(machine, plan.trials)
    _describe(console, plan, share, left)
    if not left:
        console.print("Every trial has ended; nothing is left to run.")
        return None
    estimate = _estimate(plan.space, share, machine, left, dataset, doing)
    console.print(_table(plan, estimate.probes), soft_wrap=True)
    for line in [_scoring(estimate.probes, dataset), *_times(plan, estimate, share)]:
        console.print(line, highlight=False)
    if rented is not None:
        console.print(f"{cluster}: {_bill(plan, rented, estimate)}", highlight=False, soft_wrap=True)
    _show_disk(console, plan.results, left * max(probe.disk_bytes for probe in estimate.probes))
    return estimate


def _estimate(
    space: SearchSpace, share: Share, machine: Mapping[str, float], left: int, dataset: Dataset, doing: Doing
) -> Estimate:
    """Measure the median and the largest configuration in as many processes as the sweep runs at once, and Ray."""
    with doing("Drawing configurations"):
        loads = forecast.drawn(space, dataset)
        largest = max(forecast.load(packing.largest(space), dataset), loads[-1], key=lambda each: each.work)
        median = loads[len(loads) // 2]
    with doing("Starting Ray, to see how long it takes"):
        ray_seconds = _ray_seconds()
    now = replace(share, concurrent=min(share.concurrent, left))
    count = now.concurrent * space.resources.processes
    with doing(f"Measuring the median and the largest configuration, {count} at once, for at most {_SECONDS:.0f} s"):
        probes, ready = rehearse([median.config, largest.config], now, space.resources.processes, machine)
    # This command imported about what a trial's process does.
    return Estimate(space, probes, loads, largest, left, ray_seconds + 2 * ready)


def rehearse(
    configs: Sequence[TrialConfig], share: Share, processes: int, machine: Mapping[str, float]
) -> tuple[list[probing.Probe], float]:
    """What each takes, as far as there is time, and how long the processes took to start. Raise RehearsalError."""
    probes: list[probing.Probe] = []
    with rehearsal.started(share, processes, machine, _SECONDS) as trials:
        for config in configs[: 1 if all(each == configs[0] for each in configs) else None]:
            probe = trials.probe(config)
            if probe is None:
                break
            whole, scoring = probe.epoch_seconds / processes, probe.scoring_seconds / processes
            probes.append(replace(probe, epoch_seconds=whole, scoring_seconds=scoring))
        if not probes:
            raise rehearsal.RehearsalError(
                f"the median configuration could not be measured in {_SECONDS:.0f} s on this machine: it is too "
                "large for it, or the machine is too busy; a smaller space, as by --preset, can be measured"
            )
        return probes, trials.ready_seconds


def _ray_seconds() -> float:
    """What starting Ray takes; none where a cluster runs already."""
    if launch.cluster_address() is not None:
        return 0.0
    begun = time.monotonic()
    with local_ray.started():
        return time.monotonic() - begun


def _table(plan: Plan, probes: list[probing.Probe]) -> Board:
    """What the median and the largest configuration take."""
    configurations = [probe.config for probe in probes]
    columns = [
        Column("configuration", ["median", "largest"][: len(probes)], Rank.ALWAYS),
        Column("parameters", [f"{probe.parameters:,}" for probe in probes], is_number=True),
        Column("peak memory", [_size(probe.memory_bytes) for probe in probes], Rank.VALUE, is_number=True),
        Column("an epoch", [duration(probe.epoch_seconds) for probe in probes], Rank.ALWAYS, is_number=True),
        Column("of it scoring", [f"{probe.scoring_share:.0%}" for probe in probes], Rank.VALUE, is_number=True),
        Column("a trial", [duration(probe.trial_seconds) for probe in probes], Rank.ALWAYS, is_number=True),
        Column("disk", [_size(probe.disk_bytes) for probe in probes], is_number=True),
        Column("settings", [settings(config, plan.space.searched) for config in configurations], Rank.LAST, below=""),
    ]
    return Board(None, columns, names=("configuration",))


def _scoring(probes: Sequence[probing.Probe], dataset: Dataset) -> str:
    """How many images are scored, and how often: what their share of an epoch comes from."""
    asked, classes = probes[0].config.eval, dataset.nr_classes
    whole = len(dataset.validation)
    images = min(whole, asked.max_images or whole)
    of = "" if images == whole else f" of {whole:,}"
    train = min(asked.train_images, len(dataset.train))
    training = f" and {train:,} training" if train else ""
    often = "each epoch" if asked.every == 1 else f"every {asked.every} epochs and after the last"
    said = f"scoring: {images:,}{of} validation{training} images under {classes:,} classes, after {often}"
    if max(probe.scoring_share for probe in probes) <= _MUCH:
        return said
    return f"{said}; eval.every, eval.max_images and eval.train_images make it less"


def _times(plan: Plan, estimate: Estimate, share: Share) -> list[str]:
    """From how long to how long the trials that are left take on this machine, and what that rests on."""
    places = min(share.concurrent, estimate.left)
    whole, least = (estimate.forecast(places, stopped=stopped) for stopped in (False, True))
    limit = "" if plan.budget.hours is None else f"; --hours ends it after {plain(plan.budget.hours)} h"
    name = plan.space.schedule.name
    lines = [f"time: {_between(whole.wall)} if no trial is stopped early (scheduler {name}){limit}"]
    stops = least.wall.high < whole.wall.high
    if stops:
        lines.append(f"      {_between(least.wall)} if the scheduler stops as many as it may")
    low = least.trials.low if stops else whole.trials.low
    lines.append(f"trial-hours: {low / 3600:.2g} to {whole.trials.high / 3600:.2g}")
    steps = " and ".join(str(probe.steps) for probe in estimate.probes)
    missing = (
        ""
        if len(estimate.probes) > 1 or estimate.largest.work <= estimate.loads[-1].work
        else ("; there was no time for the largest, which is taken to be slower by its parameters")
    )
    lines.append(
        f"This rests on {steps} steps, some evaluation and some images, with {places} trials at once; on the start of "
        f"Ray and of processes ({duration(estimate.start_seconds)}); on the report's pictures at the end "
        f"({duration(estimate.end_seconds)}); and on {len(estimate.loads)} configurations drawn "
        f"at random{missing}. It supposes a machine as busy as now."
    )
    return lines


def _between(interval: forecast.Interval) -> str:
    return f"{duration(interval.low)} to {duration(interval.high)}"


def _show_disk(console: Console, results: Folder, most: float) -> None:
    """Print what the trials that are left write, and whether there is room for it."""
    if isinstance(results, RemotePath):
        console.print(f"storage: at most {_size(most)} at {results}", highlight=False)
        return
    free = _free(results)
    console.print(f"disk: at most {_size(most)}; {_size(free)} are free at {results}", highlight=False)
    if most > free:
        console.print("warning: that may not be enough", style="yellow")


def _bill(plan: Plan, rented: Cluster, estimate: Estimate) -> str:
    """What the sweep costs on a cluster. Raise ClusterError or ResourcesError where no trial has room there."""
    resources = plan.space.resources
    share = resources.share(rented.totals(), plan.trials)
    request = {"CPU": float(resources.cpus or resources.processes), "GPU": share.gpus}
    extra = of_node(resources.accelerator, resources.memory_gib)
    if problem := rented.missing({**request, **extra}):
        raise ClusterError(problem)
    price = rented.highest_price
    whole, least = (estimate.forecast(share.concurrent, stopped=stopped).wall for stopped in (False, True))
    low, high = (seconds / 3600 * price for seconds in (min(least.low, whole.low), whole.high))
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


def _machine() -> dict[str, float]:
    """What Ray would find here, without starting it."""
    import torch

    return {"CPU": float(cores()), "GPU": float(torch.cuda.device_count())}


def _ended(plan: Plan) -> int:
    if not plan.store.trials_folder.is_dir():
        return 0
    sweep = plan.store.read_sweep() or SweepRecord()
    rows = [row for row in plan.store.latest_attempts().rows() if asks_for(sweep, row)]
    return sum(meaning_of(row["state"]).ended for row in rows)


def _free(results: Path) -> int:
    return shutil.disk_usage(files.nearest_folder(results)).free


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


_MUCH = 0.2  # of an epoch, for scoring


_SECONDS = 40.0  # in which the processes probe, once they have started
