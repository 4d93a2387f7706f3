"""What stands behind the values of epochs: stored predictions of images, or recorded standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from cpcnn_core.metrics import OF_IMAGES, OF_TRAINING
from orchestrator.choosing.candidates import Candidates, Floats
from orchestrator.choosing.judge import Images, Normals, Sample
from orchestrator.records import arrays
from orchestrator.records.columns import as_number
from orchestrator.records.store import NotThereError, StoreError

EVIDENCE = 600  # epochs at most whose predictions are read: those of the best trials, which is where a choice falls
ECE_BINS = 15  # as in cpcnn_core.evaluate
_AGREES = 1e-6  # between a value in the table and the same from its predictions


def contenders(epochs: Candidates, most: int = EVIDENCE) -> Candidates:
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

    epochs: Candidates
    sample: Sample | None
    notes: tuple[str, ...]


def evidence(epochs: Candidates) -> Evidence:
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


def scored_on(epochs: Candidates, row: int) -> list[str]:
    """A note where the row's metric is of a part of the validation images; the intervals are of that part."""
    if epochs.objective.metric in OF_IMAGES or epochs.objective.metric in OF_TRAINING:
        return []
    _, epoch = epochs.entry(row)
    images, of = (as_number(epoch.get(name)) for name in ("val_images", "val_images_of"))
    if images is None or of is None or images >= of:
        return []
    return [f"Scored on {images:,.0f} of {of:,.0f} validation images (eval.max_images)"]


# ------------------------------------------------------------------------------------------- from stored predictions

Metric: TypeAlias = Callable[[Floats], Floats]

_MOST_NUMBERS = 2**28  # that are resampled, of 8 bytes: val_f1 has two of each image and class


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


def _images(among: Candidates, sign: float) -> tuple[Images | None, NDArray[np.int64], str]:
    """The sample, the rows of `among` that are in it, and why others are not."""
    feature, metric = _FEATURES[among.objective.metric]
    features: list[Floats] = []
    rows: list[int] = []
    reason = "no predictions of theirs are stored"
    images: pa.ChunkedArray | None = None
    per_image = 1.0
    _expect_predictions(among)
    for row in range(len(among)):
        try:
            table = _predictions(among, row)
        except NotThereError:
            continue
        except StoreError as error:
            reason = str(error)
            continue
        images = table["image"] if images is None else images
        log_p = _log_p(table)
        if reason_not := _no_likelihoods(table, images, log_p):
            reason = reason_not
            continue
        found = feature(log_p, arrays.integers(table["label"]))
        if found.size * len(among) > _MOST_NUMBERS:
            what = f"{among.objective.metric} of {log_p.shape[1]} classes, {len(log_p)} images and {len(among)} epochs"
            return None, np.array([], dtype=np.int64), f"{what} takes more memory than there may be"
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


def _expect_predictions(among: Candidates) -> None:
    """Have remote stores fetch the predictions together, not one by one."""
    for each in (store for store in among.stores if store.is_remote):
        numbered = zip(among.trial, among.epoch, strict=True)
        of_store = [(among.trials[trial], int(epoch)) for trial, epoch in numbered]
        each.expect_predictions((str(trial["trial_id"]), epoch) for (store, trial), epoch in of_store if store is each)


def _predictions(among: Candidates, row: int) -> pa.Table:
    store, trial = among.trials[among.trial[row]]
    return store.predictions_table(str(trial["trial_id"]), int(among.epoch[row]))


def _log_p(table: pa.Table) -> Floats:
    """(N, Y) log p(x | y)."""
    classes = sum(name.startswith("log_p_") for name in table.column_names)
    return np.stack([arrays.numbers(table[f"log_p_{label}"]) for label in range(classes)], axis=1)


def _no_likelihoods(table: pa.Table, images: pa.ChunkedArray, log_p: Floats) -> str | None:
    """Why predictions say nothing beside those of `images`, if they do not."""
    if not table["image"].equals(images):
        return "their predictions are of other images"
    if not np.isfinite(log_p).all():
        return "their predictions are no likelihoods: the network had diverged"
    return None
