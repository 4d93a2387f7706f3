"""The epochs of one or more sweeps as columns, a million at a time, and what stands behind their values.

A metric's value is compared only with values that were measured alike: on the same data, by the same protocol and,
where images were drawn for it, with the same extractor, number of images and reference.
"""

from __future__ import annotations

import json
import shlex
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from cpcnn_core.errors import UserError
from cpcnn_core.metrics import DIRECTIONS, OF_PIXELS, RULER, least
from cpcnn_core.suggest import nearest
from orchestrator.choosing import where
from orchestrator.choosing.judge import Images, Normals, Sample
from orchestrator.objectives.objective import SCORE, Direction, Objective
from orchestrator.records import arrays, data_kinds, location
from orchestrator.records.data_kinds import DATA, DEFAULTS, Data, described, kinds_of
from orchestrator.records.ranking import Entry
from orchestrator.records.states import FAILURES
from orchestrator.records.store import NotThereError, Row, Store, StoreError, as_int
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text.formatting import plain

Floats: TypeAlias = NDArray[np.float64]

EVIDENCE = 600  # epochs at most whose predictions are read: those of the best trials, which is where a choice falls
_NAMED = 3  # trials in a message
ECE_BINS = 15  # as in cpcnn_core.evaluate
_AGREES = 1e-6  # between a value in the table and the same from its predictions


_QUANTIZE = "data.quantize"
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
        self._rows: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> tuple[Store, dict[str, Any]]:
        """The trial's sweep, and its row of `trials`."""
        part = bisect_right(self._ends, number)
        store, table = self._tables[part]
        if number not in self._rows:
            at = number - (self._ends[part] - len(table))
            [self._rows[number]] = table.slice(at, 1).to_pylist()
        return store, self._rows[number]

    def column(self, name: str) -> NDArray[Any]:
        """What the trials have in that column, as `_column` gives it."""
        return np.concatenate([_column(table, name) for _, table in self._tables])

    def kinds(self, columns: Sequence[str], among: NDArray[np.int64]) -> dict[tuple[Any, ...], list[Store]]:
        """The different values that the trials of these numbers have in the columns, and the sweeps that have them."""
        found: dict[tuple[Any, ...], list[Store]] = {}
        for end, (store, table) in zip(self._ends, self._tables, strict=True):
            chosen = np.zeros(len(table), bool)
            chosen[among[(among >= end - len(table)) & (among < end)] - (end - len(table))] = True
            if not chosen.any():
                continue  # a sweep without a trial yet has none of these columns
            for kind in kinds_of(table.filter(arrays.mask(chosen)), columns):
                found.setdefault(kind, []).append(store)
        return found


@dataclass(frozen=True)
class Epochs:
    """Epochs that have the metric and meet the conditions, best trial first, each trial's epochs in order."""

    objective: Objective
    stores: tuple[Store, ...]
    trials: Trials  # those that are in `trial`, and others
    trial: NDArray[np.int64]  # (M,) index into `trials`
    epoch: NDArray[np.int64]  # (M,)
    values: Floats  # (M,) of the metric
    standard_errors: Floats  # (M,) as recorded beside the metric, NaN where they are not
    kept: NDArray[np.bool_]  # (M,) whether the weights are on disk
    drawn: tuple[Any, ...] | None  # extractor, images, reference of what was drawn, where the metric is of that kind
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was left out

    def __len__(self) -> int:
        return len(self.trial)

    @property
    def scores(self) -> Floats:
        """The values, turned so that more is better."""
        return self.values if self.objective.direction == "max" else -self.values

    def take(self, rows: NDArray[np.int64]) -> Epochs:
        """Some of the rows."""
        columns = ("trial", "epoch", "values", "standard_errors", "kept")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def entry(self, row: int) -> tuple[Entry, Row]:
        """The trial with its epochs, and the row's epoch in full."""
        store, trial = self.trials[self.trial[row]]
        epochs = tuple(store.epochs_of(str(trial["trial_id"])))
        [epoch] = [held for held in epochs if held["epoch"] == self.epoch[row]]
        return Entry(store, trial, epochs), epoch


def read(
    stores: Sequence[Store],
    metric: str,
    *,
    mode: Direction | None = None,
    conditions: Sequence[where.Condition] = (),
    imports: bool = True,
) -> Epochs:
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
) -> Epochs:
    """`read`, which adds to `problems` as it meets them."""
    for store in stores:
        problems += store.sweep_problems()
    known: dict[str, pa.DataType] = {}
    for store in stores:
        known |= {name: kind for name, kind in store.epoch_columns().items() if name not in known}
    trial_tables = [store.latest_attempts() for store in stores]
    problems += [problem for table in trial_tables for problem in table.problems]
    in_trials = {name for table in trial_tables for name in table.columns.column_names} - {"trial_id", "attempt"}
    in_trials |= set(DEFAULTS)
    _check_metric(metric, known, stores, problems)
    where.check(conditions, [*known, *sorted(in_trials - set(known))])
    objective = _objective(metric, mode)
    of_epochs = [condition for condition in conditions if condition.column in known]
    of_trials = [condition for condition in conditions if condition.column not in known]
    # Values of drawn images are compared only with their like; the conditions on RULER then say which are meant.
    compared = metric == SCORE or is_drawn(metric) or any(is_drawn(condition.column) for condition in conditions)
    error_column = f"{metric}_standard_error"
    columns = [metric, "checkpoint", *(condition.column for condition in of_epochs)]
    columns += [error_column] if error_column in known else []
    columns += list(RULER) if compared else []

    trials = Trials([(store, table.columns) for store, table in zip(stores, trial_tables, strict=True)])
    by_name = any(held.column == "trial_id" and held.operator == "==" for held in conditions)
    before = 0
    failed: list[str] = []  # trials that would be among them, had they not failed
    parts: list[dict[str, Any]] = []
    notes: list[str] = []
    for store, table in zip(stores, trial_tables, strict=True):
        epochs = store.epochs(columns)
        problems += [*epochs.problems, *store.orphans(table.columns, epochs.columns)]
        fits = np.ones(len(table.columns), bool)
        for condition in of_trials:
            fits &= condition.holds(_column(table.columns, condition.column))
        if not imports and (imported := fits & _imported(table.columns)).any():
            fits &= ~imported
            notes.append(
                f"Left out: {imported.sum()} imported of {len(fits)} trials in {store.folder.name}, which --sweep "
                f"{shlex.quote(store.folder.name)} takes in"
            )
        index = pc.index_in(epochs.columns["trial_id"], table.columns["trial_id"].combine_chunks())
        at = arrays.integers(index)
        mine = (at >= 0) & np.append(fits, False)[at]  # an epoch without a trial's row belongs to nobody
        for condition in (held for held in of_epochs if not (compared and held.column in RULER)):
            mine &= condition.holds(_column(epochs.columns, condition.column))
        if not by_name:
            out = np.append(np.isin(_column(table.columns, "state"), FAILURES), False)
            failed += [str(table.columns["trial_id"][int(number)]) for number in np.unique(at[mine & out[at]])]
            mine &= ~out[at]
        found = {name: _column(epochs.columns, name)[mine] for name in columns if name not in {"checkpoint", *RULER}}
        for name in RULER if compared else ():
            found[name] = epochs.columns[name].filter(arrays.mask(mine))
        found["trial"] = at[mine] + before
        before += len(table.columns)
        found["epoch"] = arrays.integers(epochs.columns["epoch"])[mine]
        found["kept"] = arrays.valid(epochs.columns["checkpoint"])[mine]
        parts.append(found)
    if failed and not any(len(part["trial"]) for part in parts):
        raise ChoiceError(
            f"the only trials with such epochs FAILED: {', '.join(failed[:_NAMED])}{' ...' * (len(failed) > _NAMED)}; "
            f"to choose one all the same, name it: --where \"trial_id == '{failed[0]}'\""
        )
    if not any(len(part["trial"]) for part in parts) and not conditions and not notes:
        raise ChoiceError("no trial has finished an epoch yet")
    values = np.concatenate([part[metric].astype(np.float64) for part in parts])
    usable = _is_value(values, metric)
    alike: tuple[Any, ...] | None = None
    if compared:
        usable, alike = _drawn_alike(parts, [held for held in of_epochs if held.column in RULER], usable, metric)
    if not usable.any():
        unmet = _unmet(stores, metric, conditions, known, imports=imports, failures=by_name)
        raise ChoiceError(". ".join([unmet, *notes]))

    def joined(name: str) -> Any:
        return np.concatenate([part[name] for part in parts])[usable]

    trial, epoch = joined("trial"), joined("epoch")
    values = values[usable]
    there = np.unique(trial)
    kinds = trials.kinds(DATA, there)
    _comparable(kinds)
    reads = {metric, *(condition.column for condition in conditions)}
    if metric == SCORE:
        objective_of_all = _one_objective({store.folder: store for of in kinds.values() for store in of}.values())
        reads |= set() if objective_of_all is None else {*objective_of_all.reads}
    _rounded_alike(trials.kinds((_QUANTIZE,), there), sorted(reads & OF_PIXELS))
    errors = joined(error_column) if error_column in known else np.full(len(values), np.nan)
    scores = values if objective.direction == "max" else -values
    best = np.full(len(trials), -np.inf)
    np.maximum.at(best, trial, scores)
    started = np.argsort(trials.column("started").astype(str).argsort(kind="stable"))
    order = np.lexsort((epoch, trial, started[trial], -best[trial]))
    unsorted = Epochs(
        objective,
        tuple(stores),
        trials,
        trial,
        epoch,
        values,
        errors,
        joined("kept"),
        alike,
        tuple(problems),
        tuple(notes),
    )
    return unsorted.take(order)


def is_drawn(column: str) -> bool:
    """Whether the column's values come from images that the model drew."""
    return column.startswith(("fid", "kid")) and column not in RULER


def contenders(epochs: Epochs, most: int = EVIDENCE) -> Epochs:
    """Every epoch of the best trials, `most` at most: whole curves, since neighbours speak for one another."""
    ends = np.flatnonzero(np.append(epochs.trial[1:] != epochs.trial[:-1], True)) + 1
    fitting = ends[ends <= most]
    if len(fitting) or not len(epochs):
        return epochs.take(np.arange(fitting[-1] if len(fitting) else 0))
    first = int(epochs.scores[: ends[0]].argmax())  # one trial of very many epochs: those around its best
    start = max(0, min(first - most // 2, ends[0] - most))
    return epochs.take(np.arange(start, start + most))


@dataclass(frozen=True)
class Evidence:
    """What the values of `epochs` were measured on; no sample, and the reason, where that is not known."""

    epochs: Epochs
    sample: Sample | None
    notes: tuple[str, ...]


def evidence(epochs: Epochs) -> Evidence:
    """The sample behind the contenders' values: stored predictions, or recorded standard errors.

    Epochs without either are left out, unless all are.
    """
    metric = epochs.objective.metric
    among = contenders(epochs)
    sign = 1.0 if epochs.objective.direction == "max" else -1.0
    sample: Sample | None
    notes = []
    if len(among) < len(epochs):
        notes.append(
            f"Judged are the {len(among)} epochs of the best {len(np.unique(among.trial))} trials; "
            f"{len(epochs) - len(among)} epochs of worse trials are not"
        )
    if metric in _FEATURES:
        sample, kept, reason = _images(among, sign)
    else:
        known = np.isfinite(among.standard_errors)
        kept = np.flatnonzero(known)
        sample = Normals(sign * among.values[known], among.standard_errors[known]) if known.any() else None
        reason = f"no standard error of {metric} was recorded, and it does not follow from stored predictions"
    if sample is None:
        return Evidence(among, None, (*notes, f"No interval: {reason}"))
    if len(kept) < len(among):
        notes.append(f"{len(among) - len(kept)} epochs are not judged: {reason}")
    return Evidence(among.take(kept), sample, tuple(notes))


# ------------------------------------------------------------------------------------------- from stored predictions

Metric: TypeAlias = Callable[[Floats], Floats]


def _accuracy(log_p: Floats, label: NDArray[np.int64]) -> Floats:
    right: Floats = np.equal(log_p.argmax(axis=1), label).astype(np.float64)[:, None]
    return right


def _nll(log_p: Floats, label: NDArray[np.int64]) -> Floats:
    found: Floats = -log_p[np.arange(len(label)), label][:, None]
    return found


def _class_nll(log_p: Floats, label: NDArray[np.int64]) -> Floats:
    return -np.log(np.maximum(_posterior(log_p)[np.arange(len(label)), label], 1e-300))[:, None]


def _f1(log_p: Floats, label: NDArray[np.int64]) -> Floats:
    classes = np.arange(log_p.shape[1])
    predicted = log_p.argmax(axis=1)[:, None] == classes
    true = label[:, None] == classes
    return np.concatenate([predicted & true, 1.0 * predicted + true], axis=1)


def _ece(log_p: Floats, label: NDArray[np.int64]) -> Floats:
    posterior = _posterior(log_p)
    confidence = posterior.max(axis=1)
    index = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    features = np.zeros((len(label), ECE_BINS))
    features[np.arange(len(label)), index] = (posterior.argmax(axis=1) == label) - confidence
    return features


def _posterior(log_p: Floats) -> Floats:
    raised = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    posterior: Floats = raised / raised.sum(axis=1, keepdims=True)
    return posterior


def _mean(mean: Floats) -> Floats:
    return mean[..., 0]


def _f1_of(mean: Floats) -> Floats:
    Y = mean.shape[-1] // 2
    value: Floats = (2 * mean[..., :Y] / np.maximum(mean[..., Y:], 1e-12)).mean(axis=-1)
    return value


def _ece_of(mean: Floats) -> Floats:
    value: Floats = np.abs(mean).sum(axis=-1)
    return value


_FEATURES: Mapping[str, tuple[Callable[[Floats, NDArray[np.int64]], Floats], Metric]] = {
    "val_acc": (_accuracy, _mean),
    "val_bpd": (_nll, _mean),
    "val_class_nll": (_class_nll, _mean),
    "val_f1": (_f1, _f1_of),
    "val_ece": (_ece, _ece_of),
}
"""The metrics that follow from the mean over images of what each image says: (N, Y), (N,) -> (N, D), and D -> value."""


def _images(among: Epochs, sign: float) -> tuple[Images | None, NDArray[np.int64], str]:
    """The sample, the rows of `among` that are in it, and why others are not."""
    feature, metric = _FEATURES[among.objective.metric]
    features: list[Floats] = []
    rows: list[int] = []
    reason = "no predictions of theirs are stored"
    images: pa.ChunkedArray | None = None
    per_image = 1.0
    for each in (store for store in among.stores if store.is_remote):
        held = zip(among.trial, among.epoch, strict=True)
        of_store = [(among.trials[trial], int(epoch)) for trial, epoch in held]
        each.expect_predictions((str(trial["trial_id"]), epoch) for (store, trial), epoch in of_store if store is each)
    for row in range(len(among)):
        store, trial = among.trials[among.trial[row]]
        try:
            table = store.predictions_table(str(trial["trial_id"]), int(among.epoch[row]))
        except NotThereError:
            continue
        except StoreError as error:
            reason = str(error)
            continue
        images = table["image"] if images is None else images
        if not table["image"].equals(images):
            reason = "their predictions are of other images"
            continue
        classes = sum(name.startswith("log_p_") for name in table.column_names)
        log_p = np.stack([arrays.numbers(table[f"log_p_{label}"]) for label in range(classes)], axis=1)
        if not np.isfinite(log_p).all():
            reason = "their predictions are no likelihoods: the network had diverged"
            continue
        found = feature(log_p, arrays.integers(table["label"]))
        value = float(metric(found.mean(axis=0)))
        if among.objective.metric == "val_bpd":
            if not rows:
                per_image = among.values[row] / value  # bits per sub-pixel and nats per image: one ratio for all
            found, value = found * per_image, value * per_image
        if abs(value - among.values[row]) > _AGREES * max(1.0, abs(value)):
            reason = f"their predictions give another {among.objective.metric} than the table (a prior over classes?)"
            continue
        features.append(found)
        rows.append(row)
    if not rows:
        return None, np.array([], dtype=np.int64), reason
    stacked = np.stack(features, axis=1)
    return Images(stacked, lambda mean: sign * metric(mean)), np.array(rows), reason


# ------------------------------------------------------------------------------------------------------- alike or not


def _check_metric(metric: str, known: Mapping[str, pa.DataType], stores: Iterable[Store], problems: list[str]) -> None:
    numbers = [name for name, kind in known.items() if pa.types.is_floating(kind)]
    if metric not in numbers:
        problems += [problem for store in stores for problem in store.epochs(()).problems]  # which may have it
        raise ChoiceError(f"--metric {metric}: no such metric{nearest(metric, numbers)}")


def _objective(metric: str, mode: Direction | None) -> Objective:
    natural = DIRECTIONS.get(metric)
    if natural is None and metric.startswith(("val_acc.", "fid.")):
        natural = DIRECTIONS[metric.partition(".")[0]]
    if mode is None and natural is None:
        raise ChoiceError(f"--metric {metric}: which way is it better? Give --mode max or --mode min")
    return Objective(metric, mode or ("max" if natural == "max" else "min"))


def _drawn_alike(
    parts: Sequence[Mapping[str, Any]], conditions: Sequence[where.Condition], usable: NDArray[np.bool_], metric: str
) -> tuple[NDArray[np.bool_], tuple[Any, ...] | None]:
    """The rows that meet conditions on what was drawn, and what they have in common. Raise ChoiceError."""
    table = pa.concat_tables([pa.table({name: part[name] for name in RULER}) for part in parts])
    for condition in conditions:
        usable = usable & condition.holds(_column(table, condition.column))
    kinds = data_kinds.rows_of(table.filter(arrays.mask(usable)), RULER)
    kinds = [kind for kind in kinds if any(value is not None for value in kind.values())]
    if len(kinds) > 1:
        listed = "; ".join(", ".join(f"{name}={kind[name]}" for name in RULER) for kind in kinds)
        differing = next(name for name in RULER if len({kind[name] for kind in kinds}) > 1)
        value = kinds[0][differing]
        example = where.Condition(differing, "==", value if isinstance(value, str) else float(as_int(value)))
        raise ChoiceError(
            f"--metric {metric}: its values, or those of --where, were not measured alike, and cannot be compared "
            f"({listed}); choose one kind with --where {shlex.quote(str(example))}, or a sweep with --sweep"
        )
    return usable, tuple(kinds[0][name] for name in RULER) if kinds else None


def _unmet(
    stores: Sequence[Store],
    metric: str,
    conditions: Sequence[where.Condition],
    known: Mapping[str, Any],
    *,
    imports: bool,
    failures: bool,
) -> str:
    """Why no epoch is left: how many each condition rules out, and by how little."""
    columns = [metric, *(condition.column for condition in conditions if condition.column in known)]
    found: dict[where.Condition, list[NDArray[Any]]] = {condition: [] for condition in conditions}
    count = 0
    for store in stores:
        epochs, trials = store.epochs(columns).columns, store.latest_attempts().columns
        at = arrays.integers(pc.index_in(epochs["trial_id"], trials["trial_id"].combine_chunks()))
        mine = np.full(len(trials), imports) | ~_imported(trials)
        mine &= failures | ~np.isin(_column(trials, "state"), FAILURES)
        has = (at >= 0) & np.append(mine, False)[at] & _is_value(_column(epochs, metric).astype(np.float64), metric)
        count += int(has.sum())
        for condition, values in found.items():
            in_epochs = condition.column in known
            column = _column(epochs, condition.column) if in_epochs else _column(trials, condition.column)
            if has.any():
                values.append(column[has] if in_epochs else column[at[has]])
    if not count or not conditions:
        return f"--metric {metric}: null in every epoch of every trial; nothing to choose by"
    lines = [_ruled_out(condition, values, count) for condition, values in found.items()]
    asked = " and ".join(map(str, conditions))
    together = ". Each is met by some epoch, and all together by none" if all(line[0] for line in lines) else ""
    return (
        f"--where {asked}: no epoch meets it. Of {count} epochs with a {metric}, "
        f"{', '.join(line for _, line in lines)}{together}"
    )


def _is_value(values: Floats, metric: str) -> NDArray[np.bool_]:
    is_value: NDArray[np.bool_] = np.isfinite(values) & (values >= least(metric))
    return is_value


def _ruled_out(condition: where.Condition, values: Sequence[NDArray[Any]], count: int) -> tuple[bool, str]:
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


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    """A column for numpy: floats with NaN where it is null, other kinds as objects with None."""
    if name not in table.column_names:
        return np.full(len(table), float(DEFAULTS.get(name, np.nan)))
    column = table[name]
    if name in DEFAULTS:
        column = column.fill_null(DEFAULTS[name])
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return arrays.numbers(column)
    return np.array(column.to_pylist(), dtype=object)


def folder_size(entry: tuple[Store, Mapping[str, Any]], epoch: int) -> float | None:
    """The bytes of an epoch's weights on disk, None where they are not there."""
    store, trial = entry
    return location.size(store.checkpoint_folder(str(trial["trial_id"])) / f"weights-{epoch:04d}.safetensors")
