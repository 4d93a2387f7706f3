"""One attempt at a trial, as it goes into the tables: the part that a sweep's driver and a single trial share."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.provenance import git_commit, now
from orchestrator.store import Attempt, State, Store

INTERRUPTED = "interrupted: the process that ran the trial, or its driver, ended before the trial did"


@dataclass(frozen=True)
class Place:
    """Where a trial's process runs."""

    host: str
    device: str
    pid: int
    threads: int | None = None


class Recording:
    """Writes an attempt's rows: RUNNING when it begins, each epoch as it comes, and how it ended."""

    def __init__(self, store: Store, config: TrialConfig, number: int | None, *, gpus: float | None = None) -> None:
        self.config = config
        self._store = store
        self._begun = time.monotonic()
        earlier = store.attempts_of(config.trial_id)
        left = [
            Attempt(**{name: row[name] for name in Attempt.__dataclass_fields__ if name in row})
            for row in earlier
            if row["state"] == "RUNNING"
        ]
        self._attempt = Attempt(
            trial_id=config.trial_id,
            attempt=1 + max((int(row["attempt"]) for row in earlier), default=0),
            number=number,
            state="RUNNING",
            started=now(),
            epochs=store.reported_epochs(config.trial_id),
            gpus=gpus,
            git_commit=git_commit(),
        )
        # Together: a trial whose last row is a FAILED one has ended, and would not be taken up again.
        ended = [replace(held, state="FAILED", error=held.error or INTERRUPTED) for held in left]
        store.write_attempts([*ended, self._attempt], config)

    @property
    def attempt(self) -> Attempt:
        """The row as it was last written."""
        return self._attempt

    def add(self, metrics: EpochMetrics, place: Place) -> None:
        """Write an epoch's row."""
        self._store.add_epoch(self.config.trial_id, self._attempt.attempt, metrics)
        first = self._attempt.pid is None
        self._attempt = replace(
            self._attempt,
            epochs=max(self._attempt.epochs, metrics.epoch),
            peak_memory_bytes=max(self._attempt.peak_memory_bytes or 0, metrics.peak_memory_bytes),
            host=place.host,
            device=place.device,
            pid=place.pid,
            threads=place.threads,
        )
        if first:
            self._store.write_attempt(self._attempt, self.config)

    def died(self, error: str) -> None:
        """Write why the attempt ended. The trial has not: its row says RUNNING until the next attempt begins."""
        self.finish("RUNNING", error)

    def finish(self, state: State, error: str | None = None, *, stopped: str | None = None) -> None:
        """Write how the attempt ended, and why if it FAILED (`error`) or was PRUNED (`stopped`)."""
        seconds = time.monotonic() - self._begun
        self._attempt = replace(self._attempt, state=state, error=error, stopped=stopped, ended=now(), seconds=seconds)
        self._store.write_attempt(self._attempt, self.config)
