"""`digits`: the 1797 handwritten digits of 8x8 pixels and 17 levels that ship inside scikit-learn."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cpcnn_core import cache
from cpcnn_core.data import fitting
from cpcnn_core.data.split import SPLITS, Dataset, Split, shuffled_by_class

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig

_SIZE = 8  # pixels across and down
_HELD_OUT_PER_CLASS = 30  # in the validation and in the test split


def load(config: DataConfig) -> Dataset:
    """Split by class, so that each split has as many images of one class as of another."""
    # The import takes seconds, so that a cached copy pays even for so little data.
    raw = cache.tensors("digits", cache.digest([version("scikit-learn"), str(fitting.FORMAT)]), _digits_of_sklearn)
    levels, labels = raw["levels"], raw["labels"]
    size, channels = config.size or _SIZE, config.nr_channels or 1
    fitted = fitting.fit(levels.float()[:, None] / 16, channels=channels, size=(size, size))
    images = fitting.on_grid(fitted) if config.quantize else fitted * 2 - 1
    held_out = _HELD_OUT_PER_CLASS
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for of_class in shuffled_by_class(labels):
        parts["validation"] += of_class[:held_out]
        parts["test"] += of_class[held_out : 2 * held_out]
        parts["train"] += of_class[2 * held_out :]
    everything = Split(images, labels, tuple(f"digits/{index:04d}" for index in range(len(labels))))
    return Dataset(
        "digits",
        **{name: everything.take(sorted(indices)) for name, indices in parts.items()},
        class_names=tuple(str(digit) for digit in range(10)),
        digest=cache.digest([levels, labels]),
    )


def _digits_of_sklearn() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    return {
        "levels": torch.from_numpy(levels).reshape(-1, _SIZE, _SIZE).to(torch.uint8),
        "labels": torch.from_numpy(labels).to(torch.int64),
    }
