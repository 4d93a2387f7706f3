"""The study: which configuration comes next, asked of Optuna and kept in `study.db` across restarts.

Two invariants make a sweep survive being killed at any moment.

- Rows first, study second: a trial's end is written to `trials` before the study is told, so a trial that the study
  still calls RUNNING either has all its rows, and is told without running, or is resumed from its checkpoints.
- The k-th suggestion depends on the seed, on k and on what the study knows, never on a generator's state in memory.
"""

from __future__ import annotations

import random
import sqlite3
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from cpcnn_core.config import ConfigError, TrialConfig
from orchestrator.objective import Objective
from orchestrator.space import SearchSpace, at_random, by_optuna
from orchestrator.store import FINISHED, Store, config_of
from search_spaces import Choice, Distribution, Floats, Ints, Scalar

NAME = "sweep"

_PATIENCE = 16  # suggestions in a row that were known already, before one that is not is picked instead
_DRAWS = 2000  # random draws in the hope of a configuration that has not run yet
_LISTED = 100_000  # a finite space of at most this many configurations is searched for one that has not run yet
_DUPLICATE = "duplicate_of"
_INVALID = "invalid"

optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.logging.disable_propagation()


class StudyError(Exception):
    """A study that cannot be opened, or that cannot go on."""


@dataclass(frozen=True)
class Suggestion:
    """A trial to run: its number in the study and its configuration."""

    number: int
    config: TrialConfig


class Study:
    """Optuna's study of one sweep. One process at a time may hold it."""

    def __init__(self, space: SearchSpace, store: Store, *, seed: int, trials: int) -> None:
        self._space = space
        self._objective = space.objective
        self._seed = seed
        self._trials = min(trials, space.size)  # a small space may not have as many configurations
        self._storage, self._study = _open(store.study_file, space.objective)
        self._running: dict[int, _Running] = {}
        self._adopted: list[Suggestion] = []
        self._ends: dict[str, float | None] = {}  # by trial id: what each finished trial is worth
        self._known: set[str] = set()  # trial ids that are finished, running or about to run
        self._exhausted = False
        self._reconcile(_recorded(space, store))

    def close(self) -> None:
        """Let go of the file."""
        self._storage.scoped_session.remove()
        self._storage.engine.dispose()

    @property
    def finished(self) -> int:
        """How many different configurations have ended, in whatever way."""
        return len(self._ends)

    @property
    def running(self) -> int:
        """How many trials have been handed out and have not ended."""
        return len(self._running)

    @property
    def left_behind(self) -> int:
        """How many trials an earlier driver left unfinished; they come first."""
        return len(self._adopted)

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to be asked for."""
        return not self._adopted and (self._exhausted or len(self._known) >= self._trials)

    def next(self) -> Suggestion | None:
        """The next trial to run: one that was left behind, otherwise a new one; None when there is none."""
        if self._adopted:
            return self._adopted.pop(0)
        if self.is_over:
            return None
        suggestion = self._ask()
        self._exhausted = suggestion is None
        return suggestion

    def put_back(self, suggestion: Suggestion) -> None:
        """Let a running trial be the next to run, since its process died."""
        self._adopted.append(suggestion)

    def report(self, number: int, metrics: Mapping[str, Any]) -> None:
        """Tell what an epoch of a running trial is worth; a value that is missing is not told."""
        value = self._objective.value(metrics)
        if value is not None:
            self._running[number].report(int(metrics["epoch"]), value)

    def end(self, number: int, state: str, value: float | None) -> None:
        """Tell that a trial has ended. Without a value it is told as failed, whatever its state: it has no score."""
        running = self._running.pop(number)
        self._ends[running.trial_id] = value
        if state == "COMPLETE" and value is not None:
            self._study.tell(running.trial, value)
        elif state == "PRUNED" and value is not None:
            self._study.tell(running.trial, state=TrialState.PRUNED)
        else:
            self._study.tell(running.trial, state=TrialState.FAIL)

    # --- asking

    def _ask(self) -> Suggestion | None:
        refusal = ""
        for _ in range(_PATIENCE):
            trial, config, reason = self._suggest()
            refusal = reason or refusal
            if config is not None:
                return Suggestion(trial.number, config)
        # The sampler keeps coming back to what it knows: look for a configuration that it does not.
        unseen = self._unseen()
        if unseen is None:
            if not self._known:
                raise StudyError(f"{self._space.source}: no configuration of this space is allowed: {refusal}")
            return None
        params = self._space.params_of(unseen)
        assert params is not None
        self._study.enqueue_trial({name: value for name, (value, _) in params.items()})
        trial, config, _ = self._suggest()
        return None if config is None else Suggestion(trial.number, config)

    def _suggest(self) -> tuple[optuna.Trial, TrialConfig | None, str | None]:
        """Ask Optuna once. No configuration where it is not allowed (with the reason), or is known already."""
        self._study.sampler = _sampler(self._seed, len(self._study.get_trials(deepcopy=False)))
        trial = self._study.ask()
        try:
            config = self._space.configure(by_optuna(trial))
        except ConfigError as error:
            trial.set_user_attr(_INVALID, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            return trial, None, str(error)
        if config.trial_id in self._known:
            self._tell_again(trial, config.trial_id)
            return trial, None, None
        self._start(trial, config)
        return trial, config, None

    def _start(self, trial: optuna.Trial, config: TrialConfig) -> None:
        if trial.user_attrs.get("trial_id") != config.trial_id:
            trial.set_user_attr("trial_id", config.trial_id)
        self._known.add(config.trial_id)
        self._running[trial.number] = _Running(trial, config.trial_id)

    def _tell_again(self, trial: optuna.Trial, trial_id: str) -> None:
        trial.set_user_attr(_DUPLICATE, trial_id)
        value = self._ends.get(trial_id)
        if value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def _unseen(self) -> TrialConfig | None:
        rng = random.Random(f"{self._seed}/{len(self._known)}")
        for _ in range(_DRAWS):
            try:
                drawn = self._space.configure(at_random(rng))
            except ConfigError:
                continue
            if drawn.trial_id not in self._known:
                return drawn
        if self._space.size > _LISTED:
            return None
        return next((config for config in self._space.all() if config.trial_id not in self._known), None)

    # --- after a restart

    def _reconcile(self, rows: Mapping[str, _Recorded]) -> None:
        """Make the study and the rows agree, and adopt the trials that an earlier driver left behind."""
        running = []
        for frozen in self._study.get_trials(deepcopy=False):
            if _DUPLICATE in frozen.user_attrs or _INVALID in frozen.user_attrs:
                continue
            if frozen.state == TrialState.RUNNING:
                running.append(frozen)
            elif frozen.state.is_finished() and "trial_id" in frozen.user_attrs:
                trial_id = frozen.user_attrs["trial_id"]
                self._known.add(trial_id)
                self._ends[trial_id] = frozen.value if frozen.state == TrialState.COMPLETE else None
        for frozen in running:
            self._adopt(frozen, rows)
        for trial_id, row in rows.items():
            if trial_id not in self._known:
                self._add(row)

    def _adopt(self, frozen: FrozenTrial, rows: Mapping[str, _Recorded]) -> None:
        self._study.sampler = _sampler(self._seed, frozen.number)
        trial = optuna.Trial(self._study, frozen._trial_id)
        try:
            config = self._space.configure(by_optuna(trial))  # picks what the killed driver had not come to
        except ConfigError as error:
            trial.set_user_attr(_INVALID, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            return
        if config.trial_id in self._known:
            self._tell_again(trial, config.trial_id)
            return
        self._start(trial, config)
        self._running[trial.number].told.update(frozen.intermediate_values)
        row = rows.get(config.trial_id)
        if row is None or row.state not in FINISHED:
            self._adopted.append(Suggestion(trial.number, config))
            return
        for epoch, value in row.values.items():
            self._running[trial.number].report(epoch, value)
        self.end(trial.number, row.state, row.value)

    def _add(self, row: _Recorded) -> None:
        """Let the study know of a trial that only the rows know of: run by hand, or before the study was lost."""
        params = {name: value for name, (value, _) in row.params.items()}
        if row.state not in FINISHED:
            self._study.enqueue_trial(params)
            return
        state = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED}.get(row.state, TrialState.FAIL)
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.FAIL if row.value is None else state,
                value=None if state == TrialState.FAIL else row.value,
                params=params,
                distributions={name: _distribution(held) for name, (_, held) in row.params.items()},
                intermediate_values=dict(row.values),
                user_attrs={"trial_id": row.trial_id},
            )
        )
        self._known.add(row.trial_id)
        self._ends[row.trial_id] = row.value


@dataclass(frozen=True)
class _Recorded:
    """What the rows say of one trial that the space admits."""

    trial_id: str
    state: str
    value: float | None
    values: Mapping[int, float]  # by epoch
    params: Mapping[str, tuple[Scalar, Distribution]]


class _Running:
    """A trial that the study calls RUNNING, and the epochs that it was told of."""

    def __init__(self, trial: optuna.Trial, trial_id: str) -> None:
        self.trial = trial
        self.trial_id = trial_id
        self.told: set[int] = set()

    def report(self, epoch: int, value: float) -> None:
        # A resumed trial repeats the epochs whose rows were lost.
        if epoch not in self.told:
            self.trial.report(value, epoch)
            self.told.add(epoch)


def _recorded(space: SearchSpace, store: Store) -> dict[str, _Recorded]:
    """What the rows say of each trial that the space admits, by trial id."""
    epochs: dict[str, list[dict[str, Any]]] = {}
    for row in store.epochs().rows():
        epochs.setdefault(row["trial_id"], []).append(row)
    found = {}
    for row in store.latest_attempts().rows():
        try:
            config = config_of(row)
        except ConfigError:
            continue
        params = space.params_of(config)
        if params is None:
            continue
        rows = epochs.get(config.trial_id, [])
        best = space.objective.best(rows)
        values = {int(row["epoch"]): value for row in rows if (value := space.objective.value(row)) is not None}
        found[config.trial_id] = _Recorded(
            config.trial_id, row["state"], None if best is None else space.objective.value(best), values, params
        )
    return found


def _open(path: Path, objective: Objective) -> tuple[RDBStorage, optuna.Study]:
    try:
        storage = RDBStorage(f"sqlite:///{path}")
        # The write-ahead log needs no fsync for each of a trial's parameters, and is as safe against a kill.
        event.listen(storage.engine, "connect", _tune)
        storage.scoped_session.remove()
        storage.engine.dispose()
        direction: Literal["minimize", "maximize"] = "maximize" if objective.direction == "max" else "minimize"
        return storage, optuna.create_study(storage=storage, study_name=NAME, direction=direction, load_if_exists=True)
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StudyError(
            f"{path}: not a readable study ({str(error.__cause__ or error).splitlines()[0]}). "
            "Move it away and run the command again: the study is rebuilt from the tables"
        ) from None


def _tune(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")


def _sampler(seed: int, number: int) -> TPESampler:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), joint over the fields of each branch of the space."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=random.Random(f"{seed}/{number}").getrandbits(32),
        )


def _distribution(held: Distribution) -> BaseDistribution:
    match held:
        case Choice(options=options):
            return CategoricalDistribution(options)
        case Ints(low=low, high=high, step=step, log=log):
            return IntDistribution(low, high, log=log, step=step)
        case Floats(low=low, high=high, log=log):
            return FloatDistribution(low, high, log=log)
