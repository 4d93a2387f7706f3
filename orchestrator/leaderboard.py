"""Trials in order of a metric: what `sweep` prints at its end and `best` chooses from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from cpcnn_core.config import LOCATIONS, field_names
from orchestrator.formatting import measured_apart, settings_apart, short
from orchestrator.objective import Objective, ParetoObjective, pareto_front
from orchestrator.states import Meaning, meaning_of
from orchestrator.store import OPTION_PREFIX, Store

_DIGESTS = frozenset({"source", "data.digest"})  # shown by their first digits

# What a checkpoint file does not tell of the network in it. The rest of an imported trial's configuration is read off
# the file, or says how the trial was measured here.
_OF_TRAINING = frozenset({"data.train_fraction", "model.dropout", "model.dropout_kind", "seed"})


def is_of_training(field: str) -> bool:
    """Whether the field says how a network was trained, which nobody knows of an imported one."""
    return field.startswith("train.") or field in _OF_TRAINING


@dataclass(frozen=True)
class Entry:
    """A trial with its epochs."""

    store: Store
    trial: dict[str, Any]  # its last attempt's row
    epochs: tuple[dict[str, Any], ...]

    @property
    def trial_id(self) -> str:
        return str(self.trial["trial_id"])

    @property
    def meaning(self) -> Meaning:
        """What its state means."""
        return meaning_of(self.trial["state"])

    def best(self, objective: Objective, *, kept: bool = False) -> dict[str, Any] | None:
        """Its best epoch, or its best epoch whose weights are on disk; None where no epoch has the metric."""
        rows = [row for row in self.epochs if row["checkpoint"] is not None] if kept else self.epochs
        return dict(best) if (best := objective.best(rows)) is not None else None

    @property
    def is_imported(self) -> bool:
        """Whether it is a checkpoint of somebody else's training."""
        return self.trial.get("source") is not None

    def settings(self) -> dict[str, Any]:
        """Its configuration, flat; of an imported checkpoint what is known."""
        names = set(field_names())
        return {
            key: value
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
        of_trial: dict[str, list[dict[str, Any]]] = {}
        for row in epochs.rows():
            of_trial.setdefault(row["trial_id"], []).append(row)
        entries += [Entry(store, row, tuple(of_trial.get(row["trial_id"], ()))) for row in trials.rows()]
    return entries, problems


def ranked(entries: Iterable[Entry], objective: Objective, *, kept: bool = False) -> list[Entry]:
    """Best first, of equals the one that began earlier; then those without the metric, last those that failed."""

    def order(entry: Entry) -> tuple[bool, bool, tuple[float, ...], str]:
        best = entry.best(objective, kept=kept)
        key = None if best is None else objective.order(best)
        return entry.meaning.failed, key is None, key or (), entry.trial["started"]

    return sorted(entries, key=order)


def leader(entries: Iterable[Entry], objective: Objective) -> tuple[Entry, dict[str, Any], float] | None:
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


def front(entries: Iterable[Entry], objective: ParetoObjective) -> list[tuple[Entry, dict[str, Any]]]:
    """The Pareto front over all epochs of all trials that did not fail, the best by the first metric first."""

    def point(held: tuple[Entry, dict[str, Any]]) -> tuple[float, ...]:
        values = objective.values(held[1])
        assert values is not None
        return values

    points: list[tuple[Entry, dict[str, Any]]] = []
    for entry in sound(entries):
        measured = [(entry, row) for row in entry.epochs if objective.values(row) is not None]
        points += pareto_front(measured, point, objective.directions)  # what a trial beats itself cannot be on it
    return pareto_front(points, point, objective.directions)


def table(entries: Sequence[Entry], objective: Objective, *, top: int = 10) -> Table:
    """The first `top` entries, with the settings in which they differ."""
    shown = [(entry, entry.best(objective) or {}) for entry in entries[:top]]
    return _table(f"the best {len(shown)} of {len(entries)} trials, by {objective.metric}", shown, objective)


def front_table(points: Sequence[tuple[Entry, dict[str, Any]]], objective: ParetoObjective, *, top: int = 20) -> Table:
    """The first `top` points of a Pareto front, with the settings in which their trials differ."""
    several = len({(entry.store.folder, entry.trial_id) for entry, _ in points})
    title = f"the Pareto front of {' and '.join(objective.metrics)}: {len(points)} epochs of {several} trials"
    return _table(title, points[:top], objective)


def _table(title: str, shown: Sequence[tuple[Entry, dict[str, Any]]], objective: Objective) -> Table:
    made = Table(title=title, box=SIMPLE_HEAD)
    several = len({entry.store.folder for entry, _ in shown}) > 1
    varied = differing([entry.settings() for entry, _ in shown])
    names = {field: field.rpartition(".")[2] for field in varied}
    # The score from the metrics, since the column of that name may be what another objective made of them.
    own = dict.fromkeys((objective.metric, *objective.reads))
    extra = [name for name in ("val_acc", "val_bpd") if name not in own]
    numbers = (*own, *extra, "epoch")
    limits = ["limits"] if any(objective.violations(row) for _, row in shown) else []
    for column in ("", *(["sweep"] if several else []), "trial", *numbers, *limits, *names.values(), "state"):
        made.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    values = [
        row if objective.metric in objective.reads else {**row, objective.metric: objective.value(row)}
        for _, row in shown
    ]
    measured = [measured_apart([held.get(name) for held in values]) for name in (*own, *extra)]
    settings = setting_cells([entry.settings() for entry, _ in shown], varied)
    for rank, (entry, row) in enumerate(shown, start=1):
        broken = any(violation > 0 for violation in objective.violations(row).values())
        made.add_row(
            str(rank),
            *([entry.store.folder.name] if several else []),
            entry.trial_id,
            *(column[rank - 1] for column in measured),
            epoch_of(row.get("epoch"), entry.settings()),
            *(["-" if not row else "broken" if broken else "kept"] if limits else []),
            *settings[rank - 1],
            str(entry.trial["state"]),
        )
    return kept_whole(made, "", "sweep", "trial", *numbers, *limits)


def kept_whole(table: Table, *heads: str) -> Table:
    """The table, these columns of which are never narrower than what is in them, however many others there are."""
    for column in table.columns:
        if column.header in heads:
            column.min_width = max(cell_len(str(cell)) for cell in column.cells)
    return table


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which configurations differ, where the data lies apart.

    What is not known of one of them, an imported checkpoint, is no difference. A fusion's option that one does not have
    is.
    """
    fields = dict.fromkeys(field for held in settings for field in held if field not in LOCATIONS)
    return [field for field in fields if len(_known(field, settings)) > 1]


def _known(field: str, settings: Sequence[Mapping[str, Any]]) -> set[str]:
    return {repr(held.get(field)) for held in settings if field in held or field.startswith(OPTION_PREFIX)}


def setting_cells(settings: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> list[list[str]]:
    """A row of cells for each configuration, one for each field; empty where it does not have the field."""
    columns = []
    for field in fields:
        values = [held[field] for held in settings if field in held]
        if field in _DIGESTS:
            values = [value and short(value) for value in values]
        texts = iter(settings_apart(values))
        columns.append([next(texts) if field in held else "" for held in settings])
    return [[column[row] for column in columns] for row in range(len(settings))]


def epoch_of(epoch: int | None, settings: Mapping[str, Any]) -> str:
    """`3/10`: an epoch of as many as the trial was to have. - where there is none, as with an imported checkpoint."""
    return f"{epoch}/{settings['train.epochs']}" if epoch is not None and "train.epochs" in settings else "-"
