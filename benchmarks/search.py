"""How fast each way of searching finds a good configuration: recorded learning curves, replayed on a simulated clock.

    python -m benchmarks.search [--seeds 50] [--workers 4] [--trials 64] [--method tpe --method random]

`benchmarks.record_curves` made the table. A replayed sweep asks the same study that a real one asks, and each epoch
takes the CPU seconds that it took when it was recorded; several workers run at once. The regret at a time is the best
validation accuracy in the whole table, less the best that the sweep has seen by then. Intervals are those of the mean
over seeds, 95%. The last column says after what share of the budget the mean regret is no more than that of random
search at its end. The budget is the time in which the workers could train `--trials` average configurations to their
last epoch.
"""

from __future__ import annotations

import heapq
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from optuna.storages import InMemoryStorage
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.figure import Asked, Figure
from benchmarks.record_curves import SPACE, TABLE, Epoch, Key, key_of, read
from cpcnn_core.config import TrialConfig
from orchestrator.records.store import Store
from orchestrator.search.scheduler import Scheduler, Stopped
from orchestrator.search.scheduling import Schedule
from orchestrator.search.study import Study, Suggestion

SHARES = (0.05, 0.1, 0.2, 1 / 3, 0.5, 0.75, 1.0)  # of the budget, at which the regret is shown
START_SECONDS = 0.5  # what a trial costs before its first epoch

Curves = Mapping[Key, Sequence[Epoch]]
Trace = list[tuple[float, float]]
"""When the best accuracy so far rose, and to what."""


@dataclass(frozen=True)
class Method:
    """A way of searching: a sampler, and who stops trials early; or a way of its own."""

    sampler: str
    scheduler: str = "none"
    top: int | None = None  # train every configuration for one epoch, and so many of the best to the end


METHODS: dict[str, Method] = {
    "random": Method("random"),
    "grid": Method("grid"),
    "tpe": Method("tpe"),
    "random + asha": Method("random", "asha"),
    "tpe + asha": Method("tpe", "asha"),
    "tpe + promote": Method("tpe", "promote"),
    "one epoch, then the top 4": Method("random", top=4),  # Bohdal et al. 2023
    "one epoch, then the top 16": Method("random", top=16),
}


class Clock:
    """Workers that are busy until some moment of simulated time."""

    def __init__(self, workers: int) -> None:
        self._free = [(0.0, worker) for worker in range(workers)]
        heapq.heapify(self._free)

    def next_free(self) -> tuple[float, int]:
        """The worker that is free first, and when; it has to be given back by `busy_until`."""
        return heapq.heappop(self._free)

    def busy_until(self, moment: float, worker: int) -> None:
        heapq.heappush(self._free, (moment, worker))

    @property
    def is_idle(self) -> bool:
        return not self._free


def replay(method: Method, curves: Curves, *, seed: int, workers: int, budget: float) -> Trace:
    """One simulated sweep of so many seconds."""
    if method.top is not None:
        return _one_epoch_then_top(curves, method.top, seed=seed, workers=workers, budget=budget)
    with tempfile.TemporaryDirectory(prefix="cpcnn-replay-") as folder:
        store = Store(Path(folder))
        store.create()
        space = replace(SPACE, sampler=method.sampler)
        study = Study(space, store, seed=seed, trials=len(curves) + 1_000_000, storage=InMemoryStorage())
        scheduler = Schedule(name=method.scheduler).scheduler(space.default().train.epochs)
        return _sweep(study, curves, scheduler, workers, budget)


@dataclass(frozen=True)
class _Paused(Stopped):
    """A trial that the scheduler stopped, and may let go on."""

    config: TrialConfig


def _sweep(study: Study, curves: Curves, scheduler: Scheduler, workers: int, budget: float) -> Trace:
    trace: Trace = []
    clock = Clock(workers)
    running: dict[int, tuple[Suggestion, int]] = {}  # by worker: the trial, and how many epochs it has finished
    paused: dict[str, _Paused] = {}
    while not clock.is_idle:
        now, worker = clock.next_free()
        if now > budget:
            break
        if worker in running:
            suggestion, finished = running[worker]
            curve, trial = curves[key_of(suggestion.config)], suggestion.config.trial_id
            epoch, finished = curve[finished], finished + 1
            _saw(trace, now, epoch.val_acc)
            study.report(suggestion.number, epoch.row())
            scheduler.observe(trial, finished, SPACE.objective.keys(epoch.row()))
            stops = finished < len(curve) and scheduler.stops(trial, finished) is not None
            if not stops and finished < len(curve):
                running[worker] = suggestion, finished
                clock.busy_until(now + curve[finished].cpu_seconds, worker)
                continue
            best = SPACE.objective.best([epoch.row() for epoch in curve[:finished]])
            study.end(suggestion.number, "PRUNED" if stops else "COMPLETE", best)
            if stops:
                paused[trial] = _Paused(finished, suggestion.config)
            del running[worker]
        suggested = (
            _reopened(study, scheduler, paused, nothing_new=False)
            or _next_recorded(study, curves)
            or _reopened(study, scheduler, paused, nothing_new=True)
        )
        if suggested is None:
            continue  # the space is exhausted, and the worker stays idle
        again = paused.pop(suggested.config.trial_id, None)
        curve, finished = curves[key_of(suggested.config)], 0 if again is None else again.epochs
        for epoch in curve[:finished]:  # a trial that goes on has a number of its own
            study.report(suggested.number, epoch.row())
        running[worker] = suggested, finished
        clock.busy_until(now + START_SECONDS + curve[finished].cpu_seconds, worker)
    return trace


def _reopened(
    study: Study, scheduler: Scheduler, paused: Mapping[str, _Paused], *, nothing_new: bool
) -> Suggestion | None:
    trial = scheduler.resumes(paused, nothing_new=nothing_new)
    return None if trial is None else study.reopen(paused[trial].config)


def _next_recorded(study: Study, curves: Curves) -> Suggestion | None:
    """The next suggestion that has a curve; those without one, while the table is not complete, fail at no cost."""
    while (suggestion := study.next()) is not None:
        if key_of(suggestion.config) in curves:
            return suggestion
        study.end(suggestion.number, "FAILED", None)
    return None


def _one_epoch_then_top(curves: Curves, top: int, *, seed: int, workers: int, budget: float) -> Trace:
    """As many random configurations for one epoch as leave time to train the best of them to the end.

    Bohdal et al. 2023 found this hard to beat.
    """
    keys = sorted(curves, key=repr)
    np.random.default_rng(seed).shuffle(keys)
    rest = statistics.mean(sum(epoch.cpu_seconds for epoch in curve[1:]) for curve in curves.values())
    first_phase = budget - math.ceil(top / workers) * rest
    trace: Trace = []
    clock = Clock(workers)
    tried: list[Key] = []
    ends: list[float] = []
    for key in keys:
        now, worker = clock.next_free()
        end = now + START_SECONDS + curves[key][0].cpu_seconds
        if end > first_phase:
            clock.busy_until(now, worker)
            break
        clock.busy_until(end, worker)
        tried.append(key)
        ends.append(end)
        _saw(trace, end, curves[key][0].val_acc)
    best = sorted(tried, key=lambda key: -curves[key][0].val_acc)[:top]
    for key in best:
        now, worker = clock.next_free()
        now = max(now, *ends)  # the choice is made once all have had their epoch
        for epoch in curves[key][1:]:
            now += epoch.cpu_seconds
            if now <= budget:
                _saw(trace, now, epoch.val_acc)
        clock.busy_until(now, worker)
    return _rising(trace)


def _saw(trace: Trace, now: float, value: float) -> None:
    if not trace or value > trace[-1][1]:
        trace.append((now, value))


def _rising(trace: Trace) -> Trace:
    """The trace in the order of time; workers were followed one after another."""
    rising: Trace = []
    for now, value in sorted(trace):
        _saw(rising, now, value)
    return rising


def regrets(trace: Trace, best: float, moments: Sequence[float]) -> list[float]:
    """The regret at each moment; before anything was seen it is all of `best`."""
    found = []
    for moment in moments:
        seen = [value for now, value in trace if now <= moment]
        found.append(best - (seen[-1] if seen else 0.0))
    return found


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95% interval."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.mean(values), 1.96 * spread / math.sqrt(len(values))


def time_to(mean_regret: Sequence[float], moments: Sequence[float], target: float) -> float | None:
    """The first moment at which the mean regret is at most `target`."""
    return next((moment for moment, value in zip(moments, mean_regret, strict=True) if value <= target), None)


def figures(asked: Asked) -> list[Figure]:
    """The regret at the end of the budget, and when it is as small as random search's at its end."""
    curves, workers, trials = read(TABLE), 4, 64
    whole = statistics.mean(sum(epoch.cpu_seconds for epoch in curve) + START_SECONDS for curve in curves.values())
    budget = trials * whole / workers
    best = max(epoch.val_acc for curve in curves.values() for epoch in curve)
    moments = np.linspace(0, budget, 301)[1:].tolist()
    means = {}
    for name in ("random", "tpe + asha"):
        traces = [
            replay(METHODS[name], curves, seed=seed, workers=workers, budget=budget)
            for seed in range(5 if asked.short else 50)
        ]
        of_seeds = [regrets(trace, best, moments) for trace in traces]
        means[name] = [statistics.mean(values) for values in zip(*of_seeds, strict=True)]
    random_end = means["random"][-1]
    reached = time_to(means["tpe + asha"], moments, random_end)
    return [
        Figure("regret of tpe + asha", means["tpe + asha"][-1] / random_end, "random search", "smaller"),
        Figure(
            "time of tpe + asha",
            math.inf if reached is None else reached / budget,
            "random search, to the same regret",
            "smaller",
        ),
    ]


def main(
    seeds: Annotated[int, typer.Option(min=2)] = 50,
    workers: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 4,
    trials: Annotated[int, typer.Option(min=1, help="The budget, in average whole trials.")] = 64,
    method: Annotated[list[str] | None, typer.Option(help="One of the methods; all of them.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that replay at a time.")] = 1,
    table: Annotated[Path, typer.Option()] = TABLE,
) -> None:
    """Replay all methods on all seeds."""
    console = Console(width=200)
    curves = read(table)
    if len(curves) < workers:
        console.print(f"{table} holds {len(curves)} curves; `python -m benchmarks.record_curves` records them")
        raise typer.Exit(2)
    for name in method or ():
        if name not in METHODS:
            console.print(f"--method {name}: there are {', '.join(METHODS)}")
            raise typer.Exit(2)
    whole = statistics.mean(sum(epoch.cpu_seconds for epoch in curve) + START_SECONDS for curve in curves.values())
    budget = trials * whole / workers
    best = max(epoch.val_acc for curve in curves.values() for epoch in curve)
    console.print(
        f"{len(curves)} of {SPACE.size:.0f} configurations recorded; the best val_acc is {best:.4f}; "
        f"{workers} workers for {budget:.0f} simulated seconds, {seeds} seeds"
    )
    moments = np.linspace(0, budget, 301)[1:].tolist()
    shown = Table(
        title="regret (validation accuracy) after a share of the budget, and its 95% interval", box=SIMPLE_HEAD
    )
    for column in ("method", *(f"{share:.0%}" for share in SHARES), "as good as random at"):
        shown.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    of_method: dict[str, list[list[float]]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for name in dict.fromkeys(("random", *(method or METHODS))):
            one = partial(replay, METHODS[name], curves, workers=workers, budget=budget)
            replays = [pool.submit(one, seed=seed) for seed in range(seeds)]
            ended = track(as_completed(replays), description=name, total=seeds, console=console)
            of_method[name] = [regrets(future.result(), best, moments) for future in ended]
            mean, half = mean_interval([regret[-1] for regret in of_method[name]])
            console.print(f"{name}: {mean:.4f} ± {half:.4f} at the end", style="dim")
    last = statistics.mean(regret[-1] for regret in of_method["random"])
    for name, found in of_method.items():
        columns = list(zip(*found, strict=True))
        cells = []
        for share in SHARES:
            mean, half = mean_interval(columns[min(len(moments), math.ceil(share * len(moments))) - 1])
            cells.append(f"{mean:.4f} ± {half:.4f}")
        reached = time_to([statistics.mean(column) for column in columns], moments, last)
        shown.add_row(name, *cells, "never" if reached is None else f"{reached / budget:.0%}")
    console.print(shown)


if __name__ == "__main__":
    typer.run(main)
