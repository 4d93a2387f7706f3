"""Running a sweep from a program or a notebook."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from cpcnn_core.config import Scalar, TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.exporting import pictures
from orchestrator.objectives import words
from orchestrator.python.results import Results, load_results
from orchestrator.records import location
from orchestrator.records.errors import StoreError
from orchestrator.records.location import Folder
from orchestrator.search import shipped, space
from orchestrator.search.budget import Budget
from orchestrator.search.ledger import View, WatcherError
from orchestrator.search.settings import SpaceError
from orchestrator.search.space import SearchSpace
from orchestrator.text import names
from orchestrator.tune import driver
from orchestrator.tune.plan import Plan
from orchestrator.views.progress import Progress
from search_spaces import Distribution

OnEpoch = Callable[[TrialConfig, EpochMetrics], object]
"""Hears of each epoch that a trial has finished: the trial's configuration, and what was measured."""

_WAY_OUT = "give run_sweep(..., name=...) another name"


def run_sweep(
    asked: str | Path | Mapping[str, Distribution],
    *,
    name: str | None = None,
    results: str | Path | Folder = "results",
    trials: int | None = None,
    preset: str | None = None,
    settings: Mapping[str, Scalar] | None = None,
    objective: str | None = None,
    sampler: str | None = None,
    scheduler: str | None = None,
    seed: int = 0,
    hours: float | None = None,
    extend: bool = False,
    retry_failed: bool = False,
    on_epoch: OnEpoch | None = None,
    quiet: bool = False,
) -> Results:
    """Run a sweep, or go on with it where it stopped, as `cpcnn sweep` does; return its results once it has ended.

    `asked` is the name of a space that ships ("digits"), a space file, or the fields to vary, as
    `{"model.fusion": choice("none", "block_film")}`; the latter needs a `name`. `settings` fix fields of the
    configuration. The other arguments are the command's options, and None leaves them to the space. `on_epoch` is
    called in this process; what it raises ends the sweep, and the same call goes on with it. Progress is printed in
    lines unless `quiet`.

    Raise KeyboardInterrupt where Ctrl-C stopped it, and before any work SpaceError, StoreError, SweepError or what is
    wrong with the data.
    """
    if trials is not None and operator.index(trials) < 1:  # TypeError where it is a float
        raise SpaceError(f"trials: {trials}: expected a whole number of at least 1")
    if hours is not None and not hours > 0:
        raise SpaceError(f"hours: {hours}: expected a number above 0")
    folder = location.given(results)
    fixed = {**(settings or {})}
    name, said = _named(asked, name, preset, fixed)
    wanted = None if objective is None else words.read(objective)
    said = said.under(fixed, seed=seed, sampler=sampler, objective=wanted, said_by="settings: ").scheduled(scheduler)
    plan = Plan(
        name,
        said,
        folder,
        said.trials if trials is None else trials,
        seed,
        Budget(hours, None),
        extend=extend,
        retry_failed=retry_failed,
        way_out=_WAY_OUT,
    )
    console = Console(quiet=quiet)
    with Progress(console, said.objective, said.searched, total=plan.trials, plain=True) as view:
        try:
            outcome = driver.run(plan, view if on_epoch is None else _Telling(view, on_epoch))
        except WatcherError as error:
            raise error.__cause__ or error from None
    if outcome.interrupted:
        raise KeyboardInterrupt(f"stopped after {outcome.finished} of {plan.trials} trials; the same call goes on")
    pictures.draw_missing(plan.store, lambda text: console.print(text, soft_wrap=True, highlight=False))
    return load_results(folder, name)


def _named(
    asked: str | Path | Mapping[str, Distribution], name: str | None, preset: str | None, fixed: Mapping[str, Scalar]
) -> tuple[str, SearchSpace]:
    """The sweep's name and its space. Raise SpaceError, StoreError."""
    if isinstance(asked, Mapping):
        if name is None:
            raise SpaceError("name: a space without a file has none; give run_sweep(..., name=...)")
        if preset is not None:
            raise SpaceError(f"preset {preset}: only a space file has presets")
        said = space.of_fields(asked, fixed)
    else:
        file = shipped.asked(asked, Path(asked))
        name = shipped.sweep_name(file, preset) if name is None else name
        said = space.load(file, fixed, preset=preset)
    if (problem := names.problem(name)) is not None:
        raise StoreError(f"name {name!r}: {problem}")
    return name, said


class _Telling:
    """A view that passes on what another one shows, and tells of epochs."""

    def __init__(self, view: View, on_epoch: OnEpoch) -> None:
        self._view = view
        self._on_epoch = on_epoch
        self.note, self.stage, self.resumed = view.note, view.stage, view.resumed
        self.started, self.ended = view.started, view.ended

    def epoch(self, number: int, config: TrialConfig, metrics: EpochMetrics, value: float | None) -> None:
        self._view.epoch(number, config, metrics, value)
        try:
            self._on_epoch(config, metrics)
        except Exception as error:
            raise WatcherError(f"on_epoch: {error}") from error
