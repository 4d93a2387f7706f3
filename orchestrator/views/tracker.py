"""`Tracker`: where trials are shown, and what of a row there is to show. `tracking.py` has the table of them."""

from __future__ import annotations

import io
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpcnn_core.config import LOCATIONS, Scalar
from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row

_NO_METRICS = ("trial_id", "attempt", "epoch", "checkpoint")


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


def pixels_of(file: Folder) -> NDArray[np.uint8]:
    """(H, W, 3) of a picture of samples."""
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        return np.asarray(image.convert("RGB"))
