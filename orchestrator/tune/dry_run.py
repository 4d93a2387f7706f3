"""What a sweep would cost, before it is begun: its trials, their sizes, hours and disk, from a probe of a few steps."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.choosing.asked import asks_for
from orchestrator.machines import cluster_file
from orchestrator.machines.cluster import Cluster, ClusterError
from orchestrator.machines.cluster import extra_resources as of_node
from orchestrator.machines.resources import Share
from orchestrator.records.location import Folder, RemotePath
from orchestrator.records.provenance import cores
from orchestrator.records.states import meaning_of
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text.formatting import plain
from orchestrator.training import trainer
from orchestrator.tune import packing, probing
from orchestrator.views.board import Board, Column, Rank
from orchestrator.views.progress import duration, settings

if TYPE_CHECKING:
    from orchestrator.tune.plan import Plan


def show(console: Console, plan: Plan, cluster: Path | None = None) -> None:
    """Print the plan, and what it costs on the cluster of a file. Raise what `sweep` would raise for bad input."""
    rented = None if cluster is None else cluster_file.cluster(cluster)  # before a probe is spent
    dataset = trainer.dataset(plan.space.default().data)
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
    share = resources.share(machine, plan.trials)
    trainer.set_threads(share.cpus)
    smallest, largest = probing.extremes(plan.space.extremes(), dataset)
    probed = {config.model.model_dump_json(): config for config in (smallest, largest)}
    probes = [probing.probe(config, dataset) for config in probed.values()]
    left = max(0, plan.trials - _ended(plan))
    _describe(console, plan, share, left)
    console.print(_table(plan, probes), soft_wrap=True)
    if not left:
        console.print("Every trial has ended; nothing is left to run.")
        return
    console.print(f"time: {_time(plan, share, left, probes)}", highlight=False)
    if rented is not None:
        console.print(f"{cluster}: {_bill(plan, rented, left, probes)}", highlight=False, soft_wrap=True)
    _show_disk(console, plan.results, left * max(probe.disk_bytes for probe in probes))


def _table(plan: Plan, probes: list[probing.Probe]) -> Board:
    """What the smallest and the largest network take."""
    configurations = [probe.config for probe in probes]
    columns = [
        Column("configuration", ["smallest", "largest"] if len(probes) > 1 else ["all"], Rank.ALWAYS),
        Column("parameters", [f"{probe.parameters:,}" for probe in probes], is_number=True),
        Column("peak memory", [_size(probe.memory_bytes) for probe in probes], Rank.VALUE, is_number=True),
        Column("an epoch", [duration(probe.epoch_seconds) for probe in probes], Rank.ALWAYS, is_number=True),
        Column("a trial", [duration(probe.trial_seconds) for probe in probes], Rank.ALWAYS, is_number=True),
        Column("disk", [_size(probe.disk_bytes) for probe in probes], is_number=True),
        Column("settings", [settings(config, plan.space.searched) for config in configurations], Rank.LAST, below=""),
    ]
    return Board(None, columns, names=("configuration",))


def _time(plan: Plan, share: Share, left: int, probes: list[probing.Probe]) -> str:
    """From how long to how long the trials that are left take on this machine."""
    rounds = math.ceil(left / share.concurrent)
    low, high = (rounds * seconds for seconds in _range(probes))
    limit = "" if plan.budget.hours is None else f"; --hours ends it after {plain(plan.budget.hours)} h"
    drawing = ", and drawing images for FID comes on top" if plan.space.default().eval.fid_every else ""
    return (
        f"{duration(low)} to {duration(high)} if no trial is stopped early (scheduler {plan.space.schedule.name})"
        f"{drawing}{limit}"
    )


def _show_disk(console: Console, results: Folder, most: float) -> None:
    """Print what the trials that are left write, and whether there is room for it."""
    if isinstance(results, RemotePath):
        console.print(f"storage: at most {_size(most)} at {results}", highlight=False)
        return
    free = _free(results)
    console.print(f"disk: at most {_size(most)}; {_size(free)} are free at {results}", highlight=False)
    if most > free:
        console.print("warning: that may not be enough", style="yellow")


def _range(probes: list[probing.Probe]) -> tuple[float, float]:
    """The seconds of the shortest trial and of the longest, which need not be that of the largest network."""
    seconds = [probe.trial_seconds for probe in probes]
    return min(seconds), max(seconds)


def _bill(plan: Plan, rented: Cluster, left: int, probes: list[probing.Probe]) -> str:
    """What the sweep costs on a cluster. Raise ClusterError or ResourcesError where no trial has room there."""
    resources = plan.space.resources
    share = resources.share(rented.totals(), plan.trials)
    request = {"CPU": float(resources.cpus or resources.processes), "GPU": share.gpus}
    extra = of_node(resources.accelerator, resources.memory_gib)
    if problem := rented.missing({**request, **extra}):
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
    there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
