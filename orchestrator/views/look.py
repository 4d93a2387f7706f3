"""What a data set looks like: how many images each class has, and a picture of some."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cpcnn_core import grid
from cpcnn_core.data import HIDDEN, SPLITS, Dataset, Split, to_uint8

_HIDDEN_NAME = "hidden"  # of the row of images whose labels the data set does not tell


def counts(data: Dataset) -> Table:
    """How many images of each class each split has."""
    table = Table("class", *SPLITS, box=None, pad_edge=False)
    for label, name in _names(data).items():
        numbers = [int((_split(data, split).labels == label).sum()) for split in SPLITS]
        if label != HIDDEN or any(numbers):
            table.add_row(name, *map(str, numbers))
    return table


def write(data: Dataset, split: str, path: Path) -> int:
    """Write the first images of each class of a split, a row per class. Return how many there are of one at most."""
    shown = _split(data, split)
    grid.write(path, to_uint8(shown.images), shown.labels, _names(data))
    return min(grid.COLUMNS, int(shown.labels.unique(return_counts=True)[1].max()))


def _names(data: Dataset) -> dict[int, str]:
    return {**dict(enumerate(data.class_names)), HIDDEN: _HIDDEN_NAME}


def _split(data: Dataset, name: str) -> Split:
    return {"train": data.train, "validation": data.validation, "test": data.test}[name]
