"""One trial that is run by hand: without a driver, in this process, which records each epoch and how the trial ends."""

from __future__ import annotations

import bdb
import logging
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import PreemptedError
from cpcnn_core.metrics import EpochMetrics
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
    with (
        trainer.log_to(store.log_file(config.trial_id), redirect=False),
        notice.heeded(spot.sources()) as taken,
    ):
        training = _Training(config, store, taken, until=until, start=start)
        with training.recording_interruptions():
            training.prepare(threads or {}, 1 + config.lineage.epochs_before)
            epochs = trainer.run(
                config,
                store,
                train or trainer.train,
                objective=objective,
                on_begin=training.begin,
                on_progress=on_progress,
                preempted=taken,
            )
            return training.record(epochs, on_epoch, threads or {})


class _Training:
    """A trial that this process trains, and its recording from when this process alone does."""

    def __init__(
        self, config: TrialConfig, store: Store, taken: notice.Notice, *, until: int | None, start: Start | None
    ) -> None:
        self._config = config
        self._store = store
        self._taken = taken
        self._until = until
        self._start = start
        self._recording: Recording | None = None

    def begin(self, own: Store) -> None:
        """No other process trains the trial: what it begins with is put there, and its attempt begins."""
        if self._until is not None:
            replaying.forget(own, self._config.trial_id)
        if self._start is not None:
            self._start.begin(own)
        place = trainer.place()
        if self._taken():  # before anything has begun
            raise signals.AskedToEndError(str(self._taken.reason))
        self._recording = Recording(own, self._config, number=None, place=place)

    @staticmethod
    def prepare(threads: Mapping[int, int], epoch: int) -> None:
        """Have torch use as many threads as the epoch is to be trained with."""
        if epoch in threads:
            trainer.set_threads(threads[epoch])

    def record(self, epochs: Generator[EpochMetrics], on_epoch: OnEpoch, threads: Mapping[int, int]) -> str | None:
        """Train, record each epoch and how the trial ended. Return what went wrong."""
        try:
            for metrics in epochs:
                self._begun().add(metrics, trainer.place())
                on_epoch(metrics.row())
                if metrics.epoch == self._until:
                    break
                self.prepare(threads, metrics.epoch + 1)
            epochs.close()
        except (trainer.TrialBusyError, PreemptedError, bdb.BdbQuit):
            raise
        except Exception as error:
            if self._recording is None:
                raise
            logger.exception("the trial failed")
            self._fail(trainer.describe(error))
            if debugging.is_run_by_debugger():  # which looks into it, and prints it too
                raise
            traceback.print_exc()
            return trainer.describe(error)
        whole = self._begun().attempt.epochs >= self._config.train.epochs
        stopped = None if whole else "as far as the recorded trial went"
        self._begun().finish("COMPLETE" if whole else "PRUNED", stopped=stopped)
        return None

    @contextmanager
    def recording_interruptions(self) -> Generator[None]:
        """Record what interrupts the training in here, and raise it; notice is raised as an interruption too."""
        try:
            yield
        except PreemptedError as error:
            self.interrupt(f"{self._taken.reason}: {error}", "PREEMPTED")
            raise signals.AskedToEndError(str(self._taken.reason)) from None
        except (KeyboardInterrupt, bdb.BdbQuit) as error:
            self.interrupt(signals.why(error))
            raise
        except Exception:
            raise
        except BaseException as error:  # as a debugger that ends the whole process
            self.interrupt(trainer.describe(error))
            raise

    def interrupt(self, why: str, state: State = "INTERRUPTED") -> None:
        """Write that the trial waits. Raise nothing: what was not written is found by whoever takes the trial up."""
        if self._recording is not None:
            with suppress(StoreError, OSError):
                self._recording.finish(state, stopped=why)

    def _begun(self) -> Recording:
        assert self._recording is not None  # the first epoch comes after `begin`
        return self._recording

    def _fail(self, why: str) -> None:
        with suppress(OSError):  # which is then what went wrong, and said already
            self._store.publish_log(self._config.trial_id)
        self._begun().finish("FAILED", why)
