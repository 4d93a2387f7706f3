"""Ray Tune over a sweep's trials: what of the machines each of them gets, and the loop that runs them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial

from cpcnn_core import gpus
from orchestrator.machines import cluster, launch
from orchestrator.machines.crowding import Machine
from orchestrator.machines.resources import ResourcesError, Share
from orchestrator.process import signals
from orchestrator.records.store import Store
from orchestrator.search.ledger import Ledger, View
from orchestrator.search.study import Suggestion
from orchestrator.training import trainer
from orchestrator.training.stall import Stalls
from orchestrator.tune import draining, packing, watching
from orchestrator.tune.assignment import Assignment
from orchestrator.tune.plan import Plan, SweepError
from orchestrator.tune.sharing import Sharing
from orchestrator.tune.trainable import TrialProcess
from orchestrator.tune.tuning import Halt, LedgerCallback, LedgerStopper, StudySearcher

_LOOK_SECONDS = 10.0  # between two looks at the logs of trials on other machines
_COMES_UP_SECONDS = 120.0  # in which a process has come up on a GPU that is free


@dataclass(frozen=True)
class Placing:
    """What each trial gets of a machine."""

    share: Share
    extra: Mapping[str, float]  # further resources that a node must have, as the kind of its GPU
    watch: watching.Watch | None  # of a cluster that others started
    sharing: Sharing | None  # where several trials get one GPU


def place(
    plan: Plan,
    store: Store,
    available: Mapping[str, float],
    view: View,
    *,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Placing:
    """Divide what Ray has `available` among the trials.

    Raise SweepError or ClusterError where none has room, ConfigError where they would get a GPU that torch cannot use.
    """
    resources = plan.space.resources
    extra = cluster.extra_resources(resources.accelerator, resources.memory_gib)
    measured: packing.Measured | None = None
    if resources.packs and available.get("GPU") and plan.trainer == trainer.TRAINER:  # a simulated one takes nothing
        view.stage("Measuring how many trials should share a GPU")
        is_ours = launch.cluster_address() is None  # with its GPUs from the start
        wait = _COMES_UP_SECONDS if is_ours else max(_COMES_UP_SECONDS, 60 * plan.pending_minutes)
        measured = packing.measure(plan.space, watching.look(), extra, wait_seconds=wait, is_stopping=is_stopping)
        resources = measured.packed(resources)
        view.note(measured.sentence())
    resources, rounding = resources.rounded()
    if rounding is not None:
        view.note(rounding)
    try:
        share = resources.share(available, plan.trials)
    except ResourcesError as error:
        raise SweepError(str(error)) from None
    if plan.budget.gpu_hours is not None and not share.gpus:
        raise SweepError("--gpu-hours: no trial holds a GPU here, so that it would never end; limit it by --hours")
    if share.gpus and plan.trainer == trainer.TRAINER and launch.cluster_address() is None:
        # Here, and not in each trial. The nodes of a cluster find out themselves.
        way_out = 'resources = {"gpus": 0} trains on the CPU'
        gpus.check_usable("Ray finds a GPU here, of which trials would get their share", way_out=way_out)
    if plan.trainer == trainer.TRAINER and launch.cluster_address() is None:
        _warn_of_crowding(plan, share, view)
    share, watch = watching.begin(plan, store, share, extra)
    sharing = (
        Sharing(store, view.note, round(1 / share.gpus), measured)
        if share.is_of_a_gpu or measured is not None
        else None
    )
    return Placing(share, extra, watch, sharing)


def _warn_of_crowding(plan: Plan, share: Share, view: View) -> None:
    """Say where trials on this machine's cores would wait for one another, or for what else it does."""
    if share.gpus:
        return
    each = plan.space.resources.processes
    way_out = 'Wait until it is idle, give each trial one core by resources = {"cpus": 1}, or start under `taskset`.'
    problem = Machine.here().problem(max(1, share.cpus // each), share.concurrent * each, way_out)
    if problem is not None:
        view.note(f"warning: {problem}")


def run(
    plan: Plan,
    store: Store,
    ledger: Ledger,
    placing: Placing,
    *,
    is_stopping: Callable[[], bool],
    why_saved: Callable[[], str | None],
    is_taken: Callable[[], bool],
    throwaway: str,
) -> None:
    """Run trials until the ledger has no more, or until `is_stopping`. Tune's own files go to `throwaway`.

    Where `why_saved` says why, the trials that run then save their state first. Those that did are PREEMPTED where the
    sweep's job or machine `is_taken` away.
    """
    stall_seconds = 60 * plan.space.stall_minutes
    stalls = Stalls(stall_seconds)
    if store.is_remote:
        stalls = Stalls(stall_seconds, changed=lambda log: store.log_changed(log.stem), every=_LOOK_SECONDS)
    may_leave = draining.Farewell(why_saved, publishes=store.is_remote).is_over
    callbacks = [
        LedgerCallback(ledger, is_stopping, stalls, may_leave, is_taken),
        _OwnSignals(),
        *filter(None, (placing.watch, placing.sharing)),
    ]
    with suppress(Halt):
        tune.run(
            TrialProcess,
            name="sweep",  # of a folder of its own that is thrown away; the sweep's name may mean something to it
            num_samples=-1,
            search_alg=StudySearcher(ledger, _assigned(plan, store, ledger, placing, stall_seconds), is_stopping),
            max_concurrent_trials=placing.share.concurrent,
            stop=LedgerStopper(ledger),
            callbacks=callbacks,
            reuse_actors=True,
            raise_on_failed_trial=False,
            storage_path=throwaway,
            verbose=0,
        )


class _OwnSignals(Callback):  # type: ignore[misc]
    """Puts the driver's handler of SIGUSR1 back, which Tune replaces, whatever it is told of SIGINT's."""

    def __init__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in signals.ENDING}

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """The first one comes after Tune has set its handlers."""
        for number, handler in self._before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _assigned(
    plan: Plan, store: Store, ledger: Ledger, placing: Placing, stall_seconds: float
) -> Callable[[Suggestion], Assignment]:
    """What turns a suggestion into what the trial's process is given."""
    return lambda suggestion: Assignment(
        number=suggestion.number,
        config=suggestion.config,
        folder=store.folder,
        log=store.log_file(suggestion.config.trial_id),
        share=replace(placing.share, gpus=1.0) if ledger.is_alone(suggestion.number) else placing.share,
        extra=placing.extra,
        processes=plan.space.resources.processes,
        trainer=plan.trainer,
        objective=plan.space.objective,
        stall_seconds=stall_seconds,
        mps=plan.space.resources.mps,
    )
