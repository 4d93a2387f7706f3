"""The results of one sweep as files: Parquet for what was measured, JSON for what was asked.

What lies where, `layout` says; `tables`, `predictions`, `sweep_file` and `study_copy` read and write it, each its own
part, at a `place`: a folder on disk or behind a URL. A `Store` holds them together.

`trials` and `epochs` have one writer, the driver; a trial's process writes its predictions, log and checkpoints. Every
file is written under a temporary name and renamed, or behind a URL put there in one request, so a reader never sees
half of one, and a reader that meets a broken or foreign file names it and goes on.

`docs/results-schema.md` has every column with its unit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa  # type: ignore[import-untyped]

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records import layout
from orchestrator.records.columns import OPTION_PREFIX as OPTION_PREFIX
from orchestrator.records.columns import Attempt as Attempt
from orchestrator.records.columns import Cell as Cell
from orchestrator.records.columns import Row as Row
from orchestrator.records.columns import as_int as as_int
from orchestrator.records.columns import as_number as as_number
from orchestrator.records.columns import as_scalar as as_scalar
from orchestrator.records.columns import as_time as as_time
from orchestrator.records.columns import attempt_of as attempt_of
from orchestrator.records.columns import config_of as config_of
from orchestrator.records.errors import NotThereError as NotThereError
from orchestrator.records.errors import StoreError as StoreError
from orchestrator.records.location import Folder, RemoteError
from orchestrator.records.parquet_files import ParquetFiles
from orchestrator.records.pictures import Picture, Pictures
from orchestrator.records.place import Fence, place_of
from orchestrator.records.predictions import Predictions
from orchestrator.records.study_copy import StudyCopy
from orchestrator.records.sweep_file import SweepFile, SweepRecord
from orchestrator.records.tables import COMPACT_FROM, Table, Tables, Turn
from orchestrator.records.tables import without_a_gap as without_a_gap

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd  # takes a second to import, and who only asks for rows or columns does without
    from numpy.typing import NDArray


class Store:
    """The folder of one sweep, on disk or behind a URL."""

    def __init__(self, folder: Folder, fence: Fence | None = None) -> None:
        self._place = place_of(folder, fence)
        files = ParquetFiles(self._place)
        self._tables = Tables(self._place, files)
        self._predictions = Predictions(self._place, files)
        self._pictures = Pictures(self._place, files)
        self._sweep = SweepFile(self._place)
        self._study = StudyCopy(self._place)

    @property
    def folder(self) -> Folder:
        """The folder."""
        return self._place.folder

    @property
    def local_mirror(self) -> Path:
        """Where on this machine lies what must be a file there: the folder, or one in the cache that goes with it."""
        return self._place.local_mirror

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return self._place.is_remote

    @property
    def is_begun(self) -> bool:
        """Whether it was asked something, or a trial has left rows in it. Raise RemoteError."""
        tables = (self.trials_folder, self.epochs_folder)
        return self.sweep_file.is_file() or any(True for folder in tables for _ in folder.glob("*.parquet"))

    def retrying(self) -> Store:
        """The same for a run that has work to lose: what fails behind a URL is tried again for a while."""
        retrying = self._place.retrying()
        return self if retrying is self._place else Store(retrying.folder, retrying.fence)

    @contextmanager
    def fenced(self, fence: Fence) -> Generator[Store]:
        """The same for one of several who may write: meanwhile `fence` is called before each write.

        It raises where somebody else has taken over.
        """
        before, over = self._place.fence, False

        def both() -> None:
            if before is not None:
                before()
            if not over:
                fence()

        try:
            yield Store(self.folder, both)
        finally:
            over = True

    # --- the folder

    @property
    def trials_folder(self) -> Folder:
        """The table of attempts."""
        return self._place.path(layout.TRIALS)

    @property
    def epochs_folder(self) -> Folder:
        """The table of epochs."""
        return self._place.path(layout.EPOCHS)

    @property
    def predictions_folder(self) -> Folder:
        """What epochs predicted."""
        return self._place.path(layout.PREDICTIONS)

    @property
    def samples_folder(self) -> Folder:
        """Pictures of what was drawn."""
        return self._place.path(layout.SAMPLES)

    @property
    def pictures_folder(self) -> Folder:
        """What the report shows of finalists in pictures."""
        return self._place.path(layout.PICTURES)

    @property
    def artifacts_folder(self) -> Path:
        """Files for optuna-dashboard, on this machine."""
        return self.local_mirror / layout.ARTIFACTS

    @property
    def sweep_file(self) -> Folder:
        """sweep.json."""
        return self._place.path(layout.SWEEP_FILE)

    def checkpoint_folder(self, trial_id: str) -> Folder:
        """The folder that the trial's weights and training state are kept in."""
        return self._place.path(layout.checkpoints_of(trial_id))

    def training_folder(self, trial_id: str) -> Path:
        """The folder on this machine in which the trial is trained: the same, or what is mirrored there."""
        return self.local_mirror / layout.checkpoints_of(trial_id)

    def create(self) -> None:
        """Make the folders, or see that the URL can be written to. Raise StoreError where that is not possible."""
        layout.create(self._place)

    def remove(self) -> None:
        """Delete a sweep in which no trial has run: all that was written to get it going, and the folders once empty.

        Only for the one who holds the sweep. Raise RemoteError.
        """
        layout.remove(self._place, self.study_file.parent)

    def remove_leftovers(self) -> None:
        """Delete what writers that were killed left under temporary names; only for the one who holds the sweep."""
        layout.remove_leftovers(self._place)

    # --- what was asked, and the study

    def read_sweep(self) -> SweepRecord | None:
        """The content of sweep.json, None where there is none. Raise StoreError where it is broken."""
        return self._sweep.read()

    def write_sweep(self, record: SweepRecord) -> None:
        """Write sweep.json. Raise StoreError."""
        self._sweep.write(record)

    def class_names(self) -> Sequence[str]:
        """What the classes of the data are called, in their order; none where sweep.json does not say."""
        try:
            record = self.read_sweep()
        except StoreError:
            return ()
        return () if record is None else record.class_names

    def sweep_problems(self) -> list[str]:
        """What is wrong with sweep.json, for a reader who does without it."""
        try:
            self.read_sweep()
        except StoreError as error:
            return [str(error)]
        return []

    @property
    def study_file(self) -> Path:
        """The driver's study, on a disk of its machine; elsewhere than in the folder it is published there."""
        return self._study.file

    def set_study_aside(self) -> None:
        """Give the study's files another name, so that the next one to open it starts a new one."""
        self._study.set_aside()

    def publish_study(self) -> None:
        """Put a copy of the study, as it is now, where the results are. Raise StoreError."""
        self._study.publish()

    # --- what a trial leaves: samples, its log

    def samples_file(self, trial_id: str, epoch: int) -> Folder:
        """The picture of the images that were drawn after an epoch."""
        return self._place.path(layout.samples_of(trial_id, epoch))

    def write_samples(self, trial_id: str, epoch: int, write: Callable[[Path], object]) -> None:
        """Have `write` make the picture of what was drawn after an epoch. Raise StoreError."""
        self._place.write_as_file(layout.samples_of(trial_id, epoch), write)

    def write_pictures(self, trial_id: str, epoch: int, pictures: Sequence[Picture]) -> None:
        """Write what the report shows of a finalist's epoch. Raise StoreError."""
        self._pictures.write(trial_id, epoch, pictures)

    def pictures_of(self, trial_id: str, epoch: int) -> list[Picture]:
        """What the report shows of a finalist's epoch. Raise StoreError where there are none."""
        return self._pictures.of(trial_id, epoch)

    def log_file(self, trial_id: str) -> Path:
        """The file on this machine that the trial's process writes its log to."""
        return self.local_mirror / layout.log_of(trial_id)

    def fetch_log(self, trial_id: str) -> None:
        """Go on with the log of an earlier attempt on another machine. Raise RemoteError."""
        self._place.fetch_near(layout.log_of(trial_id))

    def publish_log(self, trial_id: str) -> None:
        """Put the log as it is now where the results are. Raise RemoteError."""
        self._place.send_near(layout.log_of(trial_id))

    def log_changed(self, trial_id: str) -> float | None:
        """When the log was written last, by the clock of where it lies; None where there is none to be had."""
        try:
            return self._place.modified(layout.log_of(trial_id))
        except OSError:
            return None

    # --- predictions: `predictions.Predictions`

    def write_predictions(
        self,
        trial_id: str,
        epoch: int,
        *,
        images: Sequence[str],
        labels: Sequence[int],
        log_likelihood: Sequence[Sequence[float]] | NDArray[np.float64],
    ) -> None:
        """Write log p(image | class), nats, images x classes, as columns log_p_0, log_p_1, ..."""
        self._predictions.write(trial_id, epoch, images=images, labels=labels, log_likelihood=log_likelihood)

    def predictions_of(self, trial_id: str, epoch: int) -> pd.DataFrame:
        """The predictions of one epoch, for pandas. Raise StoreError where there are none."""
        return self._predictions.frame(trial_id, epoch)

    def predictions_table(self, trial_id: str, epoch: int) -> pa.Table:
        """The predictions of one epoch. Raise StoreError where there are none."""
        return self._predictions.table(trial_id, epoch)

    def expect_predictions(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Fetch what lies behind a URL of these trials' epochs all at once, for `predictions_table`."""
        self._predictions.expect(wanted)

    # --- rows: `tables.Tables`

    def attempts_of(self, trial_id: str) -> list[Row]:
        """The trial's rows of `trials`, first attempt first, each with its configuration; none where it never ran."""
        return self._tables.attempts_of(trial_id)

    def write_attempt(self, attempt: Attempt, config: TrialConfig) -> None:
        """Add the attempt's row, or replace it."""
        self._tables.write_attempts([attempt], config)

    def write_attempts(self, attempts: Sequence[Attempt], config: TrialConfig) -> None:
        """Add or replace several rows of one trial at once, so that no kill comes between them."""
        self._tables.write_attempts(attempts, config)

    def trial_ids(self) -> list[str]:
        """The ids of the trials that have a row; cheaper than their rows."""
        return self._tables.trial_ids()

    def epochs_of(self, trial_id: str) -> list[Row]:
        """The trial's rows of `epochs`, in order."""
        return self._tables.epochs_of(trial_id)

    def reported_epochs(self, config: TrialConfig) -> int:
        """The last epoch up to which, from the trial's first one on without a gap, each has its row.

        Where there is none, 0, or the epochs before those of a trial that continues another one.
        """
        return self._tables.reported_epochs(config)

    def add_epoch(self, trial_id: str, attempt: int, metrics: EpochMetrics) -> None:
        """Add the epoch's row, or replace it; rows whose weights are no longer on disk lose their `checkpoint`."""
        self._tables.add_epoch(trial_id, attempt, metrics)

    def forget_weights(self, trial_id: str, epoch: int) -> None:
        """Have the epoch's row say that its weights are no longer on disk."""
        self._tables.forget_weights(trial_id, epoch)

    def trials(self) -> Table:
        """All attempts of all trials."""
        return self._tables.trials()

    def latest_attempts(self) -> Table:
        """The last attempt of each trial, which tells its state."""
        return self._tables.latest_attempts()

    def epochs(self, columns: Sequence[str] | None = None) -> Table:
        """Each epoch of each trial once, as its last attempt reported it.

        With `columns` only those, besides trial_id, attempt and epoch; one that no file has is missing.
        """
        return self._tables.epochs(columns)

    def epoch_columns(self) -> dict[str, pa.DataType]:
        """The columns that `epochs` has, by what the files' ends say of them."""
        return self._tables.epoch_columns()

    def orphans(self, trials: pa.Table, epochs: pa.Table) -> list[str]:
        """A line on the trials that have epochs and no row in `trials`, of which nobody knows what was trained."""
        return self._tables.orphans(trials, epochs)

    def has_epochs(self) -> bool:
        """Whether any trial has finished an epoch."""
        return self._tables.has_epochs()

    def compact(self, *, at_least: int = COMPACT_FROM) -> int:
        """Bring the rows of all ended trials into one file per table, where that replaces `at_least` files.

        Only for the one who holds the sweep. Return how many files were replaced.
        """
        return self._tables.compact(at_least=at_least)

    def unify(self, turn: Turn = lambda _: nullcontext(True)) -> list[str]:
        """Write files anew that have other columns than this version gives them; a line on each that cannot be.

        Only for the one who holds the sweep, or with a `turn` for each trial.
        """
        return self._tables.unify(turn)

    def set_damaged_aside(self) -> list[str]:
        """Move compacted files that cannot be read to where they lie in no reader's way; a line on each.

        Only for the one who holds the sweep. A trial's own file keeps its place until another is written there.
        """
        return self._tables.set_damaged_aside()


def sweeps(results: Folder) -> list[Store]:
    """The sweeps under a results folder, by name. Raise StoreError where it is out of reach."""
    try:
        found: list[Folder] = sorted(results.iterdir(), key=str) if results.is_dir() else []
        # One that was killed before it had begun is none yet.
        return [store for store in map(Store, found) if store.is_begun]
    except RemoteError as error:
        raise StoreError(str(error)) from None
