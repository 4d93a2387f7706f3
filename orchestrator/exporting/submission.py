"""What a course asks to be handed in, made by one network: predictions of the test images, and images of each class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cpcnn_core import quality
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.data import DataError, Dataset, Split
from cpcnn_core.evaluate import log_likelihoods, log_prior
from cpcnn_core.fid import Distance, FidError, fid
from cpcnn_core.sources import SOURCES

if TYPE_CHECKING:
    from cpcnn_core.model import ConditionalPixelCNN

PREDICTIONS = "submission.csv"  # header id,label; file names alone; last row fid
PREDICTIONS_WITH_PATHS = "submission_with_paths.csv"  # no header; as test.csv names the files; no fid
LOGITS = "logits.npy"
SAMPLES, GRID = "samples", "samples.png"
PER_CLASS = 25
_MOST = 2500  # images in all, unless so many classes need more: drawing takes longer than all the rest
_FEWEST = 2  # of each class


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the network says of each test image, in the order of the test split."""

    names: tuple[str, ...]
    logits: Tensor  # (N, Y) float64: log p(x | y) + log p(y), nats; softmax gives p(y | x)
    class_names: tuple[str, ...]

    @property
    def labels(self) -> list[int]:
        """The likeliest class of each image."""
        return [int(label) for label in self.logits.argmax(dim=1)]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Each image, and its likeliest class as the data calls it."""
        return [(name, self.class_names[label]) for name, label in zip(self.names, self.labels, strict=True)]

    def accuracy(self, split: Split) -> float | None:
        """The share of the split's images that are classified rightly; None where its labels are hidden."""
        if not split.scorable:
            return None
        return (self.logits.argmax(dim=1) == split.labels).double().mean().item()


def predictions(model: ConditionalPixelCNN, config: TrialConfig, dataset: Dataset) -> Predictions:
    """Predict the test split, which has images; its labels are not looked at here."""
    prior = log_prior(config.eval.prior, dataset.train.labels, dataset.nr_classes)
    log_p = log_likelihoods(
        model,
        dataset.test.images,
        prior,
        batch_size=config.eval.batch_size,
        bf16=config.eval.precision == "bf16",
    )
    return Predictions(dataset.test.names, log_p + prior, dataset.class_names)


def write_predictions(folder: Path, made: Predictions, distance: float | None) -> None:
    """Write both forms of the CSV, and the logits. Without a FID the first form ends without its row."""
    pairs = made.rows
    short = [("id", "label"), *zip(_ids(made.names), (name for _, name in pairs), strict=True)]
    fid_row = [] if distance is None else [("fid", repr(float(distance)))]
    (folder / PREDICTIONS).write_text(_csv([*short, *fid_row]), encoding="utf-8", newline="")
    (folder / PREDICTIONS_WITH_PATHS).write_text(_csv(pairs), encoding="utf-8", newline="")
    np.save(folder / LOGITS, made.logits.numpy())


def read_predictions(folder: Path) -> list[tuple[str, str]]:
    """File names and classes, as `write_predictions` wrote them. Raise OSError or ValueError."""
    with (folder / PREDICTIONS_WITH_PATHS).open(encoding="utf-8", newline="") as stream:
        return [(name, label) for name, label in csv.reader(stream)]


def _ids(names: Sequence[str]) -> Sequence[str]:
    """File names alone; as the data set has them where that would give two images one id."""
    short = [_file_name(name) for name in names]
    return short if len(set(short)) == len(short) else names


def _file_name(name: str) -> str:
    pure = PurePosixPath(name)
    return pure.name if pure.suffix else name  # the digits are no files; their whole name says which they are


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_samples(folder: Path, drawn: quality.Drawn) -> None:
    """Write each image as `ClassY_image_NN.png`, NN from 01, and all of them as one picture."""
    (folder / SAMPLES).mkdir()
    for label in drawn.labels.unique().tolist():
        for number, image in enumerate(drawn.images[drawn.labels == label], start=1):
            pixels = image.permute(1, 2, 0).numpy()
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
                folder / SAMPLES / f"Class{label}_image_{number:02d}.png"
            )
    drawn.write_grid(folder / GRID)


def measure(drawn: quality.Drawn, config: TrialConfig, dataset: Dataset, device: str) -> Distance | str:
    """The FID of these images, as the course measures it where that is possible, or why there is none.

    The course's is Inception's first 192 features against the files of `test`; without those weights, or for other
    data, what the trial's own configuration asks for.
    """
    graded = SOURCES[config.data.name].graded_with
    course = {name: value for name, value in graded.items() if name.startswith("eval.")}
    reason = ""
    for settings in ([course] if course else []) + [{}]:
        try:
            evaluator = quality.evaluator(config.with_settings(settings), dataset, device)
            distance = fid(evaluator.extract(drawn.images), evaluator.reference)
        except (ConfigError, DataError, FidError) as error:
            reason = str(error)
            continue
        if distance.value is not None:
            return distance
        reason = str(distance.reason)
    return reason


def per_class(nr_classes: int) -> int:
    """How many images of each class are handed in: PER_CLASS, fewer of more than 100 classes."""
    return max(_FEWEST, min(PER_CLASS, _MOST // nr_classes))


def draw(model: ConditionalPixelCNN, config: TrialConfig) -> quality.Drawn:
    """So many images of each class; the same ones for the same weights and seed."""
    with torch.inference_mode():
        return quality.draw(model, per_class(model.nr_classes), seed=config.seed)
