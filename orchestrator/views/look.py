"""What a data set looks like: how many images each class has, and a picture of some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cpcnn_core import grid
from cpcnn_core.class_names import MOST_DRAWN, numbers
from cpcnn_core.config import ConfigError
from cpcnn_core.data import HIDDEN, SPLITS, Dataset, Split, to_uint8

_HIDDEN_NAME = "hidden"  # of the row of images whose labels the data set does not tell


def counts(data: Dataset) -> Table:
    """How many images of each class each split has; with the number of each class where its name is another."""
    named = data.class_names != numbers(data.nr_classes)
    table = Table(*(["number"] if named else []), "class", *SPLITS, box=None, pad_edge=False)
    for label, name in _names(data).items():
        found = [int((_split(data, split).labels == label).sum()) for split in SPLITS]
        if label != HIDDEN or any(found):
            number = ["" if label == HIDDEN else str(label)] if named else []
            table.add_row(*number, Text(name), *map(str, found))  # a name may look like markup
    return table


def write(data: Dataset, split: str, path: Path) -> str:
    """Write the first images of each class of a split, a row per class. Return what is in the picture.

    Raise ConfigError for a split without images.
    """
    shown = _split(data, split)
    if not len(shown):
        others = " or ".join(name for name in SPLITS if len(_split(data, name)))
        raise ConfigError(f"--split {split}: {data.name} has no {split} images; choose {others}")
    grid.write(path, to_uint8(shown.images), shown.labels, _names(data))
    classes, images = shown.labels.unique(return_counts=True)
    which = f" of the first {MOST_DRAWN} of {len(classes)} classes" if len(classes) > MOST_DRAWN else ""
    most = min(grid.COLUMNS, int(images.max()))
    return f"The first {most} images of each class of {split} are in {path}, a row per class{which}."


def _names(data: Dataset) -> Mapping[int, str]:
    return {**dict(enumerate(data.class_names)), HIDDEN: _HIDDEN_NAME}


def _split(data: Dataset, name: str) -> Split:
    return {"train": data.train, "validation": data.validation, "test": data.test}[name]
