"""One attempt at a trial, as it goes into the tables: the part that a sweep's driver and a single trial share."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records.provenance import git_commit, moment
from orchestrator.records.states import State, meaning_of
from orchestrator.records.store import Attempt, Row, Store, as_int, attempt_of

KILLED = "the process that ran the trial, or its driver, ended before the trial did"


@dataclass(frozen=True)
class Place:
    """Where a trial's process runs."""

    host: str
    device: str
    pid: int
    threads: int | None = None


class Recording:
    """Writes an attempt's rows: RUNNING when it begins, each epoch as it comes, and how it ended."""

    def __init__(
        self,
        store: Store,
        config: TrialConfig,
        number: int | None,
        *,
        gpus: float | None = None,
        place: Place | None = None,
    ) -> None:
        """Write that an attempt begins; where its process runs is known from the first epoch on, or is `place`."""
        self.config = config
        self._store = store
        self._begun = time.monotonic()
        earlier = store.attempts_of(config.trial_id)
        self._attempt = Attempt(
            trial_id=config.trial_id,
            attempt=1 + max((as_int(row["attempt"]) for row in earlier), default=0),
            number=number,
            state="RUNNING",
            started=moment(),
            epochs=store.reported_epochs(config),
            gpus=gpus,
            git_commit=git_commit(),
            **({} if place is None else asdict(place)),
        )
        self._has_epochs = False
        store.write_attempts([*_closed(store, earlier), self._attempt], config)

    @property
    def attempt(self) -> Attempt:
        """The row as it was last written."""
        return self._attempt

    def add(self, metrics: EpochMetrics, place: Place) -> None:
        """Write an epoch's row."""
        self._store.add_epoch(self.config.trial_id, self._attempt.attempt, metrics)
        first, self._has_epochs = not self._has_epochs, True
        self._attempt = replace(
            self._attempt,
            epochs=max(self._attempt.epochs, metrics.epoch),
            peak_memory_bytes=max(self._attempt.peak_memory_bytes or 0, metrics.peak_memory_bytes),
            **asdict(place),
        )
        if first:
            self._store.write_attempt(self._attempt, self.config)

    def finish(self, state: State, error: str | None = None, *, stopped: str | None = None) -> None:
        """Write how the attempt ended, and why: `error` where it FAILED, else `stopped`."""
        seconds = time.monotonic() - self._begun
        self._attempt = replace(
            self._attempt, state=state, error=error, stopped=stopped, ended=moment(), seconds=seconds
        )
        self._store.write_attempt(self._attempt, self.config)


def close_orphaned(store: Store, config: TrialConfig) -> None:
    """Have the tables say of a trial whose driver was killed that it does not run, though nobody takes it up now."""
    closed = _closed(store, store.attempts_of(config.trial_id))
    if closed:
        store.write_attempts(closed, config)


def _closed(store: Store, rows: Iterable[Row]) -> list[Attempt]:
    """The attempts of these rows of one trial that nobody ended, as INTERRUPTED, with what their epochs say of them.

    When such an attempt ended nobody knows: `ended` and `seconds` stay null.
    """
    left = [row for row in rows if meaning_of(row["state"]).runs]
    attempts = [attempt_of(row) for row in left]
    epochs = store.epochs_of(attempts[0].trial_id) if attempts else []
    return [_as_far_as(replace(attempt, state="INTERRUPTED", stopped=KILLED), epochs) for attempt in attempts]


def _as_far_as(attempt: Attempt, epochs: Iterable[Row]) -> Attempt:
    """The attempt with what the rows of its epochs add: its own row was last written after the first of them."""
    own = [row for row in epochs if row["attempt"] == attempt.attempt]
    peaks = [attempt.peak_memory_bytes, *(row.get("peak_memory_bytes") for row in own)]
    return replace(
        attempt,
        epochs=max([attempt.epochs, *(as_int(row["epoch"]) for row in own)]),
        peak_memory_bytes=max((as_int(peak) for peak in peaks if peak is not None), default=None),
    )
