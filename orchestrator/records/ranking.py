"""Trials with their epochs, and their order by an objective: what `sweep` prints at its end and `best` chooses from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cpcnn_core.config import Scalar, field_names, not_identifying
from orchestrator.objectives.objective import Objective, ParetoObjective, pareto_front
from orchestrator.records.states import Meaning, meaning_of
from orchestrator.records.store import OPTION_PREFIX, Row, Store, as_scalar, as_time

# What a checkpoint file does not tell of the network in it. The rest of an imported trial's configuration is read off
# the file, or says how the trial was measured here.
_OF_TRAINING = frozenset({"data.train_fraction", "model.dropout", "model.dropout_kind", "seed"})


# What follows from which trial another one continues.
_OF_THE_PARENT = frozenset({"lineage.root", "lineage.weights", "lineage.epochs_before", "lineage.steps_before"})


def is_of_training(field: str) -> bool:
    """Whether the field says how a network was trained, which nobody knows of an imported one."""
    return field.startswith("train.") or field in _OF_TRAINING


_LAST = datetime.max.replace(tzinfo=UTC)  # where it is not known when a trial began


@dataclass(frozen=True)
class Entry:
    """A trial with its epochs."""

    store: Store
    trial: Row  # its last attempt's row
    epochs: tuple[Row, ...]

    @property
    def trial_id(self) -> str:
        return str(self.trial["trial_id"])

    @property
    def meaning(self) -> Meaning:
        """What its state means."""
        return meaning_of(self.trial["state"])

    def best(self, objective: Objective, *, kept: bool = False) -> Row | None:
        """Its best epoch, or its best epoch whose weights are on disk; None where no epoch has the metric."""
        rows = [row for row in self.epochs if row["checkpoint"] is not None] if kept else self.epochs
        return objective.best(rows)

    @property
    def is_imported(self) -> bool:
        """Whether it is a checkpoint of somebody else's training."""
        return self.trial.get("source") is not None

    def settings(self) -> dict[str, Scalar]:
        """Its configuration, flat; of an imported checkpoint what is known."""
        names = set(field_names())
        return {
            key: as_scalar(value)
            for key, value in self.trial.items()
            if (key in names or (key.startswith(OPTION_PREFIX) and value is not None))
            and not (self.is_imported and is_of_training(key))
        }


def read(stores: Iterable[Store]) -> tuple[list[Entry], list[str]]:
    """All trials of the given sweeps, and a line for each file that could not be read."""
    entries, problems = [], []
    for store in stores:
        trials, epochs = store.latest_attempts(), store.epochs()
        problems += [*trials.problems, *epochs.problems, *store.orphans(trials.columns, epochs.columns)]
        of_trial: dict[str, list[Row]] = {}
        for row in epochs.rows():
            of_trial.setdefault(str(row["trial_id"]), []).append(row)
        entries += [Entry(store, row, tuple(of_trial.get(str(row["trial_id"]), ()))) for row in trials.rows()]
    return entries, problems


def ranked(entries: Iterable[Entry], objective: Objective, *, kept: bool = False) -> list[Entry]:
    """Best first, of equals the one that began earlier; then those without the metric, last those that failed."""

    def order(entry: Entry) -> tuple[bool, bool, tuple[float, ...], datetime]:
        best = entry.best(objective, kept=kept)
        key = None if best is None else objective.order(best)
        started = entry.trial["started"]  # null in a file that somebody else wrote
        return entry.meaning.failed, key is None, key or (), _LAST if started is None else as_time(started)

    return sorted(entries, key=order)


def leader(entries: Iterable[Entry], objective: Objective) -> tuple[Entry, Row, float] | None:
    """The best trial, its best epoch, and what that is worth; None where no trial that did not fail has a value."""
    for entry in ranked(sound(entries), objective)[:1]:
        epoch = entry.best(objective)
        value = None if epoch is None else objective.value(epoch)
        if epoch is not None and value is not None:
            return entry, epoch, value
    return None


def sound(entries: Iterable[Entry]) -> list[Entry]:
    """Those that did not fail."""
    return [entry for entry in entries if not entry.meaning.failed]


def front(entries: Iterable[Entry], objective: ParetoObjective) -> list[tuple[Entry, Row]]:
    """The Pareto front over all epochs of all trials that did not fail, the best by the first metric first."""

    def point(measured: tuple[Entry, Row]) -> tuple[float, ...]:
        values = objective.values(measured[1])
        assert values is not None
        return values

    points: list[tuple[Entry, Row]] = []
    for entry in sound(entries):
        measured = [(entry, row) for row in entry.epochs if objective.values(row) is not None]
        points += pareto_front(measured, point, objective.directions)  # what a trial beats itself cannot be on it
    return pareto_front(points, point, objective.directions)


def differing(settings: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """The fields in which configurations differ, those apart that change no result.

    Of a trial that continues another one its parent tells the rest of its lineage. What is not known of one of them, an
    imported checkpoint, is no difference. A fusion's option that one does not have is.
    """
    apart = _OF_THE_PARENT.union(*map(not_identifying, settings))
    fields = dict.fromkeys(field for each in settings for field in each if field not in apart)
    return [field for field in fields if len(_known(field, settings)) > 1]


def _known(field: str, settings: Sequence[Mapping[str, Scalar]]) -> set[str]:
    return {repr(each.get(field)) for each in settings if field in each or field.startswith(OPTION_PREFIX)}
