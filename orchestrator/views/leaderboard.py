"""The leaderboard: tables of trials, the best by a metric first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cpcnn_core.config import Scalar
from orchestrator.objectives.objective import Objective, ParetoObjective
from orchestrator.records import trial_ids
from orchestrator.records.ranking import Entry, differing
from orchestrator.records.store import Cell, Row, Store, as_number
from orchestrator.text.formatting import measured_apart, settings_apart, short
from orchestrator.views.board import Board, Column, Rank

TRIAL = "trial"
NAMES = ("", TRIAL)  # the columns by which the lines below a table call a row

_DIGESTS = frozenset({"source", "data.digest", "lineage.weights"})  # shown by their first digits


def table(entries: Sequence[Entry], objective: Objective, *, top: int = 10, wide: bool = False) -> Board:
    """The first `top` entries, with the settings in which they differ."""
    shown = [(entry, entry.best(objective) or {}) for entry in entries[:top]]
    title = f"the best {len(shown)} of {len(entries)} trials, by {objective.metric}"
    return _board(title, shown, objective, wide=wide)


def front_table(
    points: Sequence[tuple[Entry, Row]], objective: ParetoObjective, *, top: int = 20, wide: bool = False
) -> Board:
    """The first `top` points of a Pareto front, with the settings in which their trials differ."""
    several = len({(entry.store.folder, entry.trial_id) for entry, _ in points})
    title = f"the Pareto front of {' and '.join(objective.metrics)}: {len(points)} epochs of {several} trials"
    return _board(title, points[:top], objective, wide=wide)


def _board(title: str, shown: Sequence[tuple[Entry, Row]], objective: Objective, *, wide: bool) -> Board:
    entries, rows = [entry for entry, _ in shown], [row for _, row in shown]
    configurations = [entry.settings() for entry in entries]
    columns = [ranks(len(shown)), *_names(entries)]
    for name, cells in _metric_cells(rows, objective).items():
        made_of = Rank.VALUE if name in objective.reads else Rank.BESIDE
        columns.append(Column(name, cells, Rank.ALWAYS if name == objective.metric else made_of, is_number=True))
    epochs = [epoch_of(row.get("epoch"), settings) for row, settings in zip(rows, configurations, strict=True)]
    columns.append(Column("epoch", epochs, is_number=True))
    if any(objective.violations(row) for row in rows):
        columns.append(Column("limits", [_kept_limits(row, objective) for row in rows], Rank.VALUE))
    columns += setting_columns(configurations)
    columns.append(Column("state", [str(entry.trial["state"]) for entry in entries], Rank.LAST))
    return Board(title, columns, names=NAMES, wide=wide)


def _names(entries: Sequence[Entry]) -> list[Column]:
    stores = {entry.store.folder: entry.store for entry in entries}
    return names_of([(entry.store.folder.name, entry.trial_id) for entry in entries], stores.values())


def ranks(count: int) -> Column:
    """The first column: who is first, second and so on."""
    return Column("", [str(index + 1) for index in range(count)], Rank.ALWAYS, is_number=True)


def names_of(trials: Sequence[tuple[str, str]], stores: Iterable[Store]) -> list[Column]:
    """The columns that say which trials these are: of which sweep, where there are several, and the id.

    Of the id as much as no other trial has in the folders of results that the sweeps in `stores` lie in.
    """
    ids = trial_ids.shortened((trial_id for _, trial_id in trials), trial_ids.beside(stores))
    column = Column(TRIAL, [ids[trial_id] for _, trial_id in trials], Rank.ALWAYS)
    sweeps = [sweep for sweep, _ in trials]
    return [column] if len(set(sweeps)) < 2 else [Column("sweep", sweeps, Rank.VALUE), column]


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


def setting_columns(settings: Sequence[Mapping[str, Scalar]]) -> list[Column]:
    """A column for each field in which configurations differ."""
    varied = differing(settings)
    rows = setting_cells(settings, varied)
    return [
        Column(field.rpartition(".")[2], [row[index] for row in rows], Rank.SETTING)
        for index, field in enumerate(varied)
    ]


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
