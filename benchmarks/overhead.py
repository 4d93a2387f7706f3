"""`python -m benchmarks.overhead`: what a sweep costs beside the training itself.

First the time from one trial's end to the next one's first step, the process warm, of our driver and of a plain Tune
sweep in the same run. Then, without Ray, what the driver does for each suggestion, each reported epoch and each whole
trial, and its memory, in one sweep of simulated trials of 5 epochs: 1,000 of them (--full: 10,000), 8 at a time
(--at-once), with a row after 100, 300, 1,000 and so on. Processor time, so that other work on the machine and the
disk's pace stay out of it; for an epoch also by the clock. --known N begins with a study of N finished trials, in
memory: what a trial costs after them, without running them, and without the study's file, which takes the same at any
size. Last, what a suggestion writes into that file, by each of SQLite's journals; decision 32 in
docs/decisions.md follows from it.
"""

from __future__ import annotations

import random
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated
from unittest import mock

import typer
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from rich.console import Console
from rich.table import Table

from benchmarks.figure import Asked, Figure
from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import Objective
from orchestrator.records.location import Folder
from orchestrator.records.provenance import cores
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.search import study_file
from orchestrator.search.ledger import Ledger
from orchestrator.search.space import SearchSpace, at_random
from orchestrator.search.study import Recorded, Study
from orchestrator.search.study_file import StudyFile
from orchestrator.training.trainer import OnProgress, Preempted, Score
from orchestrator.tune import driver, local_ray
from orchestrator.tune.plan import Plan
from orchestrator.views.progress import Progress
from search_spaces import choice, floats, ints

JOURNALS = {
    "write-ahead log": ("journal_mode = wal", "synchronous = normal"),
    "truncated journal": ("journal_mode = truncate", "synchronous = normal"),
    "truncated journal, as on a shared disk": ("journal_mode = truncate", "synchronous = full"),
    "truncated journal, no fsync": ("journal_mode = truncate", "synchronous = off"),
}
NODES = 8
EPOCHS = 5
LATEST = 100  # trials over which the costs at some moment are averaged
MARKS = (100, 300, 1000, 3000, 10_000)
SPACE = SearchSpace(
    "benchmarks.overhead",
    "",
    {
        "model.fusion": choice("none", "stem_add", "block_mild", "block_film"),
        "model.nr_resnet": ints(1, 4),
        "model.nr_filters": ints(8, 256),
        "train.lr": floats(1e-4, 1e-2, log=True),
        "model.dropout": floats(0.0, 0.9),
    },
    {"train.epochs": EPOCHS, "seed": 0},
    16,
    Objective("val_acc", "max"),
)


def train(
    config: TrialConfig,
    store: Store,
    *,
    reported: int,
    on_progress: OnProgress | None = None,  # noqa: ARG001 - a Trainer's
    score: Score | None = None,  # noqa: ARG001
    preempted: Preempted = lambda: False,  # noqa: ARG001
) -> Iterator[EpochMetrics]:
    """A Trainer that takes no time, and notes when it begins and when its last epoch is done."""
    _note(store.folder)
    for epoch in range(reported + 1, config.train.epochs + 1):
        if epoch == config.train.epochs:
            _note(store.folder)  # nobody asks for more, so that nothing after the last epoch would run
        yield measured(config, epoch)


def measured(config: TrialConfig, epoch: int) -> EpochMetrics:
    """Some metrics that depend on the configuration."""
    known = {"epoch": epoch, "step": epoch, "kept_epochs": [epoch], "extra": {}, "peak_memory_bytes": 0, "seconds": 0.0}
    value = 1 / (1 + abs(config.train.lr - 3e-3) * 1000) * (1 - 0.5 / epoch) / (1 + config.model.dropout)
    return EpochMetrics.from_record(known | {"val_acc": value, "val_bpd": 1 - value})


def _note(folder: Folder) -> None:
    assert isinstance(folder, Path)
    with (folder / "times.txt").open("a") as stream:
        stream.write(f"{time.time()}\n")


def gaps(folder: Folder) -> list[float]:
    """Seconds from the end of each trial to the next one's first step, the first pair apart: its process was cold."""
    times = [float(line) for line in (folder / "times.txt").read_text().split()]
    starts, ends = times[::2], times[1::2]
    return [start - end for end, start in zip(ends, starts[1:], strict=False)][1:]


def ours(folder: Path, trials: int, available: int) -> list[float]:
    """Our driver, one trial at a time, of one epoch."""
    space = replace(SPACE, settings={"train.epochs": 1, "seed": 0}, resources=Resources(cpus=available, gpus=0))
    plan = Plan("ours", space, folder, trials, trainer="benchmarks.overhead:train")
    with Progress(Console(quiet=True), space.objective, space.searched, total=trials) as view:
        driver.run(plan, view)
    return gaps(plan.store.folder)


def plain(folder: Path, trials: int, available: int) -> list[float]:
    """A plain Tune sweep of the same: an actor per trial."""
    folder.mkdir()
    with local_ray.started():
        from ray import tune

        class Plain(tune.Trainable):  # type: ignore[misc]
            def step(self) -> dict[str, object]:
                import torch

                torch.set_num_threads(1)
                _note(folder)
                _note(folder)
                return {"val_acc": 0.5, "done": True}

        tune.run(
            tune.with_resources(Plain, {"cpu": available}),
            num_samples=trials,
            storage_path=str(folder / "tune"),
            verbose=0,
        )
    return gaps(folder)


@dataclass
class Costs:
    """Of a simulated sweep so far: processor seconds of each suggestion, each reported epoch and each whole trial."""

    suggestions: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    epochs_by_clock: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)  # processor seconds of the process at each trial's end

    def row(self, base: int) -> list[str]:
        """The table's row: means over the latest hundred trials, and the memory beyond `base` bytes."""
        last = self.ended[-LATEST:]
        whole = (last[-1] - last[0]) / (len(last) - 1)
        means = (
            statistics.mean(held[-LATEST * per :])
            for held, per in ((self.epochs, EPOCHS), (self.epochs_by_clock, EPOCHS), (self.suggestions, 1))
        )
        times = (f"{1e3 * value:.0f}" for value in (*means, whole))
        return [f"{len(self.ended):,}", f"{len(self.epochs):,}", *times, f"{(_memory() - base) / 2**20:.0f}"]


def simulated(folder: Path, trials: int, known: int = 0, at_once: int = NODES) -> Iterator[Costs]:
    """The costs so far, after each of the simulated trials has ended; the study has heard of `known` others."""
    store = Store(folder)
    store.create()
    # A file would take 40 ms for each of the known ones.
    study = Study(SPACE, store, seed=0, trials=trials, storage=InMemoryStorage() if known else None)
    view = Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=trials)
    ledger = Ledger(study, store, SPACE.objective, view, SPACE.schedule.scheduler(EPOCHS))
    study.learn(finished(known))
    place = Place("simulated", "cpu", 1)
    costs = Costs()
    running: list[tuple[int, TrialConfig, int]] = []
    while True:
        while len(running) < at_once:
            at = time.process_time()
            suggestion = ledger.suggest()
            if suggestion is None:
                break
            costs.suggestions.append(time.process_time() - at)
            ledger.started(suggestion.number)
            running.append((suggestion.number, suggestion.config, 1))
        if not running:
            break
        number, config, epoch = running.pop(0)
        at, by_clock = time.process_time(), time.perf_counter()
        stops = ledger.epoch(number, measured(config, epoch), place)
        costs.epochs.append(time.process_time() - at)
        costs.epochs_by_clock.append(time.perf_counter() - by_clock)
        if stops or epoch == EPOCHS:
            ledger.ended(number, None)
            costs.ended.append(time.process_time())
            yield costs
        else:
            running.append((number, config, epoch + 1))
    study.close()
    if ledger.fatal is not None:
        raise ledger.fatal


def of_journals(folder: Path, suggestions: int = 40) -> dict[str, list[float]]:
    """Seconds by the clock of what each suggestion writes into a study's file, by journal, taken in turns."""
    tuned = {}
    for name, pragmas in JOURNALS.items():

        def tune(connection: sqlite3.Connection, _: object, pragmas: tuple[str, ...] = pragmas) -> None:
            for pragma in pragmas:
                connection.execute(f"pragma {pragma}")

        with mock.patch.object(study_file, "_write_ahead", tune):
            held = StudyFile(folder / f"{name}.db")
            tuned[name] = held, held.create_new_study([StudyDirection.MAXIMIZE], name)
    found: dict[str, list[float]] = {name: [] for name in JOURNALS}
    for _ in range(suggestions):
        for name, (held, study) in tuned.items():
            at = time.perf_counter()
            trial = held.create_new_trial(study)
            for field_name in SPACE.fields:
                held.set_trial_param(trial, field_name, 0.5, FloatDistribution(0, 1))
            held.set_trial_user_attr(trial, "trial_id", "x")
            found[name].append(time.perf_counter() - at)
    for held, _study in tuned.values():
        held.close()
    return found


def finished(count: int) -> Iterator[tuple[str, Recorded]]:
    """Trials that have ended, as a study hears of those of an earlier sweep."""
    rng = random.Random(0)
    for number in range(count):
        config = SPACE.configure(at_random(rng))
        row = {"trial_id": config.trial_id, "state": "COMPLETE"}
        epochs = [measured(config, epoch).row() for epoch in range(1, EPOCHS + 1)]
        params = SPACE.params_of(config)
        assert params is not None
        yield str(number), Recorded.of(config, row, epochs, params, SPACE.objective)


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def figures(asked: Asked) -> list[Figure]:
    """The gap between trials, and the journal of the study's file."""
    with tempfile.TemporaryDirectory(prefix="cpcnn-overhead-") as name:
        folder, trials = Path(name), 4 if asked.short else 8
        own = statistics.median(ours(folder / "ours", trials, cores()))
        tune = statistics.median(plain(folder / "plain", trials, cores()))
        writes = {journal: statistics.median(times) for journal, times in of_journals(folder).items()}
    journal = writes["truncated journal"] / writes["write-ahead log"]
    return [
        Figure("from a trial's end to the next one's first step", own / tune, "plain Ray Tune", "smaller"),
        Figure("writing a suggestion", journal, "the truncated journal"),
    ]


def main(
    trials: Annotated[int, typer.Option(min=0, help="Real trials of each kind; 0: none.")] = 8,
    full: Annotated[bool, typer.Option("--full", help="10,000 simulated trials instead of 1,000.")] = False,
    known: Annotated[int, typer.Option(min=0, help="Put so many trials into the study first, and simulate 100.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, help="How many simulated trials run at once.")] = NODES,
) -> None:
    """Print the tables."""
    if 0 < trials < 4:
        raise typer.BadParameter("the first gaps are not counted: at least 4, or 0 for none", param_hint="--trials")
    console = Console(width=120)
    available = cores()
    with tempfile.TemporaryDirectory(prefix="cpcnn-overhead-") as folder:
        if trials:
            table = Table("from a trial's end to the next one's first step", "trials", "median s", "least s", "most s")
            for name, run in (("ours", ours), ("plain Tune", plain)):
                found = run(Path(folder) / name.replace(" ", "-"), trials, available)
                table.add_row(name, str(trials), *(f"{f(found):.2f}" for f in (statistics.median, min, max)))
            console.print(table)
        list(simulated(Path(folder) / "warm", NODES))  # what is imported on the way is no cost of a trial
        base = _memory()
        table = Table(
            "simulated trials", "epochs", "ms an epoch", "by the clock", "a suggestion", "a trial", "MiB more"
        )
        count = LATEST if known else 10_000 if full else 1000
        for costs in simulated(Path(folder) / "simulated", count, known, at_once):
            if len(costs.ended) in MARKS:
                table.add_row(*costs.row(base))
                console.print(*costs.row(base), style="dim")
        console.print(table)
        table = Table("what a suggestion writes into the study's file, by the clock", "median ms", "least ms")
        for name, seconds in of_journals(Path(folder)).items():
            table.add_row(name, *(f"{1e3 * f(seconds):.0f}" for f in (statistics.median, min)))
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
