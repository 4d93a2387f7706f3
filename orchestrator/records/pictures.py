"""What the report shows of a finalist in pictures: one Parquet file for each epoch, so that a page needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa  # type: ignore[import-untyped]

from orchestrator.records import layout
from orchestrator.records.columns import PICTURE_KEY
from orchestrator.records.errors import NotThereError, StoreError
from orchestrator.records.parquet_files import ParquetFiles
from orchestrator.records.place import Place


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One row: an image that the model drew, or a validation image that it classified."""

    kind: Literal["drawn", "validation"]
    label: int  # the class that was asked for, or the true one
    png: bytes
    nearest: str | None = None  # of a drawn one: the training image that is nearest to it, by pixels
    nearest_label: int | None = None
    nearest_png: bytes | None = None
    distance: float | None = None  # to it: the root mean square over pixels in [-1, 1]
    image: str | None = None  # of a validation image: its name
    predicted: int | None = None
    confidence: float | None = None  # p(predicted class given image)
    other: int | None = None  # the class that the true one is held against: the predicted one, or the next likely
    log_ratio: list[float] | None = None  # nats per pixel, row by row: of the true class over the other one


_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("epoch", pa.int32()),
        ("kind", pa.string()),
        ("label", pa.int64()),
        ("png", pa.binary()),
        ("nearest", pa.string()),
        ("nearest_label", pa.int64()),
        ("nearest_png", pa.binary()),
        ("distance", pa.float64()),
        ("image", pa.string()),
        ("predicted", pa.int64()),
        ("confidence", pa.float64()),
        ("other", pa.int64()),
        ("log_ratio", pa.list_(pa.float32())),
    ]
)


class Pictures:
    """The files of `pictures`."""

    def __init__(self, place: Place, files: ParquetFiles) -> None:
        self._place = place
        self._files = files

    def write(self, trial_id: str, epoch: int, pictures: Sequence[Picture]) -> None:
        """Write those of one epoch. Raise StoreError."""
        folder = self._place.path(layout.PICTURES)
        if isinstance(folder, Path):
            folder.mkdir(exist_ok=True)  # folders of earlier releases have none
        rows = [{"trial_id": trial_id, "epoch": epoch} | asdict(picture) for picture in pictures]
        self._files.write(layout.pictures_of(trial_id, epoch), pa.Table.from_pylist(rows, schema=_SCHEMA))

    def of(self, trial_id: str, epoch: int) -> list[Picture]:
        """Those of one epoch. Raise StoreError where there are none."""
        name = layout.pictures_of(trial_id, epoch)
        table, problem = self._files.read(name, PICTURE_KEY)
        if table is None:
            raise StoreError(problem) if problem else NotThereError(f"{self._place.path(name)}: not there")
        known = [name for name in Picture.__dataclass_fields__ if name in table.column_names]
        return [Picture(**row) for row in table.select(known).to_pylist()]
