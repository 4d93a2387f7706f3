"""What an epoch's model predicts for each validation image: one Parquet file for each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray

from orchestrator.records import layout
from orchestrator.records.columns import PREDICTION_KEY
from orchestrator.records.errors import NotThereError, StoreError
from orchestrator.records.location import RemoteError
from orchestrator.records.parquet_files import ParquetFiles
from orchestrator.records.place import Place

if TYPE_CHECKING:
    import pandas as pd  # takes a second to import, and who only asks for rows or columns does without


class Predictions:
    """The files of `predictions`."""

    def __init__(self, place: Place, files: ParquetFiles) -> None:
        self._place = place
        self._files = files

    def write(
        self,
        trial_id: str,
        epoch: int,
        *,
        images: Sequence[str],
        labels: Sequence[int],
        log_likelihood: Sequence[Sequence[float]] | NDArray[np.float64],
    ) -> None:
        """Write log p(image | class), nats, images x classes, as columns log_p_0, log_p_1, ..."""
        columns: dict[str, pa.Array] = {
            "trial_id": pa.array([trial_id] * len(images), pa.string()),
            "epoch": pa.array([epoch] * len(images), pa.int32()),
            "image": pa.array(images, pa.string()),
            "label": pa.array(labels, pa.int64()),
        }
        table = np.asarray(log_likelihood, dtype=np.float64)  # a list takes four times as much memory
        for label, column in enumerate(table.T if table.size else ()):
            columns[f"log_p_{label}"] = pa.array(column, pa.float64())
        self._files.write(layout.predictions_of(trial_id, epoch), pa.table(columns))

    def frame(self, trial_id: str, epoch: int) -> pd.DataFrame:
        """The predictions of one epoch, for pandas. Raise StoreError where there are none."""
        frame: pd.DataFrame = self.table(trial_id, epoch).to_pandas()
        return frame

    def table(self, trial_id: str, epoch: int) -> pa.Table:
        """The predictions of one epoch. Raise StoreError where there are none."""
        name = layout.predictions_of(trial_id, epoch)
        table, problem = self._files.read(name, PREDICTION_KEY)
        if table is None:
            raise StoreError(problem) if problem else NotThereError(f"{self._place.path(name)}: not there")
        return table

    def expect(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Fetch what lies behind a URL of these trials' epochs all at once, for `table`."""
        try:
            self._place.expect(layout.predictions_of(trial_id, epoch) for trial_id, epoch in wanted)
        except RemoteError as error:
            raise StoreError(str(error)) from error
