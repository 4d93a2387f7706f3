"""The epochs of one or more sweeps as columns, a million at a time.

A metric's value is compared only with values that were measured alike: on the same data, by the same protocol, on the
same validation images and, where images were drawn for it, with the same extractor, number of images and reference.
"""

from __future__ import annotations

import json
import shlex
from bisect import bisect_right
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from cpcnn_core.class_names import class_in
from cpcnn_core.errors import UserError
from cpcnn_core.metrics import DIRECTIONS, FID_PROTOCOL, HELD_OUT, OF_PIXELS, least
from cpcnn_core.suggest import nearest
from orchestrator.choosing import where
from orchestrator.objectives.objective import SCORE, Direction, Objective
from orchestrator.records import arrays, data_kinds, location
from orchestrator.records.data_kinds import DATA, DEFAULTS, Data, described, kinds_of
from orchestrator.records.ranking import Entry
from orchestrator.records.states import FAILURES
from orchestrator.records.store import Row, Store, as_int
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text.formatting import plain

Floats: TypeAlias = NDArray[np.float64]
Column: TypeAlias = NDArray[Any]  # Any: of floats, or of objects, as the table has it
Drawn: TypeAlias = tuple[str | None, int | None, str | None]  # extractor, images, reference of what was drawn

_NAMED = 3  # trials in a message

_QUANTIZE = "data.quantize"
_SCORED = ("val_images", "val_images_of")
_SOURCE = "source"


class ChoiceError(UserError):
    """Nothing that could be chosen."""


@contextmanager
def naming(problems: Sequence[str]) -> Generator[None]:
    """Put what could not be read beside what keeps from a choice: it may be the reason."""
    try:
        yield
    except ChoiceError as error:
        raise ChoiceError("\n".join([str(error), *(f"warning: {problem}" for problem in problems)])) from None


class Trials:
    """The trials of several sweeps, by number. Of ten thousand most are never looked at one by one."""

    def __init__(self, tables: Sequence[tuple[Store, pa.Table]]) -> None:
        self._tables = tuple(tables)
        self._ends = np.cumsum([len(table) for _, table in self._tables]).tolist()
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> tuple[Store, Row]:
        """The trial's sweep, and its row of `trials`."""
        part = bisect_right(self._ends, number)
        store, table = self._tables[part]
        if number not in self._rows:
            at = number - (self._ends[part] - len(table))
            [self._rows[number]] = arrays.rows(table.slice(at, 1))
        return store, self._rows[number]

    def column(self, name: str) -> Column:
        """What the trials have in that column, as `_column` gives it."""
        return np.concatenate([_column(table, name) for _, table in self._tables])

    def kinds(self, columns: Sequence[str], among: NDArray[np.int64]) -> dict[Data, list[Store]]:
        """The different values that the trials of these numbers have in the columns, and the sweeps that have them."""
        found: dict[Data, list[Store]] = {}
        for end, (store, table) in zip(self._ends, self._tables, strict=True):
            chosen = np.zeros(len(table), bool)
            chosen[among[(among >= end - len(table)) & (among < end)] - (end - len(table))] = True
            if not chosen.any():
                continue  # a sweep without a trial yet has none of these columns
            for kind in kinds_of(table.filter(arrays.mask(chosen)), columns):
                found.setdefault(kind, []).append(store)
        return found


@dataclass(frozen=True)
class Candidates:
    """Epochs that have the metric and meet the conditions, best trial first, each trial's epochs in order."""

    objective: Objective
    stores: tuple[Store, ...]
    trials: Trials  # those that are in `trial`, and others
    trial: NDArray[np.int64]  # (M,) index into `trials`
    epoch: NDArray[np.int64]  # (M,)
    values: Floats  # (M,) of the metric
    standard_errors: Floats  # (M,) as recorded beside the metric, NaN where they are not
    kept: NDArray[np.bool_]  # (M,) whether the weights are on disk
    drawn: Drawn | None  # where the metric is of drawn images
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was left out

    def __len__(self) -> int:
        return len(self.trial)

    @property
    def scores(self) -> Floats:
        """The values, turned so that more is better."""
        return self.values if self.objective.direction == "max" else -self.values

    def take(self, rows: NDArray[np.int64]) -> Candidates:
        """Some of the rows."""
        columns = ("trial", "epoch", "values", "standard_errors", "kept")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def entry(self, row: int) -> tuple[Entry, Row]:
        """The trial with its epochs, and the row's epoch in full."""
        store, trial = self.trials[self.trial[row]]
        epochs = tuple(store.epochs_of(str(trial["trial_id"])))
        [epoch] = [each for each in epochs if each["epoch"] == self.epoch[row]]
        return Entry(store, trial, epochs), epoch


def read(
    stores: Sequence[Store],
    metric: str,
    *,
    mode: Direction | None = None,
    conditions: Sequence[where.Condition] = (),
    imports: bool = True,
) -> Candidates:
    """The epochs of these sweeps that have `metric` and meet the conditions, of trials that can be compared.

    Those of a trial that failed are among them only where a condition asks for trials by name, as in
    `trial_id == '0123456789ab'`. Without `imports` imported checkpoints are left out, and the notes say of how many.

    Raise ChoiceError where there is no epoch, or where they were not measured alike; WhereError for a bad condition.
    """
    problems: list[str] = []
    with naming(problems):
        return _read(stores, metric, mode, conditions, problems, imports=imports)


def _read(
    stores: Sequence[Store],
    metric: str,
    mode: Direction | None,
    conditions: Sequence[where.Condition],
    problems: list[str],
    *,
    imports: bool,
) -> Candidates:
    """`read`, which adds to `problems` as it meets them."""
    if metric in HELD_OUT:
        raise ChoiceError(f"--metric {metric}: {HELD_OUT[metric]}")
    query = _query(stores, metric, conditions, problems, imports=imports)
    objective = objective_of(metric, mode)
    trials = Trials(list(zip(stores, query.tables, strict=True)))
    parts = [_part(query, number, problems) for number in range(len(stores))]
    notes = tuple(part.note for part in parts if part.note is not None)
    if not any(len(part.trial) for part in parts):
        _refuse_none([trial_id for part in parts for trial_id in part.failed], whole=not conditions and not notes)
    values = np.concatenate([part.values for part in parts])
    usable = _is_value(values, metric)
    drawn: Drawn | None = None
    if query.compared:
        usable, drawn = _drawn_alike(parts, query, usable)
    _scored_alike(parts, query, usable)
    if not usable.any():
        raise ChoiceError(". ".join([_unmet(query), *notes]))
    starts = np.cumsum([0, *(len(table) for table in query.tables)])
    found = Candidates(
        objective,
        tuple(stores),
        trials,
        np.concatenate([part.trial + start for part, start in zip(parts, starts[:-1], strict=True)]),
        np.concatenate([part.epoch for part in parts]),
        values,
        np.concatenate([part.standard_errors for part in parts]),
        np.concatenate([part.kept for part in parts]),
        drawn,
        tuple(problems),
        notes,
    ).take(np.flatnonzero(usable))
    _comparable_values(found, {metric, *(condition.column for condition in conditions)})
    return found.take(_best_first(found))


@dataclass(frozen=True)
class _Query:
    """What is read: the metric and the conditions, and in which columns of which tables they lie."""

    stores: Sequence[Store]
    tables: Sequence[pa.Table]  # of each store's trials, the last attempt of each
    known: Mapping[str, pa.DataType]  # the columns of epochs, in any of the stores
    metric: str
    conditions: Sequence[where.Condition]
    imports: bool

    @property
    def of_epochs(self) -> list[where.Condition]:
        return [condition for condition in self.conditions if condition.column in self.known]

    @property
    def of_trials(self) -> list[where.Condition]:
        return [condition for condition in self.conditions if condition.column not in self.known]

    @property
    def compared(self) -> bool:
        """Whether values of drawn images are asked for. They compare only with their like: conditions say which."""
        columns = (self.metric, *(condition.column for condition in self.conditions))
        return self.metric == SCORE or any(map(is_drawn, columns))

    @property
    def of_validation(self) -> bool:
        """Whether values of validation images are asked for: there are trials that score only a part of them."""
        columns = {self.metric, *(condition.column for condition in self.conditions)}
        if any(column.startswith("val_") and column not in _SCORED for column in columns):
            return True
        return SCORE in columns and any(map(_reads_validation, self.stores))

    @property
    def of_drawn(self) -> list[where.Condition]:
        """The conditions that say which images, features and reference are meant, where that matters."""
        return [condition for condition in self.of_epochs if self.compared and condition.column in FID_PROTOCOL]

    @property
    def by_name(self) -> bool:
        """Whether trials are asked for by name, those that failed too."""
        return any(condition.column == "trial_id" and condition.operator == "==" for condition in self.conditions)

    @property
    def error_column(self) -> str | None:
        """Of a metric of one class there is none; what has that name may be of another class."""
        name = f"{self.metric}_standard_error"
        return name if name in self.known and class_in(self.metric) is None else None

    @property
    def columns(self) -> list[str]:
        """The columns of epochs that are read."""
        columns = [self.metric, "checkpoint", *(condition.column for condition in self.of_epochs)]
        columns += [] if self.error_column is None else [self.error_column]
        columns += list(FID_PROTOCOL) if self.compared else []
        return columns + [name for name in _SCORED if name in self.known]


def _query(
    stores: Sequence[Store],
    metric: str,
    conditions: Sequence[where.Condition],
    problems: list[str],
    *,
    imports: bool,
) -> _Query:
    """What is asked, checked against the columns that there are. Raise ChoiceError, WhereError."""
    for store in stores:
        problems += store.sweep_problems()
    known: dict[str, pa.DataType] = {}
    for store in stores:
        known |= {name: kind for name, kind in store.epoch_columns().items() if name not in known}
    tables = [store.latest_attempts() for store in stores]
    problems += [problem for table in tables for problem in table.problems]
    in_trials = {name for table in tables for name in table.columns.column_names} - {"trial_id", "attempt"}
    in_trials |= set(DEFAULTS)
    _check_metric(metric, known, stores, problems)
    where.check(conditions, [*known, *sorted(in_trials - set(known))])
    return _Query(stores, [table.columns for table in tables], known, metric, conditions, imports)


@dataclass(frozen=True)
class _Part:
    """The epochs of one store that meet the conditions, those without a value among them."""

    trial: NDArray[np.int64]  # (M,) row of the store's trials
    epoch: NDArray[np.int64]  # (M,)
    values: Floats  # (M,)
    standard_errors: Floats  # (M,)
    kept: NDArray[np.bool_]  # (M,)
    drawn: pa.Table | None  # (M,) what drawn images were measured with, where that matters
    scored: Floats  # (M,) how many validation images were scored where not all were, else NaN
    failed: list[str]  # trials that would be among them, had they not failed
    note: str | None  # what was left out


def _part(query: _Query, number: int, problems: list[str]) -> _Part:
    """Read the epochs of one store."""
    store, trials = query.stores[number], query.tables[number]
    table = store.epochs(query.columns)
    epochs = table.columns
    problems += [*table.problems, *store.orphans(trials, epochs)]
    fits, note = _fitting_trials(query, store, trials)
    at = _rows_of_trials(epochs, trials)
    mine = (at >= 0) & np.append(fits, False)[at]  # an epoch without a trial's row belongs to nobody
    for condition in query.of_epochs:
        if condition not in query.of_drawn:
            mine &= condition.holds(_column(epochs, condition.column))
    failed: list[str] = []
    if not query.by_name:
        out = np.append(np.isin(_column(trials, "state"), FAILURES), False)
        failed = [str(trials["trial_id"][int(row)]) for row in np.unique(at[mine & out[at]])]
        mine &= ~out[at]
    error_column = query.error_column
    return _Part(
        at[mine],
        arrays.integers(epochs["epoch"])[mine],
        _column(epochs, query.metric)[mine].astype(np.float64),
        np.full(int(mine.sum()), np.nan) if error_column is None else _column(epochs, error_column)[mine],
        arrays.valid(epochs["checkpoint"])[mine],
        pa.table({name: epochs[name].filter(arrays.mask(mine)) for name in FID_PROTOCOL}) if query.compared else None,
        _scored(epochs)[mine],
        failed,
        note,
    )


def _fitting_trials(query: _Query, store: Store, trials: pa.Table) -> tuple[NDArray[np.bool_], str | None]:
    """Which trials meet the conditions on trials, and a note where imported ones are left out."""
    fits = np.ones(len(trials), bool)
    for condition in query.of_trials:
        fits &= condition.holds(_column(trials, condition.column))
    if query.imports or not (imported := fits & _imported(trials)).any():
        return fits, None
    name = store.folder.name
    left_out = f"Left out: {imported.sum()} imported of {len(fits)} trials in {name}"
    return fits & ~imported, f"{left_out}, which --sweep {shlex.quote(name)} takes in"


def _rows_of_trials(epochs: pa.Table, trials: pa.Table) -> NDArray[np.int64]:
    """For each epoch the row of its trial, -1 where there is none."""
    return arrays.integers(pc.index_in(epochs["trial_id"], trials["trial_id"].combine_chunks()))


def _refuse_none(failed: Sequence[str], *, whole: bool) -> None:
    """Raise ChoiceError where only trials that failed have such epochs, or, of `whole` sweeps, no trial has any."""
    if failed:
        raise ChoiceError(
            f"the only trials with such epochs FAILED: {', '.join(failed[:_NAMED])}{' ...' * (len(failed) > _NAMED)}; "
            f"to choose one all the same, name it: --where \"trial_id == '{failed[0]}'\""
        )
    if whole:
        raise ChoiceError("no trial has finished an epoch yet")


def _comparable_values(found: Candidates, reads: set[str]) -> None:
    """Raise ChoiceError where the trials' data, protocols, objectives or pixels keep the columns from comparing."""
    there = np.unique(found.trial)
    kinds = found.trials.kinds(DATA, there)
    _comparable(kinds)
    if found.objective.metric == SCORE:
        objective = _one_objective({store.folder: store for of in kinds.values() for store in of}.values())
        reads = reads if objective is None else {*reads, *objective.reads}
    _rounded_alike(found.trials.kinds((_QUANTIZE,), there), sorted(reads & OF_PIXELS))


def _best_first(found: Candidates) -> NDArray[np.int64]:
    """The order of rows: the best trial first, of equals the one that began earlier; each trial's epochs in order."""
    best = np.full(len(found.trials), -np.inf)
    np.maximum.at(best, found.trial, found.scores)
    started = np.argsort(found.trials.column("started").astype(str).argsort(kind="stable"))
    return np.lexsort((found.epoch, found.trial, started[found.trial], -best[found.trial]))


def is_drawn(column: str) -> bool:
    """Whether the column's values come from images that the model drew."""
    return column.startswith(("fid", "kid")) and column not in FID_PROTOCOL


# ------------------------------------------------------------------------------------------------------- alike or not


def _check_metric(metric: str, known: Mapping[str, pa.DataType], stores: Iterable[Store], problems: list[str]) -> None:
    numbers = [name for name, kind in known.items() if pa.types.is_floating(kind)]
    if metric not in numbers:
        problems += [problem for store in stores for problem in store.epochs(()).problems]  # which may have it
        raise ChoiceError(f"--metric {metric}: no such metric{nearest(metric, numbers)}")


def objective_of(metric: str, mode: Direction | None) -> Objective:
    """The metric with its own direction, or the given one. Raise ChoiceError where it has none."""
    of_class = class_in(metric)
    natural = DIRECTIONS.get(metric if of_class is None else of_class[0])
    if mode is None and natural is None:
        raise ChoiceError(f"--metric {metric}: which way is it better? Give --mode max or --mode min")
    return Objective(metric, mode or ("max" if natural == "max" else "min"))


def _drawn_alike(
    parts: Sequence[_Part], query: _Query, usable: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], Drawn | None]:
    """The rows that meet conditions on what was drawn, and what they have in common. Raise ChoiceError."""
    table = pa.concat_tables([part.drawn for part in parts])
    for condition in query.of_drawn:
        usable = usable & condition.holds(_column(table, condition.column))
    kinds = data_kinds.rows_of(table.filter(arrays.mask(usable)), FID_PROTOCOL)
    kinds = [kind for kind in kinds if any(value is not None for value in kind.values())]
    if len(kinds) > 1:
        listed = "; ".join(", ".join(f"{name}={kind[name]}" for name in FID_PROTOCOL) for kind in kinds)
        differing = next(name for name in FID_PROTOCOL if len({kind[name] for kind in kinds}) > 1)
        value = kinds[0][differing]
        example = where.Condition(differing, "==", value if isinstance(value, str) else float(as_int(value)))
        raise ChoiceError(
            f"--metric {query.metric}: its values, or those of --where, were not measured alike, and cannot be "
            f"compared ({listed}); choose one kind with --where {shlex.quote(str(example))}, or a sweep with --sweep"
        )
    if not kinds:
        return usable, None
    extractor, images, reference = (kinds[0][name] for name in FID_PROTOCOL)
    named = tuple(None if name is None else str(name) for name in (extractor, reference))
    return usable, (named[0], None if images is None else as_int(images), named[1])


def _scored(epochs: pa.Table) -> Floats:
    """How many validation images were scored where that is not all of them, else NaN."""
    images, of = (_column(epochs, name).astype(np.float64) for name in _SCORED)
    return np.where(images < of, images, np.nan)


def _scored_alike(parts: Sequence[_Part], query: _Query, usable: NDArray[np.bool_]) -> None:
    """Raise ChoiceError where the metric of some rows is of other validation images than that of others."""
    if not query.of_validation:
        return
    ends = np.cumsum([len(part.scored) for part in parts])[:-1]
    found: dict[float | None, list[Store]] = {}
    for store, part, rows in zip(query.stores, parts, np.split(usable, ends), strict=True):
        for images in np.unique(part.scored[rows]).tolist():
            found.setdefault(None if images != images else images, []).append(store)
    if len(found) <= 1:
        return
    listed = "; ".join(
        f"{_names(stores)}: {'all' if images is None else f'{images:,.0f} of them'}" for images, stores in found.items()
    )
    example = where.Condition(_SCORED[0], "==", max(images for images in found if images is not None))
    raise ChoiceError(
        f"--metric {query.metric}: its values, or those of --where, are of different validation images "
        f"(eval.max_images), and do not compare ({listed}); choose one kind with --where {shlex.quote(str(example))}, "
        "or a sweep with --sweep"
    )


def _reads_validation(store: Store) -> bool:
    """Whether a metric of validation images is part of the sweep's score."""
    asked = (store.read_sweep() or SweepRecord()).objective
    return asked is not None and any(name.startswith("val_") for name in Objective.from_description(asked).reads)


def _unmet(query: _Query) -> str:
    """Why no epoch is left: how many each condition rules out, and by how little."""
    found: dict[where.Condition, list[Column]] = {condition: [] for condition in query.conditions}
    count = 0
    for store, trials in zip(query.stores, query.tables, strict=True):
        epochs = store.epochs([query.metric, *(condition.column for condition in query.of_epochs)]).columns
        at = _rows_of_trials(epochs, trials)
        rows = _with_value(query, epochs, trials, at)
        count += len(rows)
        for condition, values in found.items():
            in_epochs = condition.column in query.known
            column = _column(epochs if in_epochs else trials, condition.column)
            if len(rows):
                values.append(column[rows if in_epochs else at[rows]])
    if not count or not query.conditions:
        return f"--metric {query.metric}: null in every epoch of every trial; nothing to choose by"
    lines = [_ruled_out(condition, values, count) for condition, values in found.items()]
    asked = " and ".join(map(str, query.conditions))
    together = ". Each is met by some epoch, and all together by none" if all(line[0] for line in lines) else ""
    return (
        f"--where {asked}: no epoch meets it. Of {count} epochs with a {query.metric}, "
        f"{', '.join(line for _, line in lines)}{together}"
    )


def _with_value(query: _Query, epochs: pa.Table, trials: pa.Table, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of epochs that have the metric, of trials that may be chosen, conditions apart."""
    may = np.full(len(trials), query.imports) | ~_imported(trials)
    may &= query.by_name | ~np.isin(_column(trials, "state"), FAILURES)
    values = _column(epochs, query.metric).astype(np.float64)
    return np.flatnonzero((at >= 0) & np.append(may, False)[at] & _is_value(values, query.metric))


def _is_value(values: Floats, metric: str) -> NDArray[np.bool_]:
    is_value: NDArray[np.bool_] = np.isfinite(values) & (values >= least(metric))
    return is_value


def _ruled_out(condition: where.Condition, values: Sequence[Column], count: int) -> tuple[bool, str]:
    """Whether any epoch meets the condition, and how many do not."""
    met = sum(int(condition.holds(part).sum()) for part in values)
    if met:
        return True, f"{condition} rules out {count - met}"
    nearest = condition.nearest(value for part in values for value in part)
    if nearest is None:
        return False, f"{condition} rules out all, since none has a {condition.column}"
    missing = sum(value is None or value != value for part in values for value in part)
    also = f"; {missing} without a value" if missing else ""
    what = f"there is {nearest}" if isinstance(condition.value, str) else f"the nearest is {nearest}"
    return False, f"{condition} rules out all ({what}{also})"


def _imported(trials: pa.Table) -> NDArray[np.bool_]:
    """Which of the trials are imported checkpoints."""
    there = _SOURCE in trials.column_names
    return arrays.valid(trials[_SOURCE]) if there else np.zeros(len(trials), bool)


def _comparable(kinds: Mapping[Data, Sequence[Store]]) -> None:
    """Raise ChoiceError where the trials, by what data they saw and by which protocol, do not compare."""
    if len(kinds) <= 1:
        return
    listed = "; ".join(f"{_names(stores)}: {described(data, *kinds)}" for data, stores in kinds.items())
    differing = [name for at, name in enumerate(DATA) if len({data[at] for data in kinds}) > 1]
    what, also = "saw different data", ", and give trials of other data a folder of their own with --name"
    if differing == ["protocol"]:
        what, also = "were trained and measured by different protocols", ""
    raise ChoiceError(
        f"these trials {what}, which no metric compares ({listed}); choose a sweep with --sweep{_or_where(kinds)}{also}"
    )


def _or_where(kinds: Mapping[Data, Sequence[Store]]) -> str:
    """The condition that chooses among the data of one sweep, which --sweep does not."""
    names = [store.folder.name for stores in kinds.values() for store in stores]
    if len(set(names)) == len(names):
        return ""
    last = list(kinds)[-1]
    for at, name in enumerate(DATA):
        value = last[at]
        if value is not None and all(data[at] != value for data in kinds if data is not last):
            shown = value if isinstance(value, str) else float(value)
            return f" or a kind with --where {shlex.quote(str(where.Condition(name, '==', shown)))}"
    return ""


def _rounded_alike(kinds: Mapping[Data, Sequence[Store]], reads: Sequence[str]) -> None:
    """Raise ChoiceError where trials with and without rounded pixels are compared by a likelihood of pixels."""
    if len(kinds) > 1 and reads:
        listed = "; ".join(f"{_names(stores)}: {_QUANTIZE}={plain(value)}" for (value,), stores in kinds.items())
        raise ChoiceError(
            f"{' and '.join(reads)} of trials that round pixels to the 256 levels and of trials that do not are of "
            f"different pixels, and do not compare ({listed}): on rounded pixels it is the code length of an image, on "
            "resized floats none. Metrics of classification, as val_acc, do compare; choose one kind with --where "
            f'"{_QUANTIZE} == 1", or a sweep with --sweep'
        )


def _names(stores: Iterable[Store]) -> str:
    return ", ".join(sorted({store.folder.name for store in stores}))


def _one_objective(stores: Iterable[Store]) -> Objective | None:
    """What makes the sweeps' `score`. Raise ChoiceError where each makes its own of an epoch."""
    objectives: dict[str, list[str]] = {}
    for store in stores:
        asked = (store.read_sweep() or SweepRecord()).objective
        objectives.setdefault(json.dumps(asked, sort_keys=True), []).append(store.folder.name)
    if len(objectives) > 1:
        listed = "; ".join(f"{', '.join(names)}: {objective}" for objective, names in objectives.items())
        raise ChoiceError(
            f"--metric {SCORE}: these sweeps have different objectives, whose scores do not compare ({listed}); choose "
            "one with --sweep, or a metric that is the same in all"
        )
    asked = json.loads(next(iter(objectives)))
    return None if asked is None else Objective.from_description(asked)


def _column(table: pa.Table, name: str) -> Column:
    """A column for numpy: floats with NaN where it is null, other kinds as objects with None."""
    if name not in table.column_names:
        return np.full(len(table), float(DEFAULTS.get(name, np.nan)))
    column = table[name]
    if name in DEFAULTS:
        column = column.fill_null(DEFAULTS[name])
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return arrays.numbers(column)
    is_time = pa.types.is_timestamp(column.type)
    return np.array(arrays.times(column) if is_time else column.to_pylist(), dtype=object)


def folder_size(entry: tuple[Store, Row], epoch: int) -> float | None:
    """The bytes of an epoch's weights on disk, None where they are not there."""
    store, trial = entry
    return location.size(store.checkpoint_folder(str(trial["trial_id"])) / f"weights-{epoch:04d}.safetensors")
