"""Where a sweep stands as one object, for programs: what `status --json` prints, and what a live page says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from cpcnn_core.config import Scalar
from orchestrator.choosing.asked import parted
from orchestrator.objectives.objective import Objective
from orchestrator.records import ranking
from orchestrator.records.kinds import Kind, kind_of
from orchestrator.records.processes import Driver, driver_of
from orchestrator.records.ranking import Entry
from orchestrator.records.states import reason_of
from orchestrator.records.store import Store, StoreError, as_int
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text.formatting import measured
from orchestrator.views.overview import per_hour
from orchestrator.views.progress import duration

VERSION = 1
"""Of the object. It rises when a key goes or means something else; a new key alone does not raise it."""


@dataclass(frozen=True)
class BestTrial:
    """The trial that leads, and its epoch."""

    trial_id: str
    epoch: int
    metric: str
    value: float
    settings: Mapping[str, Scalar]


@dataclass(frozen=True)
class RunningTrial:
    """A trial whose state is RUNNING."""

    trial_id: str
    epoch: int  # finished ones
    epochs: int  # that it is to have
    host: str | None


@dataclass(frozen=True)
class OtherTrial:
    """A trial that failed, or waits."""

    trial_id: str
    state: str
    reason: str | None


@dataclass(frozen=True)
class SweepState:
    """One sweep. docs/sweeps.md says what each key means."""

    sweep: str
    kind: Kind
    question: str | None
    driver: str | None
    driver_alive: bool | None  # None: it cannot be told from here, or there was none
    trials_asked: int
    trials_ended: int
    states: Mapping[str, int]
    trials_per_hour: float | None
    seconds_left: float | None
    cost: float | None
    best: BestTrial | None
    running: tuple[RunningTrial, ...]
    waiting: tuple[OtherTrial, ...]
    failed: tuple[OtherTrial, ...]
    warnings: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The same in a sentence."""
        counted = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items())) or "none began"
        parts = [f"{self.sweep}: {self.trials_ended} of {self.trials_asked} trials have ended ({counted})"]
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        if self.best is not None:
            parts.append(f"best so far: {self.best.metric} {measured(self.best.value)} of {self.best.trial_id}")
        if self.driver_alive is False and self.trials_ended < self.trials_asked:
            parts.append("its driver is gone, and the same command goes on where it stood")
        return "; ".join(parts)


def described(states: Iterable[SweepState]) -> dict[str, JsonValue]:
    """The object that `status --json` prints."""
    return {"version": VERSION, "sweeps": [asdict(state) for state in states]}


def state_of(store: Store) -> SweepState:
    """The state of one sweep, from its files alone. Raise StoreError where they are out of reach."""
    entries, problems = ranking.read([store])
    try:
        record = store.read_sweep()
    except StoreError as error:
        record = None
        problems.append(str(error))
    sweep = record or SweepRecord()
    own = parted(entries, sweep).own
    runs = sweep.runs
    total = (runs[-1].trials or 0 if runs else 0) or len(own)
    ended = sum(entry.meaning.ended for entry in own)
    driver = driver_of(store)
    costs = [run.cost for run in runs if run.cost is not None]
    rate = per_hour(entry.trial for entry in own)
    return SweepState(
        sweep=store.folder.name,
        kind=kind_of(store.folder.name, record),
        question=sweep.question,
        driver=None if driver is None else driver.who,
        driver_alive=None if driver is None else driver.alive,
        trials_asked=total,
        trials_ended=ended,
        states=dict(sorted(Counter(str(entry.trial["state"]) for entry in own).items())),
        trials_per_hour=rate,
        seconds_left=_left(rate, total - ended, driver),
        cost=float(sum(costs)) if costs else None,
        best=_best(own, sweep),
        running=tuple(map(_running, (entry for entry in entries if entry.meaning.runs))),
        waiting=tuple(map(_other, (entry for entry in entries if entry.meaning.waits))),
        failed=tuple(map(_other, (entry for entry in entries if entry.meaning.failed))),
        warnings=tuple(problems),
    )


def _left(rate: float | None, left: int, driver: Driver | None) -> float | None:
    """How long the rest will take at the rate so far, while a driver runs."""
    going = driver is not None and driver.alive is not False
    return left / rate * 3600 if rate is not None and going and left > 0 else None


def _best(own: Iterable[Entry], sweep: SweepRecord) -> BestTrial | None:
    if sweep.objective is None:
        return None
    objective = Objective.from_description(sweep.objective)
    found = ranking.leader(own, objective)
    if found is None:
        return None
    entry, epoch, value = found
    return BestTrial(entry.trial_id, as_int(epoch["epoch"]), objective.metric, value, entry.settings())


def _running(entry: Entry) -> RunningTrial:
    done = as_int(entry.epochs[-1]["epoch"]) if entry.epochs else 0
    host = entry.trial["host"]
    return RunningTrial(entry.trial_id, done, as_int(entry.trial["train.epochs"]), None if host is None else str(host))


def _other(entry: Entry) -> OtherTrial:
    return OtherTrial(entry.trial_id, str(entry.trial["state"]), reason_of(entry.trial))
