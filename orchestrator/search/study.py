"""The study: which configuration comes next, asked of Optuna and kept in `study.db` across restarts.

Two invariants make a sweep survive being killed at any moment.

- Rows first, study second: a trial's end is written to `trials` before the study is told, so a trial that the study
  still calls RUNNING either has all its rows, and is told without running, or is resumed from its checkpoints. Optuna
  knows no state of a trial that waits: one that was interrupted is RUNNING there until it has ended.
- The k-th suggestion depends on the seed, on k and on what the study knows, never on a generator's state in memory.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from cpcnn_core.config import ConfigError, TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.records.states import meaning_of
from orchestrator.records.store import Row, Store, as_int, config_of, without_a_gap
from orchestrator.search import samplers, study_file
from orchestrator.search.space import SearchSpace, at_random, by_optuna
from orchestrator.search.study_file import StudyError as StudyError
from orchestrator.search.study_file import StudyFile
from search_spaces import Choice, Distribution, Floats, Ints, Scalar

_PATIENCE = 16  # suggestions in a row that were known already, before one that is not is picked instead
_DRAWS = 2000  # random draws in the hope of a configuration that has not run yet
_LISTED = 100_000  # a finite space of at most this many configurations is searched for one that has not run yet
# User attributes of Optuna's trials that are no trials of this sweep.
_DUPLICATE = "duplicate_of"
_INVALID = "invalid"
_EARLIER = "earlier_sweep"
_REOPENED = "reopened"
_EXHAUSTED = "exhausted"  # of the study: no configuration is left that may run and has not

optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.logging.disable_propagation()


@dataclass(frozen=True)
class Suggestion:
    """A trial to run: its number in the study and its configuration."""

    number: int
    config: TrialConfig


@dataclass(frozen=True)
class TrialValue:
    """What a study knows of a finished trial: its values, and by how much it breaks each limit."""

    values: tuple[float, ...]
    violations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """What the rows say of one trial that the space admits."""

    trial_id: str
    config: TrialConfig
    state: str
    best: TrialValue | None
    values: Mapping[int, float]  # by epoch; what pruning looks at, where there is one objective
    params: Mapping[str, tuple[Scalar, Distribution]]
    is_incomplete: bool = False  # it ended well, but some of the epochs that its row counts are not there

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        row: Row,
        epochs: Iterable[Row],
        params: Mapping[str, tuple[Scalar, Distribution]],
        objective: Objective,
    ) -> Recorded:
        """The trial of a row of `trials`, which holds `config`, and its rows of `epochs`."""
        by_epoch = {as_int(each["epoch"]): each for each in epochs}
        values = {at: told[0] for at, each in by_epoch.items() if (told := objective.values(each)) is not None}
        meaning = meaning_of(row["state"])
        lacking = without_a_gap(by_epoch, config.lineage.epochs_before) < as_int(row.get("epochs") or 0)
        incomplete = meaning.ended and not meaning.failed and lacking
        reached = value_of(objective, objective.best(by_epoch.values()))
        return cls(str(row["trial_id"]), config, str(row["state"]), reached, values, params, incomplete)


def value_of(objective: Objective, epoch: Row | None) -> TrialValue | None:
    """What a study is told of a trial whose best row this is."""
    values = None if epoch is None else objective.values(epoch)
    return None if epoch is None or values is None else TrialValue(values, objective.violations(epoch))


class Study:
    """Optuna's study of one sweep. One process at a time may hold it."""

    def __init__(
        self,
        space: SearchSpace,
        store: Store,
        *,
        seed: int,
        trials: int,
        storage: BaseStorage | None = None,
        retry_failed: bool = False,
    ) -> None:
        """Open the study of the sweep in `store`, or with `storage` one that is kept there instead, for simulations.

        With `retry_failed` the trials that failed come first, as if they had been interrupted.
        """
        self._space = space
        self._objective = space.objective
        self._seed = seed
        self._trials = min(trials, space.size)  # a small space may not have as many configurations
        self._storage = storage or _open(store.study_file)
        with ExitStack() as unless_opened:
            unless_opened.callback(self.close)
            self._begin(space, store, retry_failed=retry_failed)
            unless_opened.pop_all()

    def _begin(self, space: SearchSpace, store: Store, *, retry_failed: bool) -> None:
        self._study = _study(self._storage, space.objective, store)
        self._running: dict[int, _Running] = {}
        self._adopted: list[Suggestion] = []
        self._ends: dict[str, TrialValue | None] = {}  # by trial id: the value of each finished trial
        self._known: set[str] = set()  # trial ids that are finished, running or about to run
        # By trial id: those that earlier sweeps ran, told and not counted.
        self._earlier: dict[str, TrialValue | None] = {}
        self._exhausted = bool(self._study.user_attrs.get(_EXHAUSTED))
        self._grid: Iterator[TrialConfig] | None = None
        self._use_sampler(0)
        self._reconcile(_recorded(space, store), retry_failed=retry_failed)

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self._storage, StudyFile):
            self._storage.close()

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
    def waiting(self) -> tuple[Suggestion, ...]:
        """Those, and the ones that were put back."""
        return tuple(self._adopted)

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to be asked for."""
        return not self._adopted and (self._exhausted or len(self._known) >= self._trials)

    @property
    def learned_from(self) -> set[str]:
        """The earlier sweeps of whose trials the study was told."""
        told = (trial.user_attrs.get(_EARLIER) for trial in self._study.get_trials(deepcopy=False))
        return {source.rpartition("/")[0] for source in told if source is not None}

    def next(self) -> Suggestion | None:
        """The next trial to run: one that was left behind, otherwise a new one; None when there is none."""
        if self._adopted:
            return self._adopted.pop(0)
        if self.is_over:
            return None
        suggestion = self._ask()
        if suggestion is None:
            self._exhausted = True
            self._study.set_user_attr(_EXHAUSTED, True)  # the next driver need not look again
        return suggestion

    def put_back(self, suggestion: Suggestion) -> None:
        """Let a running trial be the next to run, in this driver or the next one, since it was interrupted."""
        self._adopted.append(suggestion)

    def reopen(self, config: TrialConfig) -> Suggestion | None:
        """Let a trial go on that was told to have ended, or that only the rows know of.

        Optuna has no way back from an end, so the trial gets another number there.
        """
        params = self._space.params_of(config)
        if params is None:
            return None
        # Not by way of Optuna's queue, which a driver that is killed would fill anew each time.
        begun = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params={name: value for name, (value, _) in params.items()},
            distributions={name: _distribution(declared) for name, (_, declared) in params.items()},
            user_attrs={"trial_id": config.trial_id, _REOPENED: True},
        )
        trial = optuna.Trial(self._study, self._storage.create_new_trial(self._study._study_id, begun))
        self._start(trial, config)
        return Suggestion(trial.number, config)

    def report(self, number: int, metrics: Row) -> None:
        """Tell the value of an epoch of a running trial; a value that is missing is not told."""
        values = self._objective.values(metrics)
        if values is not None:
            self._report(number, as_int(metrics["epoch"]), values[0])

    def end(self, number: int, state: str, best: Row | None) -> None:
        """Tell that a trial has ended, `best` being its best row.

        Without a value it is told as failed, whatever its state: it has no score.
        """
        self._end(number, state, value_of(self._objective, best))

    def learn(self, earlier: Iterable[tuple[str, Recorded]]) -> int:
        """Tell of finished trials of earlier sweeps, each with where it comes from; return how many were new.

        They count for the sampler and not as trials of this sweep. A configuration that equals a complete one of them,
        its seed included, is not run again.
        """
        told = {trial.user_attrs.get(_EARLIER) for trial in self._study.get_trials(deepcopy=False)}
        new = 0
        for source, row in earlier:
            if row.state == "COMPLETE" and row.trial_id not in self._known:
                self._earlier[row.trial_id] = row.best
            if source not in told:
                self._add_finished(row, {_EARLIER: source, "trial_id": row.trial_id})
                new += 1
        return new

    def _report(self, number: int, epoch: int, value: float) -> None:
        if len(self._objective.directions) == 1:  # Optuna takes no intermediate values of several objectives
            self._running[number].report(epoch, value)

    def _end(self, number: int, state: str, reached: TrialValue | None) -> None:
        running = self._running.pop(number)
        self._ends[running.trial_id] = reached
        if reached is None or meaning_of(state).failed:
            self._study.tell(running.trial, state=TrialState.FAIL)
        else:
            self._tell(running.trial, state, reached)

    def _tell(self, trial: optuna.Trial, state: str, reached: TrialValue) -> None:
        known = self._storage.get_trial(trial._trial_id).constraints  # of a driver killed between this and the tell
        for name, violation in reached.violations.items():
            if name not in known:
                trial.set_constraint(name, violation)
        if self._optuna_state(state) == TrialState.PRUNED:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, list(reached.values))

    def _optuna_state(self, state: str) -> TrialState:
        # A trial that did not come to its last epoch keeps its values as intermediate ones, which several objectives do
        # not have; what it reached counts, so it is told as complete rather than lost.
        pruned = state != "COMPLETE" and len(self._objective.directions) == 1
        return TrialState.PRUNED if pruned else TrialState.COMPLETE

    # --- asking

    def _use_sampler(self, number: int) -> None:
        self._study.sampler = samplers.make(self._space.sampler, self._seed, number)

    def _is_done(self, trial_id: str) -> bool:
        return trial_id in self._known or trial_id in self._earlier

    def _ask(self) -> Suggestion | None:
        # First what waits: a suggestion that a kill cut short, or that an earlier version had queued.
        while self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial, config, _ = self._suggest()
            if config is not None:
                return Suggestion(trial.number, config)
        if self._space.sampler == samplers.GRID:
            return self._run(self._next_of_grid())
        refusal = ""
        for _ in range(_PATIENCE):
            trial, config, reason = self._suggest()
            refusal = reason or refusal
            if config is not None:
                return Suggestion(trial.number, config)
        # The sampler keeps coming back to what it knows: look for a configuration that it does not.
        unseen = self._unseen()
        if unseen is None and not self._known and not self._earlier:
            raise StudyError(f"{self._space.source}: no configuration of this space is allowed: {refusal}")
        return self._run(unseen)

    def _run(self, config: TrialConfig | None) -> Suggestion | None:
        """Let Optuna suggest this very configuration."""
        if config is None:
            return None
        params = self._space.params_of(config)
        assert params is not None
        self._study.enqueue_trial({name: value for name, (value, _) in params.items()})
        trial, suggested, _ = self._suggest()
        return None if suggested is None else Suggestion(trial.number, suggested)

    def _next_of_grid(self) -> TrialConfig | None:
        """The next configuration of a finite space, in an order drawn from the seed: a part of it is a fair sample."""
        if self._grid is None:
            every = list(self._space.all())
            random.Random(self._seed).shuffle(every)
            self._grid = iter(every)
        return next((config for config in self._grid if not self._is_done(config.trial_id)), None)

    def _suggest(self) -> tuple[optuna.Trial, TrialConfig | None, str | None]:
        """Ask Optuna once. No configuration where it is not allowed (with the reason), or is known already."""
        self._use_sampler(len(self._study.get_trials(deepcopy=False)))
        trial = self._study.ask()
        try:
            config = self._space.configure(by_optuna(trial))
        except ConfigError as error:
            trial.set_user_attr(_INVALID, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            return trial, None, str(error)
        if self._is_done(config.trial_id):
            self._tell_again(trial, config.trial_id)
            return trial, None, None
        self._start(trial, config)
        return trial, config, None

    def _start(self, trial: optuna.Trial, config: TrialConfig) -> None:
        if trial.user_attrs.get("trial_id") != config.trial_id:
            trial.set_user_attr("trial_id", config.trial_id)
        self._known.add(config.trial_id)
        self._ends.pop(config.trial_id, None)  # of a trial that is reopened
        self._running[trial.number] = _Running(trial, config.trial_id)

    def _tell_again(self, trial: optuna.Trial, trial_id: str) -> None:
        trial.set_user_attr(_DUPLICATE, trial_id)
        reached = self._ends.get(trial_id) or self._earlier.get(trial_id)
        if reached is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._tell(trial, "COMPLETE", reached)

    def _unseen(self) -> TrialConfig | None:
        rng = random.Random(f"unseen/{self._seed}/{len(self._known)}")  # the sampler has {seed}/{number}
        for _ in range(_DRAWS):
            try:
                drawn = self._space.configure(at_random(rng))
            except ConfigError:
                continue
            if not self._is_done(drawn.trial_id):
                return drawn
        if self._space.size > _LISTED:
            return None
        return next((config for config in self._space.all() if not self._is_done(config.trial_id)), None)

    # --- after a restart

    def _reconcile(self, rows: Mapping[str, Recorded], *, retry_failed: bool) -> None:
        """Make the study agree with the rows, and adopt the trials that an earlier driver left behind.

        The rows are the record: a trial that the study calls finished and that has lost its rows runs again.
        """
        running, lost = [], []
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state == TrialState.RUNNING:
                running.append(frozen)  # also one that was about to be told as a double, or as not allowed
            elif _DUPLICATE in frozen.user_attrs or _INVALID in frozen.user_attrs:
                continue
            elif frozen.state.is_finished() and "trial_id" in frozen.user_attrs:
                self._recall(frozen, rows)
                if frozen.user_attrs["trial_id"] not in rows and _EARLIER not in frozen.user_attrs:
                    lost.append(frozen)
        for frozen in running:
            self._adopt(frozen, rows)
        for trial_id, row in rows.items():
            known, meaning = trial_id in self._known, meaning_of(row.state)
            again = row.is_incomplete or (retry_failed and meaning.failed)
            if meaning.ended and not known and not again:
                self._add(row)
            elif not known or (trial_id in self._ends and (meaning.waits or again)):
                # The latter were told as ended: by a version without such states, or before somebody ran them by hand,
                # or deleted what they had measured.
                self._adopted += filter(None, [self.reopen(row.config)])
        for frozen in lost:
            self._run_again(frozen)

    def _recall(self, frozen: FrozenTrial, rows: Mapping[str, Recorded]) -> None:
        """Know a trial that the study calls finished, of this sweep or of an earlier one, with what it reached."""
        trial_id, earlier = frozen.user_attrs["trial_id"], _EARLIER in frozen.user_attrs
        reached = None
        if frozen.state == TrialState.COMPLETE:
            reached = TrialValue(tuple(frozen.values), frozen.constraints)
        elif trial_id in rows and not earlier:  # PRUNED or failed, without values there
            reached = rows[trial_id].best
        if not earlier:
            self._known.add(trial_id)
            self._ends[trial_id] = reached
        elif reached is not None:
            self._earlier[trial_id] = reached

    def _run_again(self, frozen: FrozenTrial) -> None:
        """Let a trial run again of which only the study knows."""
        trial_id = frozen.user_attrs["trial_id"]
        try:
            config = self._space.configure(by_optuna(optuna.trial.FixedTrial(frozen.params)))
        except (ConfigError, ValueError):  # the space has changed since
            return
        if config.trial_id == trial_id and trial_id in self._ends:
            self._adopted += filter(None, [self.reopen(config)])

    def _adopt(self, frozen: FrozenTrial, rows: Mapping[str, Recorded]) -> None:
        self._use_sampler(frozen.number)
        trial = optuna.Trial(self._study, frozen._trial_id)
        try:
            config = self._space.configure(by_optuna(trial))  # picks what the killed driver had not come to
        except ConfigError as error:
            trial.set_user_attr(_INVALID, str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            return
        began = "trial_id" in frozen.user_attrs  # then it goes on, even where another sweep has finished it since
        known = config.trial_id in self._known and not trial.user_attrs.get(_REOPENED)
        if known or (config.trial_id in self._earlier and not began):
            self._tell_again(trial, config.trial_id)
            return
        self._start(trial, config)
        self._running[trial.number].told.update(frozen.intermediate_values)
        row = rows.get(config.trial_id)
        if row is None or not meaning_of(row.state).ended:
            self._adopted.append(Suggestion(trial.number, config))
            return
        for epoch, value in row.values.items():
            self._report(trial.number, epoch, value)
        self._end(trial.number, row.state, row.best)

    def _add(self, row: Recorded) -> None:
        """Let the study know of a trial that only the rows know of: run by hand, or before the study was lost."""
        self._add_finished(row, {"trial_id": row.trial_id})
        self._known.add(row.trial_id)
        self._ends[row.trial_id] = row.best

    def _add_finished(self, row: Recorded, attributes: Mapping[str, str]) -> None:
        failed = row.best is None or meaning_of(row.state).failed
        state = TrialState.FAIL if failed else self._optuna_state(row.state)
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=None if row.best is None or state != TrialState.COMPLETE else list(row.best.values),
                params={name: value for name, (value, _) in row.params.items()},
                distributions={name: _distribution(declared) for name, (_, declared) in row.params.items()},
                intermediate_values=dict(row.values) if len(self._objective.directions) == 1 else {},
                constraints=None if row.best is None else dict(row.best.violations),
                user_attrs=dict(attributes),
                system_attrs=samplers.attributes_of_told(self._space.sampler),
            )
        )


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


def _recorded(space: SearchSpace, store: Store) -> dict[str, Recorded]:
    """What the rows say of each trial that the space admits, by trial id."""
    epochs: dict[str, list[Row]] = {}
    for row in store.epochs().rows():
        epochs.setdefault(str(row["trial_id"]), []).append(row)
    recorded = {}
    for row in store.latest_attempts().rows():
        try:
            config = config_of(row)
        except ConfigError:
            continue
        params = space.params_of(config)
        if params is not None:
            rows = epochs.get(config.trial_id, [])
            recorded[config.trial_id] = Recorded.of(config, row, rows, params, space.objective)
    return recorded


def _open(path: Path) -> StudyFile:
    if not path.exists():
        with study_file.writing(path):
            return StudyFile(path)
    try:
        return StudyFile(path)
    except (*study_file.ERRORS, RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
        # All but the first two are what Optuna raises of attributes and distributions that it does not know.
        raise StudyError(f"{path}: not a readable study ({study_file.reason(error)}). {study_file.WAY_OUT}") from None


def _study(storage: BaseStorage, objective: Objective, store: Store) -> optuna.Study:
    directions: list[Literal["minimize", "maximize"]] = [
        "maximize" if way == "max" else "minimize" for way in objective.directions
    ]
    there = storage.get_all_studies()  # one at most; it is called otherwise by earlier releases, or if its folder moved
    name = there[0].study_name if there else store.folder.name
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    its_own = [direction.name.lower() for direction in study.directions]
    if its_own != directions:
        raise StudyError(
            f"{store.study_file}: its study asks to {' and '.join(its_own)}, the sweep to {' and '.join(directions)}. "
            f"{study_file.WAY_OUT}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(_metric_names(objective))  # for Optuna's dashboard
    return study


def _metric_names(objective: Objective) -> list[str]:
    return [objective.column] if len(objective.directions) == 1 else list(objective.reads)


def _distribution(declared: Distribution) -> BaseDistribution:
    match declared:
        case Choice(options=options):
            return CategoricalDistribution(options)
        case Ints(low=low, high=high, step=step, log=log):
            return IntDistribution(low, high, log=log, step=step)
        case Floats(low=low, high=high, log=log, step=step):
            return FloatDistribution(low, high, log=log, step=step)
