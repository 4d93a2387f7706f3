"""The trial as Ray runs it: one step is one epoch. The process is used again for the next trial."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from cpcnn_core import environment
from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.objectives.objective import Objective
from orchestrator.records.location import located
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.training import stall, trainer
from orchestrator.training.replicas import ReplicaError, Replicated

# Keys of the config that Tune hands over, and of the results that it passes back.
NUMBER, SETTINGS, FOLDER, TRAINER, CPUS, GPUS = "number", "settings", "folder", "trainer", "cpus", "gpus"
OBJECTIVE, PROCESSES = "objective", "processes"
EXTRA_RESOURCES = "extra_resources"  # what the trial asks of its node beyond CPUs and GPUs
LOG, STALL_SECONDS = "log", "stall_seconds"
METRICS, PLACE, FAILURE, STORAGE = "epoch_metrics", "place", "failure", "storage"
BUSY = "busy"  # why it failed: an orphan of an earlier attempt has not ended yet

logger = logging.getLogger(__name__)


class TrialProcess(Trainable):  # type: ignore[misc]
    """Runs trials, one after another. An exception ends the trial and not the process: a fresh one takes seconds."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """A trial's share of the machine."""
        return PlacementGroupFactory([{"CPU": config[CPUS], "GPU": config[GPUS], **config[EXTRA_RESOURCES]}])

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare the first trial of this process."""
        environment.forget_launchers()  # a cluster's node has an environment of its own
        if not config[GPUS]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all of them visible to who asks for none
        self._beat: Callable[[], None] = lambda: None
        self._epochs: Generator[EpochMetrics] | None = None
        self._place: Place | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare another trial in the same process."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch."""
        assert self._epochs is not None
        with trainer.log_to(self._log), stall.watched(self._log, self._stall_seconds) as self._beat:
            try:
                metrics = next(self._epochs, None)
                if self._place is None:
                    self._place = trainer.place()
            except Exception as error:
                if _is_device_lost(error) or isinstance(error, ReplicaError):
                    raise  # nothing more can run in this process; Tune starts another
                logger.exception("the trial failed")
                with contextlib.suppress(OSError):  # which is then what went wrong, and said already
                    self._store.publish_log(self._config.trial_id)
                return {
                    FAILURE: trainer.describe(error),
                    STORAGE: trainer.is_storage_failure(error),
                    BUSY: isinstance(error, trainer.TrialBusyError),
                    "done": True,
                }
            if metrics is None:
                return {"done": True}
            done = metrics.epoch >= self._config.train.epochs
            if done:
                self._epochs.close()
        return {**metrics.row(), METRICS: metrics, PLACE: self._place, NUMBER: self._number, "done": done}

    def cleanup(self) -> None:
        """Let go of a trial that was stopped between two epochs."""
        if self._epochs is not None:
            self._epochs.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._store = Store(located(config[FOLDER])).retrying()
        (self._store.local_mirror / "logs").mkdir(parents=True, exist_ok=True)
        self._config = TrialConfig.from_flat(config[SETTINGS])
        self._number = config[NUMBER]
        self._log = self._store.log_file(self._config.trial_id)
        self._stall_seconds = config[STALL_SECONDS]
        processes = config[PROCESSES]
        threads = max(1, config[CPUS] // processes)
        train = trainer.named(config[TRAINER]) if processes == 1 else Replicated(config[TRAINER], processes, threads)
        self._epochs = trainer.run(
            self._config,
            self._store,
            train,
            objective=Objective.from_description(config[OBJECTIVE]),
            on_progress=lambda *_: self._beat(),
        )
        trainer.set_threads(threads)


def _is_device_lost(error: Exception) -> bool:
    # A CUDA error leaves the process's context unusable; running out of memory does not.
    return type(error).__name__ == "AcceleratorError"
