"""The table of metrics, and what one epoch measured of them. Free of torch, so that readers of results start fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from cpcnn_core.class_names import class_in

if TYPE_CHECKING:
    from cpcnn_core.evaluation import Evaluation

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Metric:
    """A number that an epoch is judged by."""

    better: Literal["min", "max"] | None  # None: neither; a sweep cannot optimise it
    of: Callable[[Evaluation], float] | None = None  # from the validation split; None: training or sampling measures it


METRICS: dict[str, Metric] = {
    "train_loss": Metric("min"),
    "train_bpd": Metric("min"),
    "train_acc": Metric("max"),
    "val_bpd": Metric("min", lambda evaluation: evaluation.bpd),
    "val_acc": Metric("max", lambda evaluation: evaluation.accuracy),
    "val_f1": Metric("max", lambda evaluation: evaluation.macro_f1),
    "val_ece": Metric("min", lambda evaluation: evaluation.ece()),
    "val_temperature": Metric(None, lambda evaluation: evaluation.temperature),
    "val_ece_calibrated": Metric("min", lambda evaluation: evaluation.ece(evaluation.temperature)),
    "val_class_nll": Metric("min", lambda evaluation: evaluation.class_nll()),
    "fid": Metric("min"),
    "fid_infinity": Metric("min"),
    "kid": Metric("min"),
    "score": Metric("max"),
}

# Which way is better, for every metric that a sweep may optimise or `best` may choose by.
DIRECTIONS: dict[str, str] = {name: metric.better for name, metric in METRICS.items() if metric.better is not None}


def of_evaluation(evaluation: Evaluation) -> dict[str, float]:
    """Every metric of the table that follows from an evaluation."""
    return {name: metric.of(evaluation) for name, metric in METRICS.items() if metric.of is not None}


LEAST_BPD = 1e-6
"""No images are as predictable as this: it is what float32's rounding makes of a probability of one."""

HELD_OUT: Mapping[str, str] = {
    "test_acc": (
        "test_acc is of the test images, by which nothing is chosen: the best of many by it would owe some of its "
        "value to luck, and no images would be left to say how good it is; choose by val_acc"
    )
}
"""Columns that nothing is optimised, chosen or sorted out by, and why."""

OF_IMAGES = frozenset({"fid", "fid_infinity", "kid"})
"""The metrics of drawn images; two values of one compare only where the columns of `FID_PROTOCOL` agree."""

OF_TRAINING = frozenset({"train_loss", "train_bpd", "train_acc"})
"""The metrics of training images."""

OF_PIXELS = frozenset({"train_loss", "train_bpd", "val_bpd"})
"""The metrics of the likelihood of pixels; two values of one compare only where `data.quantize` is the same."""


def least(metric: str) -> float:
    """The least value that a metric can have. A smaller one was no measurement, whichever version recorded it."""
    return LEAST_BPD if metric.endswith("_bpd") and class_in(metric) is None else -math.inf


FID_PROTOCOL = ("fid_extractor", "fid_images", "fid_reference")
FidProtocol = tuple[Any, ...]


def fid_protocol_of(row: Mapping[str, Any]) -> FidProtocol:
    """What the metrics of drawn images in this row of `epochs` were measured with: its values of `FID_PROTOCOL`."""
    return tuple(row.get(name) for name in FID_PROTOCOL)


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One row of `epochs/*.parquet`. Units: bpd in bits per sub-pixel, times in seconds, memory in bytes.

    A metric that was not measured, or could not be, is None; where it failed its reason stands in the `_error` field
    beside it. `val_*` are over the images of the validation split that are scored (`eval.max_images`), of the EMA
    weights where EMA is on, and None after an epoch that is not evaluated (`eval.every`), as is train_acc.
    """

    epoch: int  # 1-based: the number of epochs trained so far
    step: int  # optimizer steps so far
    lr: float | None  # learning rate of the epoch's last step; None for imported weights, as are the next two
    train_loss: float | None  # mean of the loss over the epoch
    train_bpd: float | None  # mean bpd over the epoch, as trained: dropout on, weights moving
    train_acc: float | None = None  # on a fixed subset of the training images, no dropout
    val_bpd: float | None = None  # under the true class
    val_acc: float | None = None
    val_f1: float | None = None  # macro
    val_class_nll: float | None = None  # mean of -log p(true class | x), nats
    val_ece: float | None = None  # expected calibration error, 15 equal-width bins
    val_temperature: float | None = None  # divides the log-likelihoods; minimises val_class_nll
    val_ece_calibrated: float | None = None  # val_ece at that temperature
    val_images: int | None = None  # that were scored
    val_images_of: int | None = None  # the validation split's
    test_acc_error: str | None = None  # why it is None although it was due
    test_acc: float | None = None  # after the last epoch, where the test labels are known; nothing is chosen by it
    test_images: int | None = None  # that were scored
    test_images_of: int | None = None  # the test split's
    fid: float | None = None  # of images drawn after this epoch; comparable where the next three fields are the same
    fid_extractor: str | None = None  # whose features, exactly
    fid_images: int | None = None  # how many were drawn
    fid_reference: str | None = None  # the real images: data set, split and a hash of them
    fid_standard_error: float | None = None  # over other sets of as many images of the same model
    fid_error: str | None = None  # why fid is None although it was due
    fid_infinity: float | None = None  # extrapolated to infinitely many images
    fid_infinity_error: str | None = None
    fid_class_error: str | None = None  # why `fid.CLASS` is missing in `extra` although it was due; the first reason
    kid: float | None = None
    kid_standard_error: float | None = None
    kid_error: str | None = None
    nearest_train: float | None = None  # median distance of a drawn image to the nearest training image, in features
    nearest_train_validation: float | None = None  # of the validation images; far below it, a model recites
    score: float | None = None  # what the sweep's objective makes of this epoch, where it combines metrics
    score_error: str | None = None
    grad_norm: float | None  # largest of the epoch, before clipping; of each stage of the network in `extra`
    activation_max: float | None = None  # largest absolute output of a gated block, on a few fixed images
    gate_saturation: float | None = None  # share of the gates there that let through less than .01 or more than .99
    sample_saturation: float | None = None  # share of the drawn sub-pixels that are 0 or 255
    sample_saturation_validation: float | None = None  # of the validation images'; far above it, the network blows up
    seconds: float  # the whole epoch: training, evaluation and checkpoint
    train_seconds: float
    compile_seconds: float  # of the process's first step, where it was compiled or captured; part of train_seconds
    eval_seconds: float  # all that is not training; scoring_seconds and sample_seconds are part of it
    scoring_seconds: float | None = None  # log p(x | y) of validation, training and test images
    sample_seconds: float | None = None  # drawing images and measuring FID and KID
    sample_path: str | None = None  # how they were drawn: graph, calls, reference, joined by + where in several ways
    images_per_second: float  # training throughput, compilation apart
    peak_memory_bytes: int  # of the device; of the process on a CPU
    micro_batch: int  # images per forward pass and process; smaller than asked after out-of-memory
    path: str | None = None  # how the epoch's last step was taken: eager, compiled, graph, compiled+graph
    path_note: str | None = None  # why not by a faster path, and what its comparison with a slower one gave
    checkpoint: str | None  # file name in the trial's checkpoint folder, None where this epoch's was not kept
    kept_epochs: tuple[int, ...]  # every epoch whose weights are on disk now
    extra: dict[str, float]  # metrics without a field above: per class, per stage of the network, of the fusion itself

    @classmethod
    def of(cls, measured: Mapping[str, Any], *, extra: Mapping[str, float], **values: Any) -> Self:
        """All that was measured of an epoch; what has no field of its own is part of `extra`."""
        own = {name: value for name, value in measured.items() if name in cls.__dataclass_fields__}
        others = {name: value for name, value in measured.items() if name not in own}
        return cls(**own, **values, extra={**others, **extra})

    @property
    def was_drawn(self) -> bool:
        """Whether images were drawn after this epoch, of which there is a picture."""
        return self.sample_seconds is not None

    def row(self) -> dict[str, Scalar]:
        """Flat scalars: `extra` entries under their own names, `kept_epochs` left out."""
        plain: dict[str, Scalar] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in {"kept_epochs", "extra"}
        }
        return plain | dict(self.extra)

    def record(self) -> dict[str, Any]:
        """A JSON-ready form that `from_record` reads back."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> EpochMetrics:
        """The inverse of `record`; fields that a later version added are None."""
        known = {field.name: record.get(field.name) for field in fields(cls)}
        return cls(**(known | {"kept_epochs": tuple(record["kept_epochs"])}))

    def replaced(self, **changes: Any) -> EpochMetrics:
        """A copy with some fields changed."""
        return replace(self, **changes)
