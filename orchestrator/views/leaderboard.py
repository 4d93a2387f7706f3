"""The leaderboard: tables of trials, the best by a metric first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from cpcnn_core.config import Scalar
from orchestrator.objectives.objective import Objective, ParetoObjective
from orchestrator.records.ranking import Entry, differing
from orchestrator.records.store import Row, as_number
from orchestrator.text.formatting import measured_apart, settings_apart, short

_DIGESTS = frozenset({"source", "data.digest"})  # shown by their first digits


def table(entries: Sequence[Entry], objective: Objective, *, top: int = 10) -> Table:
    """The first `top` entries, with the settings in which they differ."""
    shown = [(entry, entry.best(objective) or {}) for entry in entries[:top]]
    return _table(f"the best {len(shown)} of {len(entries)} trials, by {objective.metric}", shown, objective)


def front_table(points: Sequence[tuple[Entry, Row]], objective: ParetoObjective, *, top: int = 20) -> Table:
    """The first `top` points of a Pareto front, with the settings in which their trials differ."""
    several = len({(entry.store.folder, entry.trial_id) for entry, _ in points})
    title = f"the Pareto front of {' and '.join(objective.metrics)}: {len(points)} epochs of {several} trials"
    return _table(title, points[:top], objective)


def _table(title: str, shown: Sequence[tuple[Entry, Row]], objective: Objective) -> Table:
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
    measured = [measured_apart([as_number(held.get(name)) for held in values]) for name in (*own, *extra)]
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


def epoch_of(epoch: Scalar, settings: Mapping[str, Any]) -> str:
    """`3/10`: an epoch of as many as the trial was to have. - where there is none, as with an imported checkpoint."""
    return f"{epoch}/{settings['train.epochs']}" if epoch is not None and "train.epochs" in settings else "-"
