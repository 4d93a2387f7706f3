"""Ray Tune over a sweep's trials: what of the machines each of them gets, and the loop that runs them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial

from orchestrator.machines import cluster
from orchestrator.machines.resources import ResourcesError, Share
from orchestrator.process import signals
from orchestrator.records.store import Store
from orchestrator.search.ledger import Ledger
from orchestrator.search.study import Suggestion
from orchestrator.training.stall import Stalls
from orchestrator.tune import draining, packing, watching
from orchestrator.tune.assignment import Assignment
from orchestrator.tune.plan import Plan, SweepError
from orchestrator.tune.trainable import TrialProcess
from orchestrator.tune.tuning import Halt, LedgerCallback, LedgerStopper, StudySearcher

_LOOK_SECONDS = 10.0  # between two looks at the logs of trials on other machines


@dataclass(frozen=True)
class Placing:
    """What each trial gets of a machine."""

    share: Share
    extra: Mapping[str, float]  # further resources that a node must have, as the kind of its GPU
    watch: watching.Watch | None  # of a cluster that others started


def place(plan: Plan, store: Store, available: Mapping[str, float], say: Callable[[str], None]) -> Placing:
    """Divide what Ray has `available` among the trials. Raise SweepError or ClusterError where none has room."""
    resources = plan.space.resources
    if resources.packs and available.get("GPU"):
        resources, how_many_fit = packing.measure(plan.space).packed(resources, available)
        say(how_many_fit)
    try:
        share = resources.share(available, plan.trials)
    except ResourcesError as error:
        raise SweepError(str(error)) from None
    if plan.budget.gpu_hours is not None and not share.gpus:
        raise SweepError("--gpu-hours: no trial holds a GPU here, so that it would never end; limit it by --hours")
    extra = cluster.extra_resources(resources.accelerator, resources.memory_gib)
    share, watch = watching.begin(plan, store, share, extra)
    return Placing(share, extra, watch)


def run(
    plan: Plan,
    store: Store,
    ledger: Ledger,
    placing: Placing,
    *,
    is_stopping: Callable[[], bool],
    why_saved: Callable[[], str | None],
    throwaway: str,
) -> None:
    """Run trials until the ledger has no more, or until `is_stopping`. Tune's own files go to `throwaway`.

    Where `why_saved` says why, the trials that run then save their state first.
    """
    stall_seconds = 60 * plan.space.stall_minutes
    stalls = Stalls(stall_seconds)
    if store.is_remote:
        stalls = Stalls(stall_seconds, changed=lambda log: store.log_changed(log.stem), every=_LOOK_SECONDS)
    may_leave = draining.Farewell(why_saved).is_over
    callbacks = [
        LedgerCallback(ledger, is_stopping, stalls, may_leave),
        _OwnSignals(),
        *([placing.watch] if placing.watch else []),
    ]
    with suppress(Halt):
        tune.run(
            TrialProcess,
            name="sweep",  # of a folder of its own that is thrown away; the sweep's name may mean something to it
            num_samples=-1,
            search_alg=StudySearcher(ledger, _assigned(plan, store, placing, stall_seconds), is_stopping),
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


def _assigned(plan: Plan, store: Store, placing: Placing, stall_seconds: float) -> Callable[[Suggestion], Assignment]:
    """What turns a suggestion into what the trial's process is given."""
    return lambda suggestion: Assignment(
        number=suggestion.number,
        config=suggestion.config,
        folder=store.folder,
        log=store.log_file(suggestion.config.trial_id),
        share=placing.share,
        extra=placing.extra,
        processes=plan.space.resources.processes,
        trainer=plan.trainer,
        objective=plan.space.objective,
        stall_seconds=stall_seconds,
    )
