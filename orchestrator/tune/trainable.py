"""The trial as Ray runs it: one step is one epoch. The process is used again for the next trial.

While it has a trial, SIGTERM is notice that it is to be taken away, as is what Ray and the cloud say of its node: the
trial saves its state within the epoch, and the process ends. Without a trial SIGTERM ends it, as Ray has it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial

from ray.tune import PlacementGroupFactory, Trainable

from cpcnn_core import environment
from cpcnn_core.errors import PreemptedError
from cpcnn_core.metrics import EpochMetrics
from orchestrator.machines import mps
from orchestrator.process import notice, spot
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.training import stall, trainer
from orchestrator.training.replicas import ReplicaError, Replicated
from orchestrator.tune import draining
from orchestrator.tune.assignment import Assignment, Epoch, Failure, RayDict, to_ray

logger = logging.getLogger(__name__)


class TrialProcess(Trainable):  # type: ignore[misc]
    """Runs trials, one after another. An exception ends the trial and not the process: a fresh one takes seconds."""

    @classmethod
    def default_resource_request(cls, config: RayDict) -> PlacementGroupFactory:
        """A trial's share of the machine."""
        assignment = Assignment.of_ray(config)
        return PlacementGroupFactory([{"CPU": assignment.share.cpus, "GPU": assignment.share.gpus, **assignment.extra}])

    def setup(self, config: RayDict) -> None:
        """Prepare the first trial of this process."""
        environment.forget_launchers()  # a cluster's node has an environment of its own
        assignment = Assignment.of_ray(config)
        if not assignment.share.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of them visible to who asks for none
        # Before anything uses the GPU; every trial of this process gets as much of one, or Tune would take another.
        self._without_mps = mps.join() if assignment.mps and assignment.share.is_of_a_gpu else None
        self._beat: Callable[[], None] = lambda: None
        self._epochs: Generator[EpochMetrics] | None = None
        self._place: Place | None = None
        self._heeding = ExitStack()
        self._begin(assignment)

    def reset_config(self, new_config: RayDict) -> bool:
        """Prepare another trial in the same process."""
        self.cleanup()
        self._begin(Assignment.of_ray(new_config))
        return True

    def step(self) -> RayDict:
        """Train one epoch. Raise PreemptedError where the process is to be taken away."""
        assert self._epochs is not None
        config, stall_seconds = self._assignment.config, self._assignment.stall_seconds
        with trainer.log_to(self._log), stall.watched(self._log, stall_seconds) as self._beat:
            try:
                metrics = next(self._epochs, None)
                if self._place is None:
                    self._place = trainer.place()
            except PreemptedError as error:
                said = f"{self._taken.reason}: {error}"
                self._release()
                self._leave()
                raise PreemptedError(said) from None
            except Exception as error:
                if _is_device_lost(error) or isinstance(error, ReplicaError):
                    raise  # nothing more can run in this process; Tune starts another
                logger.exception("the trial failed")
                with contextlib.suppress(OSError):  # which is then what went wrong, and is reported
                    self._store.publish_log(config.trial_id)
                self._release()
                storage, busy = trainer.is_storage_failure(error), isinstance(error, trainer.TrialBusyError)
                return to_ray(Failure(trainer.describe(error), storage, busy), done=True)
            if metrics is None:
                self._release()
                return to_ray(None, done=True)
            done = metrics.epoch >= config.train.epochs
            if done:
                self._epochs.close()
                self._release()
        return to_ray(Epoch(self._assignment.number, metrics, self._place, self._without_mps), done=done)

    def cleanup(self) -> None:
        """Let go of a trial that was stopped between two epochs."""
        if self._epochs is not None:
            self._epochs.close()
        self._release()

    def _release(self) -> None:
        """Signals are Ray's again: there is no trial whose state would be saved."""
        self._heeding.close()

    def _leave(self) -> None:
        """Have Ray place no trial here where the whole machine goes, so that this one goes on elsewhere at once."""
        if self._taken.source in self._clouds:
            try:
                draining.drain_own_node(str(self._taken.reason))
            except Exception:
                logger.exception("Ray was not told that this node is to be taken away")

    def _begin(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._store = Store(assignment.folder).retrying()
        self._log = self._store.log_file(assignment.config.trial_id)  # of this machine, where the folder is remote
        (self._store.local_mirror / "logs").mkdir(parents=True, exist_ok=True)
        processes = assignment.processes
        threads = max(1, assignment.share.cpus // processes)
        alone = processes == 1
        train = trainer.named(assignment.trainer) if alone else Replicated(assignment.trainer, processes, threads)
        self._clouds = spot.sources()
        self._taken = self._heeding.enter_context(notice.heeded([*self._clouds, draining.source()]))
        self._epochs = trainer.run(
            assignment.config,
            self._store,
            train,
            objective=assignment.objective,
            on_begin=partial(_begin_with, assignment) if assignment.config.continues else None,
            on_progress=lambda *_: self._beat(),
            preempted=self._taken,
        )
        trainer.set_threads(threads)


def _begin_with(assignment: Assignment, own: Store) -> None:
    """Put there what a trial begins with that continues another one; a simulated one begins with nothing."""
    if assignment.trainer == trainer.TRAINER:
        from orchestrator.training import continuing

        continuing.begin(own, assignment.config)


def _is_device_lost(error: Exception) -> bool:
    # A CUDA error leaves the process's context unusable; running out of memory does not.
    return type(error).__name__ == "AcceleratorError"
