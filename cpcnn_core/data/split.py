"""A data set: three splits of images, labels and names, whose images are mapped or in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cpcnn_core.errors import DataError

SPLITS = ("train", "validation", "test")
HIDDEN = -1  # the label of an image whose class is not told

_SPLIT_SEED = 455  # a data set is the same one in every trial, whatever the trial's own seed


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels and names, in the order of the source."""

    images: Tensor  # (N, C, H, W) uint8, or float32 in [-1, 1] where data.quantize is off
    labels: Tensor  # (N,) int64, HIDDEN where not known
    names: tuple[str, ...]  # "validation/0000009.jpg", "digits/0012"

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.names):
            raise DataError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.names)} names: "
                "a split has as many of each"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether every image's class is known."""
        return bool((self.labels >= 0).all())

    @property
    def scorable(self) -> bool:
        """Whether an accuracy can be measured on it: it has images, and the class of each is known."""
        return len(self) > 0 and self.labelled

    def take(self, indices: Sequence[int]) -> Split:
        """The images at `indices`, in that order: no copy where one follows upon the other."""
        start = indices[0] if len(indices) else 0
        if list(indices) == list(range(start, stop := start + len(indices))):
            return Split(self.images[start:stop], self.labels[start:stop], self.names[start:stop])
        chosen = torch.tensor(indices, dtype=torch.int64)
        return Split(self.images[chosen], self.labels[chosen], tuple(self.names[i] for i in indices))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set. All labels of `train` and `validation` are known; those of `test` may be hidden.

    `digest`, 32 hex digits, stands for the content: the decoded source images and the labels of every split, in order,
    before resizing, rounding or taking a fraction, which are settings. Data made in memory has none.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    digest: str | None = None

    @property
    def nr_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def check_digest(self, expected: str | None) -> None:
        """Raise DataError where this is not the data that is expected."""
        if expected is not None and expected != self.digest:
            raise DataError(
                f"data.digest: the data is another than the one asked for: its images or labels have the digest "
                f"{self.digest}, expected {expected}; give the folder of that data with --set data.root=PATH"
            )


def to_model(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]; floats are there already."""
    return images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images


def to_uint8(images: Tensor) -> Tensor:
    """The nearest of the 256 levels: the inverse of `to_model`."""
    if images.dtype == torch.uint8:
        return images
    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def shuffled_by_class(labels: Tensor) -> list[list[int]]:
    """Each class's indices, in an order that only the labels decide, so that smaller subsets lie within larger ones."""
    generator = np.random.RandomState(_SPLIT_SEED)  # unlike a Generator's, its stream is frozen for ever
    array = labels.numpy()
    return [generator.permutation(np.flatnonzero(array == label)).tolist() for label in np.unique(array)]
