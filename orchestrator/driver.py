"""The driver of a sweep: one process that holds the folder, asks for trials, has Ray run them and writes the tables."""

from __future__ import annotations

import json
import os
import platform
import signal
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from cpcnn_core.suggest import nearest
from orchestrator import cluster, leaderboard, provenance, training, warm_start
from orchestrator.ledger import Best, Ledger, View
from orchestrator.space import SearchSpace
from orchestrator.store import Store, config_of, sweeps
from orchestrator.study import Study


class SweepError(Exception):
    """A sweep that cannot start or go on."""


@dataclass(frozen=True)
class Resources:
    """What one trial gets. `gpus` may be a fraction; None is one GPU where there is any.

    Without a number of `cpus`, each trial gets one core, or an equal share of them all where fewer trials run at once.
    """

    cpus: int | None = None
    gpus: float | None = None
    accelerator: str | None = None  # the kind of GPU, by Ray's name for it: A100, H100, L4, T4
    memory_gib: float | None = None  # that a node has left for the trial

    def share(self, available: Mapping[str, float], trials: int) -> Share:
        """Divide what Ray has `available` among at most `trials` at once. Raise SweepError where not one fits."""
        gpus = self.gpus if self.gpus is not None else float(available.get("GPU", 0) > 0)
        cores = available["CPU"]
        places = [cores // (self.cpus or 1)] + ([available["GPU"] // gpus] if gpus else [])
        concurrent = min(int(min(places)), trials)
        if concurrent < 1:
            raise SweepError(
                f"a trial asks for {self.cpus or 1} cores and {gpus:g} GPUs; there are {cores:g} and "
                f"{available.get('GPU', 0):g}"
            )
        return Share(cpus=self.cpus or int(cores // concurrent), gpus=gpus, concurrent=concurrent)


@dataclass(frozen=True)
class Share:
    """What each of `concurrent` trials gets that run at once."""

    cpus: int
    gpus: float
    concurrent: int


@dataclass(frozen=True)
class Plan:
    """What to run, and where its results go."""

    name: str
    space: SearchSpace
    results: Path
    trials: int
    seed: int = 0
    resources: Resources = field(default_factory=Resources)
    pending_minutes: float = 30.0  # on a cluster: for so long no trial may find a place
    max_cost: float | None = None  # on a cluster: what its nodes may cost in all, in the currency of their labels
    trainer: str = training.TRAINER  # another one simulates trials
    warm_start: tuple[str, ...] = ()  # names of earlier sweeps in the same folder of results

    @property
    def store(self) -> Store:
        return Store((self.results / self.name).absolute())


@dataclass(frozen=True)
class Outcome:
    """How a run of the driver ended."""

    finished: int  # trials of the sweep that have ended, those of earlier runs included
    ran: bool  # whether there was anything to do
    interrupted: bool  # whether it was stopped before the end


def run(plan: Plan, view: View) -> Outcome:
    """Run the sweep until its trials have ended, or until SIGINT or SIGTERM. A sweep that was begun is resumed.

    Raise SweepError, StoreError or StudyError.
    """
    store = plan.store
    store.create()
    with holding(store):
        store.remove_leftovers()
        plan = _with_one_extractor(plan, store)
        new = store.read_sweep() is None
        if new:
            _check_data(plan)  # before the folder is bound to this question
        _agree(plan, store)
        study = Study(plan.space, store, seed=plan.seed, trials=plan.trials)
        try:
            if study.is_over:
                return Outcome(study.finished, ran=False, interrupted=False)
            if not new:
                _check_data(plan)
            _record_run(plan, store)
            for line in _warm_start(plan, study):
                view.note(line)
            if study.finished or study.left_behind:
                view.resumed(study.finished, _best_so_far(plan, store))
            ledger = Ledger(study, store, plan.space.objective, view)
            with _stopping() as stop:
                _tune(plan, store, ledger, stop)
            if ledger.fatal is not None:
                raise ledger.fatal
            store.compact()
            unfinished = study.running > 0 or not study.is_over
            return Outcome(study.finished, ran=True, interrupted=stop.requested and unfinished)
        finally:
            study.close()


@contextmanager
def holding(store: Store) -> Generator[None]:
    """Be the sweep's only driver. Raise SweepError, naming the other one, where there is one."""
    holder = store.folder / "driver.json"
    lock = FileLock(store.folder / "driver.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SweepError(
            f"{store.folder}: another driver runs this sweep: {_who(holder)}. Wait for it, stop it with Ctrl-C, "
            "or give this sweep another --name"
        ) from None
    try:
        me = {"pid": os.getpid(), "host": platform.node(), "since": provenance.now()}
        holder.write_text(json.dumps(me) + "\n")
        yield
    finally:
        # The lock file stays: deleting it would let a third driver lock a new file beside a second one's.
        lock.release()


def _who(holder: Path) -> str:
    try:
        content = json.loads(holder.read_text())
        return f"pid {content['pid']} on {content['host']}, since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{holder.name} does not say which"


def _with_one_extractor(plan: Plan, store: Store) -> Plan:
    """Decide once what `eval.fid_extractor=auto` is, for all trials and machines, and for whoever resumes the sweep."""
    default = plan.space.default()
    if not default.eval.fid_every or default.eval.fid_extractor != "auto":
        return plan
    decided = (store.read_sweep() or {}).get("asked", {}).get("settings", {}).get(training.EXTRACTOR)
    if decided is None:
        decided = training.with_one_extractor(default).eval.fid_extractor
    settled = plan.space.with_settings({training.EXTRACTOR: decided})
    settled.check()
    return replace(plan, space=settled)


def _agree(plan: Plan, store: Store) -> None:
    """Write sweep.json, or see that it asks the same question. Raise SweepError where it does not."""
    asked = {**plan.space.describe(), "seed": plan.seed}
    held = store.read_sweep() or {
        "name": plan.name,
        "question": plan.space.question,
        "source": plan.space.source,
        "asked": asked,
        "created": provenance.now(),
        "runs": [],
    }
    held.setdefault("asked", asked)  # a folder into which trials were run by hand has not asked anything yet
    if held["asked"] != asked:
        changes = "\n".join(_changes("", held["asked"], asked))
        raise SweepError(
            f"{store.folder}: holds a sweep that asked something else; give this one another --name, or delete the "
            f"folder. What differs:\n{changes}"
        )
    store.write_sweep(held)


def _record_run(plan: Plan, store: Store) -> None:
    """Add to sweep.json by which code, and on which machine, the trials from here on are run."""
    held = store.read_sweep() or {}
    run = {
        "started": provenance.now(),
        "trials": plan.trials,
        "git_commit": provenance.git_commit(),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "data_root": plan.space.settings.get("data.root"),
        "fid_weights": plan.space.settings.get("eval.fid_weights"),
    }
    store.write_sweep({**held, "runs": [*held.get("runs", []), run]})


def _changes(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Generator[str]:
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(f"{prefix}{key} ", old, new)
        elif old != new:
            was = json.dumps(old) if key in before else "absent"
            now = json.dumps(new) if key in after else "absent"
            yield f"  {prefix}{key}: was {was}, is {now}"


def _check_data(plan: Plan) -> None:
    """Find out here, not in each trial, that the data is missing or broken; and decode it once for all of them."""
    if _trains_here(plan):
        training.check(plan.space.default())


def _trains_here(plan: Plan) -> bool:
    """Whether this machine has the data, since its own cores or GPUs train the trials."""
    return plan.trainer == training.TRAINER and not os.environ.get("RAY_ADDRESS")


def _warm_start(plan: Plan, study: Study) -> Generator[str]:
    """Let the study learn from earlier sweeps; a line on each. Raise SweepError where there is no such sweep."""
    found = {store.folder.name: store for store in sweeps(plan.results) if store.folder.name != plan.name}
    for name in plan.warm_start:
        if name not in found:
            raise SweepError(
                f"--warm-start {name}: no other sweep of that name in {plan.results}{nearest(name, found)}"
            )
    own = (warm_start.ruler_of(row) for row in plan.store.epochs().rows() if row["fid"] is not None)
    ruler = next(own, None)
    if ruler is None and plan.warm_start and _trains_here(plan):
        ruler = training.ruler(plan.space.default())
    for harvest in warm_start.gather(plan.space, [found[name] for name in plan.warm_start], ruler):
        yield harvest.summary(study.learn(harvest.used))


def _best_so_far(plan: Plan, store: Store) -> Best | None:
    entries, _ = leaderboard.read([store])
    objective = plan.space.objective
    for entry in leaderboard.ranked(entries, objective)[:1]:
        epoch = entry.best(objective)
        value = None if epoch is None else objective.value(epoch)
        if epoch is not None and value is not None:
            return value, config_of(entry.trial), epoch["epoch"]
    return None


class _Stop:
    """Whether the user, or the machine's owner, wants the sweep to stop."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def _stopping() -> Generator[_Stop]:
    stop = _Stop()
    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _tune(plan: Plan, store: Store, ledger: Ledger, stop: _Stop) -> None:
    from orchestrator import local_ray

    with local_ray.started() as available, tempfile.TemporaryDirectory(prefix="cpcnn-sweep-") as throwaway:
        from ray import tune

        from orchestrator import watching
        from orchestrator.search import Halt, LedgerCallback, StudySearcher
        from orchestrator.trainable import (
            BESIDES,
            CPUS,
            FOLDER,
            GPUS,
            NUMBER,
            OBJECTIVE,
            SETTINGS,
            TRAINER,
            TrialProcess,
        )

        share = plan.resources.share(available, plan.trials)
        besides = cluster.besides(plan.resources.accelerator, plan.resources.memory_gib)
        share, watch = watching.begin(plan, store, share, besides)
        searcher = StudySearcher(
            ledger,
            lambda suggestion: {
                NUMBER: suggestion.number,
                SETTINGS: suggestion.config.flat(),
                FOLDER: str(store.folder),
                TRAINER: plan.trainer,
                OBJECTIVE: plan.space.objective.describe(),
                CPUS: share.cpus,
                GPUS: share.gpus,
                BESIDES: besides,
            },
        )
        try:
            tune.run(
                TrialProcess,
                name=plan.name,
                num_samples=-1,
                search_alg=searcher,
                max_concurrent_trials=share.concurrent,
                callbacks=[LedgerCallback(ledger, lambda: stop.requested), *([watch] if watch else [])],
                reuse_actors=True,
                raise_on_failed_trial=False,
                storage_path=throwaway,
                verbose=0,
            )
        except Halt:
            pass
        except KeyboardInterrupt:
            stop.requested = True
        if watch is not None:
            watch.end()
