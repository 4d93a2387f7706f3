"""One trial that is run by hand: without a driver, in this process, which records each epoch and how the trial ends."""

from __future__ import annotations

import bdb
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import PreemptedError
from orchestrator.objectives.objective import Objective
from orchestrator.process import debugging, notice, signals, spot
from orchestrator.records.recording import Recording
from orchestrator.records.states import State, meaning_of
from orchestrator.records.store import Row, Store, StoreError
from orchestrator.training import replaying, trainer

if TYPE_CHECKING:
    from orchestrator.training.continuing import Start  # takes torch

logger = logging.getLogger(__name__)

OnEpoch: TypeAlias = Callable[[Row], None]


def is_finished(store: Store, config: TrialConfig) -> bool:
    """Whether all epochs are there. If so, the row that says how the trial ended is written where it is missing."""
    if store.reported_epochs(config) < config.train.epochs:
        return False
    attempts = store.attempts_of(config.trial_id)
    if not attempts or not meaning_of(attempts[-1]["state"]).ended:  # its row was lost, or cut short at the end
        Recording(store, config, number=None).finish("COMPLETE")
    return True


def train(
    config: TrialConfig,
    store: Store,
    objective: Objective | None,
    *,
    on_epoch: OnEpoch,
    on_progress: trainer.OnProgress,
    train: trainer.Trainer | None = None,
    until: int | None = None,
    threads: Mapping[int, int] | None = None,
    start: Start | None = None,
) -> str | None:
    """Train and record all epochs that are missing, or anew up to the epoch `until`. Return what went wrong.

    `start` is what a trial begins with that continues another one.

    `train` is what trains, this process if it is not given. `on_epoch` gets each epoch's row. `threads` says with how
    many of torch's an epoch is trained; those that it does not name with as many as before. An interruption, or leaving
    the debugger, is recorded and raised; so is every error where a debugger runs this program. Notice that the process
    is to be taken away ends it within the epoch, and is raised as an interruption too.
    """
    begun: list[Recording] = []  # one, once this process alone trains the trial
    with (
        trainer.log_to(store.log_file(config.trial_id), redirect=False),
        notice.heeded(spot.sources()) as taken,
    ):
        try:
            return _recorded(
                config,
                store,
                objective,
                begun,
                taken,
                on_epoch=on_epoch,
                on_progress=on_progress,
                train=train or trainer.train,
                until=until,
                threads=threads or {},
                start=start,
            )
        except PreemptedError as error:
            _interrupt(begun, f"{taken.reason}: {error}", "PREEMPTED")
            raise signals.AskedToEndError(str(taken.reason)) from None
        except (KeyboardInterrupt, bdb.BdbQuit) as error:
            _interrupt(begun, signals.why(error))
            raise
        except Exception:
            raise
        except BaseException as error:  # as a debugger that ends the whole process
            _interrupt(begun, trainer.describe(error))
            raise


def _recorded(
    config: TrialConfig,
    store: Store,
    objective: Objective | None,
    begun: list[Recording],
    taken: notice.Notice,
    *,
    on_epoch: OnEpoch,
    on_progress: trainer.OnProgress,
    train: trainer.Trainer,
    until: int | None,
    threads: Mapping[int, int],
    start: Start | None,
) -> str | None:
    """Train, with a recording that is put into `begun` once it begins. Return what went wrong."""

    def begin(own: Store) -> None:
        if until is not None:
            replaying.forget(own, config.trial_id)
        if start is not None:
            start.begin(own)
        place = trainer.place()
        if taken():  # before anything has begun
            raise signals.AskedToEndError(str(taken.reason))
        begun.append(Recording(own, config, number=None, place=place))

    def prepare(epoch: int) -> None:
        if epoch in threads:
            trainer.set_threads(threads[epoch])

    try:
        prepare(1 + config.lineage.epochs_before)
        epochs = trainer.run(
            config, store, train, objective=objective, on_begin=begin, on_progress=on_progress, preempted=taken
        )
        for metrics in epochs:
            begun[0].add(metrics, trainer.place())
            on_epoch(metrics.row())
            if metrics.epoch == until:
                break
            prepare(metrics.epoch + 1)
        epochs.close()
    except (trainer.TrialBusyError, PreemptedError, bdb.BdbQuit):
        raise
    except Exception as error:
        if not begun:
            raise
        logger.exception("the trial failed")
        _fail(begun[0], store, config.trial_id, trainer.describe(error))
        if debugging.is_run_by_debugger():  # which looks into it, and prints it too
            raise
        traceback.print_exc()
        return trainer.describe(error)
    whole = begun[0].attempt.epochs >= config.train.epochs
    begun[0].finish("COMPLETE" if whole else "PRUNED", stopped=None if whole else "as far as the recorded trial went")
    return None


def _fail(recording: Recording, store: Store, trial_id: str, why: str) -> None:
    """Record that the trial failed."""
    with suppress(OSError):  # which is then what went wrong, and said already
        store.publish_log(trial_id)
    recording.finish("FAILED", why)


def _interrupt(begun: Sequence[Recording], why: str, state: State = "INTERRUPTED") -> None:
    """Write that the trial waits. Raise nothing: what could not be written is found by whoever takes the trial up."""
    for recording in begun:
        with suppress(StoreError, OSError):
            recording.finish(state, stopped=why)
