"""The leaderboard: tables of trials, the best by a metric first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

from cpcnn_core.config import Scalar
from orchestrator.objectives.objective import Objective, ParetoObjective
from orchestrator.records.ranking import Entry, differing
from orchestrator.records.store import Cell, Row, as_number
from orchestrator.text.formatting import measured_apart, settings_apart, short

_DIGESTS = frozenset({"source", "data.digest", "lineage.weights"})  # shown by their first digits


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
    configurations = [entry.settings() for entry, _ in shown]
    varied = differing(configurations)
    names = {field: field.rpartition(".")[2] for field in varied}
    metrics = _metric_cells([row for _, row in shown], objective)
    numbers = (*metrics, "epoch")
    sweep = ["sweep"] if len({entry.store.folder for entry, _ in shown}) > 1 else []
    limits = ["limits"] if any(objective.violations(row) for _, row in shown) else []
    made = Table(title=title, box=SIMPLE_HEAD)
    for column in ("", *sweep, "trial", *numbers, *limits, *names.values(), "state"):
        made.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    settings = setting_cells(configurations, varied)
    for index, (entry, row) in enumerate(shown):
        made.add_row(
            str(index + 1),
            *([entry.store.folder.name] if sweep else []),
            entry.trial_id,
            *(cells[index] for cells in metrics.values()),
            epoch_of(row.get("epoch"), configurations[index]),
            *([_kept_limits(row, objective)] if limits else []),
            *settings[index],
            str(entry.trial["state"]),
        )
    return kept_whole(made, "", "sweep", "trial", *numbers, *limits)


def _metric_cells(rows: Sequence[Row], objective: Objective) -> dict[str, list[str]]:
    """The cells of each column of numbers: what the objective is and reads, and accuracy and bits per dimension."""
    names = dict.fromkeys((objective.metric, *objective.reads, "val_acc", "val_bpd"))
    values: Sequence[Row] = rows
    if objective.metric not in objective.reads:
        # The score from the metrics, since the column of that name may be what another objective made of them.
        values = [{**row, objective.metric: objective.value(row)} for row in rows]
    return {name: measured_apart([as_number(row.get(name)) for row in values]) for name in names}


def _kept_limits(row: Row, objective: Objective) -> str:
    if not row:
        return "-"
    return "broken" if any(violation > 0 for violation in objective.violations(row).values()) else "kept"


def kept_whole(table: Table, *heads: str) -> Table:
    """The table, these columns of which are never narrower than what is in them, however many others there are."""
    for column in table.columns:
        if column.header in heads:
            column.min_width = max(cell_len(str(cell)) for cell in column.cells)
    return table


def setting_cells(settings: Sequence[Mapping[str, Scalar]], fields: Sequence[str]) -> list[list[str]]:
    """A row of cells for each configuration, one for each field; empty where it does not have the field."""
    columns = []
    for field in fields:
        values = [each[field] for each in settings if field in each]
        if field in _DIGESTS:
            values = [value and short(str(value)) for value in values]
        texts = iter(settings_apart(values))
        columns.append([next(texts) if field in each else "" for each in settings])
    return [[column[row] for column in columns] for row in range(len(settings))]


def epoch_of(epoch: Cell, settings: Mapping[str, Scalar]) -> str:
    """`3/10`: an epoch of as many as the trial was to have. - where there is none, as with an imported checkpoint."""
    return f"{epoch}/{settings['train.epochs']}" if epoch is not None and "train.epochs" in settings else "-"
