"""Continuing a sweep: each of its COMPLETE trials goes on, as a child that is so many epochs longer.

No sampler has a say in it: what there is to run follows from the rows of `trials` alone. A driver that is killed is
followed by one that reads them and comes to the same children, at whatever epoch each of them stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cpcnn_core.config import LOCATIONS, OF_THE_TOTAL, TrialConfig
from cpcnn_core.errors import CheckpointError
from orchestrator.records import lineage, ranking
from orchestrator.records.ranking import Entry
from orchestrator.records.states import State, meaning_of
from orchestrator.records.store import Row, Store, StoreError, as_int, config_of
from orchestrator.search.study import Suggestion
from orchestrator.tune.plan import Plan, SweepError


@dataclass(frozen=True)
class _Line:
    """A trial of the sweep, and those that went straight on from it, the shortest first."""

    root: Entry
    config: TrialConfig  # of the root
    children: Sequence[tuple[Entry, TrialConfig]]


class Continuation:
    """The trials that continue a sweep's. For the ledger it is what a study is for the sweep itself."""

    def __init__(self, plan: Plan, store: Store, entries: Iterable[Entry], say: Callable[[str], None]) -> None:
        """Find out which trials go on. `entries` are the sweep's own. Raise SweepError where none can."""
        self._running: dict[int, TrialConfig] = {}
        self._todo: list[Suggestion] = []
        self._known = 0  # children of earlier runs
        self.finished = 0  # children that have ended
        more = plan.more_epochs
        assert more is not None
        lines = _lines(store, entries)
        going = [line for line in lines if line.config.train.schedule not in OF_THE_TOTAL]
        _say_of_the_others(plan, lines, going, say)
        for number, line in enumerate(going):
            child = _child(plan, store, line, line.config.train.epochs + more, say)
            if child is None:
                continue
            config, entry = child
            self._known += entry is not None
            meaning = None if entry is None else entry.meaning
            if meaning is not None and meaning.ended and not (meaning.failed and plan.retry_failed):
                self.finished += 1
                continue
            recorded = line.root.trial.get("number")
            self._todo.append(Suggestion(-1 - number if recorded is None else as_int(recorded), config))
        self.total = self.finished + len(self._todo)

    @property
    def left_behind(self) -> int:
        """How many children an earlier driver began and did not finish."""
        return self._known - self.finished

    @property
    def waiting(self) -> tuple[Suggestion, ...]:
        """The trials that no process runs."""
        return tuple(self._todo)

    @property
    def is_over(self) -> bool:
        """Whether no trial is left to be asked for."""
        return not self._todo

    def next(self) -> Suggestion | None:
        """The next trial to run."""
        if not self._todo:
            return None
        suggestion = self._todo.pop(0)
        self._running[suggestion.number] = suggestion.config
        return suggestion

    def put_back(self, suggestion: Suggestion) -> None:
        """Let a running trial be the next to run, since it was interrupted."""
        self._running.pop(suggestion.number, None)
        self._todo.insert(0, suggestion)

    def reopen(self, config: TrialConfig) -> Suggestion | None:
        """No trial is stopped early here that could go on."""
        return None

    def report(self, number: int, metrics: Row) -> None:
        """Nothing: no sampler learns from it."""

    def end(self, number: int, state: State, best: Row | None) -> None:
        """A trial has ended."""
        del self._running[number]
        self.finished += 1


def _lines(store: Store, entries: Iterable[Entry]) -> list[_Line]:
    """Each COMPLETE trial of the sweep with those that went straight on from it."""
    straight: dict[str, list[tuple[Entry, TrialConfig]]] = {}
    for entry in ranking.read([store])[0]:
        if entry.trial.get("lineage.parent") is None:
            continue
        config = config_of(entry.trial)
        longer = lineage.from_the_start(store, config)
        if longer is not None:
            straight.setdefault(_of_any_length(longer), []).append((entry, config))
    lines = []
    for entry in entries:
        if entry.trial["state"] == "COMPLETE":
            config = config_of(entry.trial)
            children = straight.get(_of_any_length(config), [])
            lines.append(_Line(entry, config, sorted(children, key=lambda child: child[1].train.epochs)))
    return lines


def _of_any_length(config: TrialConfig) -> str:
    """What trials have in common that differ in their length, and in what changes no result."""
    return config.with_settings({"train.epochs": 10**6}).trial_id


def _child(
    plan: Plan, store: Store, line: _Line, total: int, say: Callable[[str], None]
) -> tuple[TrialConfig, Entry | None] | None:
    """The trial of this line with so many epochs, and its rows where it has begun; None where it cannot go on.

    It goes on from the longest one of the line that has come to its end before that.
    """
    for entry, config in line.children:
        if config.train.epochs == total:
            return config, entry
    ended = [entry for entry, config in line.children if _is_complete(entry) and config.train.epochs < total]
    parent = ended[-1] if ended else line.root
    from orchestrator.training import continuing  # torch takes seconds

    places = {name: value for name, value in plan.space.settings.items() if name in LOCATIONS}
    try:
        start = continuing.of_trial(store, parent.trial_id, continuing.Length(None, total), places)
    except (StoreError, CheckpointError) as error:
        say(f"trial {parent.trial_id} is not continued: {error}")
        return None
    for remark in start.remarks:
        say(f"trial {parent.trial_id}: {remark}")
    return start.config, None


def _is_complete(entry: Entry) -> bool:
    return entry.meaning is meaning_of("COMPLETE")


def _say_of_the_others(plan: Plan, lines: Sequence[_Line], going: Sequence[_Line], say: Callable[[str], None]) -> None:
    """Say which COMPLETE trials do not go on. Raise SweepError where none does."""
    if not lines:
        raise SweepError(f"--more-epochs: no trial of {plan.store.folder} is COMPLETE; there is nothing to continue")
    left = len(lines) - len(going)
    if not left:
        return
    names = " and ".join(sorted({line.config.train.schedule for line in lines} & OF_THE_TOTAL))
    why = (
        f"train.schedule={names} lowers the learning rate over all epochs, so that the end of a short trial is not the "
        "middle of a longer one"
    )
    way_out = (
        "A sweep of the total from the start is --set train.epochs=TOTAL with another --name; a single trial goes on "
        "by a warm restart with `trial --from TRIAL_ID --more-epochs N`"
    )
    if not going:
        raise SweepError(f"--more-epochs: {why}. {way_out}")
    say(f"{left} of {len(lines)} COMPLETE trials do not go on: {why}. {way_out}.")
