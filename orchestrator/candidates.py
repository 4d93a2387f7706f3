"""The epochs of one or more sweeps as columns, a million at a time, and what stands behind their values.

A metric's value is compared only with values that were measured alike: on the same data and, where images were drawn
for it, with the same extractor, number of images and reference.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from cpcnn_core.metrics import DIRECTIONS, RULER, least
from cpcnn_core.suggest import nearest
from orchestrator import arrays, storage, where
from orchestrator.choosing import Images, Normals, Sample
from orchestrator.leaderboard import Entry
from orchestrator.objective import SCORE, Direction, Objective
from orchestrator.progress import plain
from orchestrator.states import FAILURES
from orchestrator.store import Store, StoreError

Floats: TypeAlias = NDArray[np.float64]

EVIDENCE = 600  # epochs at most whose predictions are read: those of the best trials, which is where a choice falls
_NAMED = 3  # trials in a message
ECE_BINS = 15  # as in cpcnn_core.evaluate
_AGREES = 1e-6  # between a value in the table and the same from its predictions

DATA = ("data.name", "data.image_size", "data.channels", "data.quantize")


class ChoiceError(Exception):
    """Nothing that could be chosen."""


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
            for row in _kinds(table.filter(arrays.mask(chosen)), columns):
                found.setdefault(tuple(row[name] for name in columns), []).append(store)
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

    def __len__(self) -> int:
        return len(self.trial)

    @property
    def scores(self) -> Floats:
        """The values, turned so that more is better."""
        return self.values if self.objective.direction == "max" else -self.values

    def take(self, rows: NDArray[np.int64]) -> Epochs:
        """Some of the rows."""
        return Epochs(
            self.objective,
            self.stores,
            self.trials,
            self.trial[rows],
            self.epoch[rows],
            self.values[rows],
            self.standard_errors[rows],
            self.kept[rows],
            self.drawn,
            self.problems,
        )

    def entry(self, row: int) -> tuple[Entry, dict[str, Any]]:
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
) -> Epochs:
    """The epochs of these sweeps that have `metric` and meet the conditions, of trials that can be compared.

    Those of a trial that failed are among them only where a condition asks for trials by name, as in
    `trial_id == '0123456789ab'`.

    Raise ChoiceError where there are none, or where they were not measured alike; WhereError for a bad condition.
    """
    known: dict[str, pa.DataType] = {}
    for store in stores:
        known |= {name: kind for name, kind in store.epoch_columns().items() if name not in known}
    trial_tables = [store.latest_attempts() for store in stores]
    in_trials = {name for table in trial_tables for name in table.columns.column_names} - {"trial_id", "attempt"}
    _check_metric(metric, known)
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
    problems: list[str] = []
    for store, table in zip(stores, trial_tables, strict=True):
        epochs = store.epochs(columns)
        problems += [*table.problems, *epochs.problems]
        fits = np.ones(len(table.columns), bool)
        for condition in of_trials:
            fits &= condition.holds(_column(table.columns, condition.column))
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
    if not any(len(part["trial"]) for part in parts) and not conditions:
        raise ChoiceError("no trial has finished an epoch yet")
    values = np.concatenate([part[metric].astype(np.float64) for part in parts])
    usable = np.isfinite(values) & (values >= least(metric))
    alike: tuple[Any, ...] | None = None
    if compared:
        usable, alike = _drawn_alike(parts, [held for held in of_epochs if held.column in RULER], usable, metric)
    if not usable.any():
        why = f" where {' and '.join(map(str, conditions))}" if conditions else ""
        raise ChoiceError(f"--metric {metric}: null in every epoch of every trial{why}; nothing to choose by")

    def joined(name: str) -> Any:
        return np.concatenate([part[name] for part in parts])[usable]

    trial, epoch = joined("trial"), joined("epoch")
    values = values[usable]
    kinds = trials.kinds(DATA, np.unique(trial))
    _comparable(kinds)
    if metric == SCORE:
        _one_objective({store.folder: store for of in kinds.values() for store in of}.values())
    errors = joined(error_column) if error_column in known else np.full(len(values), np.nan)
    scores = values if objective.direction == "max" else -values
    best = np.full(len(trials), -np.inf)
    np.maximum.at(best, trial, scores)
    started = np.argsort(trials.column("started").astype(str).argsort(kind="stable"))
    order = np.lexsort((epoch, trial, started[trial], -best[trial]))
    unsorted = Epochs(
        objective, tuple(stores), trials, trial, epoch, values, errors, joined("kept"), alike, tuple(problems)
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
        except StoreError as error:
            if "not there" not in str(error):
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


def _check_metric(metric: str, known: Mapping[str, pa.DataType]) -> None:
    numbers = [name for name, kind in known.items() if pa.types.is_floating(kind)]
    if metric not in numbers:
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
    kinds = _kinds(table.filter(arrays.mask(usable)), RULER)
    kinds = [kind for kind in kinds if any(value is not None for value in kind.values())]
    if len(kinds) > 1:
        listed = "; ".join(", ".join(f"{name}={kind[name]}" for name in RULER) for kind in kinds)
        differing = next(name for name in RULER if len({kind[name] for kind in kinds}) > 1)
        value = kinds[0][differing]
        example = f"{differing} == {value if isinstance(value, int) else repr(value)}"
        raise ChoiceError(
            f"--metric {metric}: its values, or those of --where, were not measured alike, and cannot be compared "
            f'({listed}); choose one kind with --where "{example}", or a sweep with --sweep'
        )
    return usable, tuple(kinds[0][name] for name in RULER) if kinds else None


def _comparable(kinds: Mapping[tuple[Any, ...], Iterable[Store]]) -> None:
    """Raise ChoiceError where the trials, by what data they saw, saw different data."""
    if len(kinds) > 1:
        listed = "; ".join(
            f"{', '.join(sorted({store.folder.name for store in stores}))}: "
            + ", ".join(f"{key}={plain(value)}" for key, value in zip(DATA, data, strict=True))
            for data, stores in kinds.items()
        )
        raise ChoiceError(
            f"these trials saw different data, which no metric compares ({listed}); choose a sweep with --sweep, and "
            "give trials of other data a folder of their own with --name"
        )


def _one_objective(stores: Iterable[Store]) -> None:
    """Raise ChoiceError where the sweeps' objectives differ: each makes its own `score` of an epoch."""
    objectives: dict[str, list[str]] = {}
    for store in stores:
        asked = (store.read_sweep() or {}).get("asked", {}).get("objective")
        objectives.setdefault(json.dumps(asked, sort_keys=True), []).append(store.folder.name)
    if len(objectives) > 1:
        listed = "; ".join(f"{', '.join(names)}: {objective}" for objective, names in objectives.items())
        raise ChoiceError(
            f"--metric {SCORE}: these sweeps have different objectives, whose scores do not compare ({listed}); choose "
            "one with --sweep, or a metric that is the same in all"
        )


def _kinds(table: pa.Table, names: Sequence[str]) -> list[dict[str, Any]]:
    """The different rows that the table has in these columns."""
    table = table.select(list(names))
    if all(len(table[name].unique()) <= 1 for name in names):  # as nearly always; grouping imports pandas
        table = table.slice(0, 1)
    else:
        table = table.group_by(list(names)).aggregate([])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    """A column for numpy: floats with NaN where it is null, other kinds as objects with None."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    column = table[name]
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return arrays.numbers(column)
    return np.array(column.to_pylist(), dtype=object)


def folder_size(entry: tuple[Store, Mapping[str, Any]], epoch: int) -> float | None:
    """The bytes of an epoch's weights on disk, None where they are not there."""
    store, trial = entry
    return storage.size(store.checkpoint_folder(str(trial["trial_id"])) / f"weights-{epoch:04d}.safetensors")
