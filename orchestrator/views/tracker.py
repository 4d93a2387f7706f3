"""`Tracker`: where trials are shown, and what of a row there is to show. `tracking.py` has the table of them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcnn_core.class_names import MOST_DRAWN, class_in
from cpcnn_core.config import LOCATIONS, Scalar
from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row

_NO_METRICS = ("trial_id", "attempt", "epoch", "checkpoint")
_GAP = 2  # white pixels between two rows of a picture of samples, as `cpcnn_core.grid` draws it
_CLASS_METRIC = "val_acc"


class Tracker(Protocol):
    """Where trials are shown."""

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """Show an epoch; `samples` is the picture of what was drawn after it."""
        ...

    def end(self, trial: Entry, best: Row | None) -> None:
        """The trial has ended, for now at least; `best` is its best epoch."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


def metrics_of(row: Row) -> dict[str, float]:
    """The finite numbers in a row of `epochs`."""
    numbers = {
        name: float(value)
        for name, value in row.items()
        if name not in _NO_METRICS and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def settings_of(trial: Entry) -> dict[str, Scalar]:
    """The configuration, without where things lie on this machine."""
    return {name: value for name, value in trial.settings().items() if name not in LOCATIONS}


def classes_of(row: Row, recorded: Sequence[str] = ()) -> list[str]:
    """The classes that a picture of samples shows, in their order.

    They are as they were recorded of the sweep's data. Earlier releases did not record them: then they are as the
    columns of their accuracies name them.
    """
    if recorded:
        return list(recorded[:MOST_DRAWN])
    names = [found[1] for found in map(class_in, row) if found is not None and found[0] == _CLASS_METRIC]
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def rows_of(pixels: NDArray[np.uint8], classes: Sequence[str]) -> dict[str, NDArray[np.uint8]]:
    """By class: its row of a picture of samples. Empty where the picture does not have a row for each."""
    height, rest = divmod(len(pixels) + _GAP, max(1, len(classes)))
    gaps = [pixels[at * height - _GAP : at * height] for at in range(1, len(classes))]
    if rest or height <= _GAP or not all((gap == 255).all() for gap in gaps):
        return {}
    return {name: pixels[at * height : (at + 1) * height - _GAP] for at, name in enumerate(classes)}


def pixels_of(file: Folder) -> NDArray[np.uint8]:
    """(H, W, 3) of a picture of samples."""
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        return np.asarray(image.convert("RGB"))
