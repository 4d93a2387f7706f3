"""What lies where in the folder of a sweep.

    sweep.json                     what was asked, by which code, on which machine
    study.db                       Optuna's study, or a copy of it
    trials/<trial_id>.parquet      one row per attempt at the trial
    epochs/<trial_id>.parquet      one row per epoch
    trials/compacted.parquet       the rows of many trials that have ended, likewise in epochs; their own files are gone
    predictions/<trial_id>-0003.parquet   log p(image | class) for each validation image, of one epoch
    checkpoints/<trial_id>/        weights and training state, the core's business
    samples/<trial_id>-0003.png    images drawn after an epoch, one row per class
    pictures/<trial_id>-0003.parquet      what the report shows of a finalist: one picture per row
    logs/<trial_id>.log            what the trial's process said
    stop/<trial_id>.json           somebody wants this trial to end; gone once it has
    set-aside/                     files of `trials` and `epochs` that could not be read

Where the folder is a URL, what must be a file on this machine (the study, a lock, a log that is being written, the
checkpoints of a trial in training) lies in the local mirror, a folder of the cache, and goes from there to
the URL. Where it is on a file system that machines share, the study alone is kept elsewhere, since its write-ahead log
would not work there; a copy lies in the folder.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from orchestrator.records import location
from orchestrator.records.errors import StoreError
from orchestrator.records.place import Place

SWEEP_FILE = "sweep.json"
STUDY_FILE = "study.db"
TRIALS, EPOCHS, PREDICTIONS = "trials", "epochs", "predictions"
CHECKPOINTS, SAMPLES, LOGS = "checkpoints", "samples", "logs"
PICTURES = "pictures"
ARTIFACTS = "artifacts"
SET_ASIDE = "set-aside"
STOP = "stop"

COMPACTED = "compacted.parquet"  # no trial id: those have 12 hex digits

_FOLDERS = (TRIALS, EPOCHS, PREDICTIONS, CHECKPOINTS, SAMPLES, LOGS)
_LOCK_FOLDERS = ("tracking.locks",)
# What is there before the first trial runs.
_TO_BEGIN = re.compile(
    r"sweep\.json|study(-\d+)?\.db(-\w+)?|work\.txt|driver-\d+\.json|(driver|tracking)\.lock|tracking\.json"
)
_OF_A_TRIAL = re.compile(r"[0-9a-f]{12}\.(log|lock)")  # of one that came no further than to look whether it is alone


def rows_of(table: str, trial_id: str) -> str:
    """The file of one trial's own rows in one of the tables."""
    return f"{table}/{trial_id}.parquet"


def compacted(table: str) -> str:
    """The file of the rows of many trials in one of the tables."""
    return f"{table}/{COMPACTED}"


def is_compacted(name: str) -> bool:
    """Whether a file holds the rows of many trials."""
    return PurePosixPath(name).name == COMPACTED


def predictions_of(trial_id: str, epoch: int) -> str:
    """The file of what one epoch predicted."""
    return f"{PREDICTIONS}/{trial_id}-{epoch:04d}.parquet"


def samples_of(trial_id: str, epoch: int) -> str:
    """The picture of the images that were drawn after an epoch."""
    return f"{SAMPLES}/{trial_id}-{epoch:04d}.png"


def pictures_of(trial_id: str, epoch: int) -> str:
    """The file of what the report shows of a finalist's epoch."""
    return f"{PICTURES}/{trial_id}-{epoch:04d}.parquet"


def checkpoints_of(trial_id: str) -> str:
    """The folder of a trial's weights and training state."""
    return f"{CHECKPOINTS}/{trial_id}"


def log_of(trial_id: str) -> str:
    """The trial's log."""
    return f"{LOGS}/{trial_id}.log"


def create(place: Place) -> None:
    """Make the folders, or see that the URL can be written to. Raise StoreError where that is not possible."""
    mirror, way = place.local_mirror, place.way_out
    try:
        for name in _FOLDERS:
            (mirror / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{mirror}: cannot hold results: {error.strerror or error}{way}") from None
    if not os.access(mirror / TRIALS, os.W_OK):
        raise StoreError(f"{mirror}: cannot hold results: no permission to write{way}")
    place.check()


def remove(place: Place, study_folder: Path) -> None:
    """Delete a sweep in which no trial has run: all that was written to get it going, and the folders once empty.

    Only for the one who holds the sweep. Raise RemoteError.
    """
    for folder in dict.fromkeys([place.folder, place.local_mirror, study_folder]):
        files = [folder / name for name in location.names(folder) if _TO_BEGIN.fullmatch(name)]
        location.remove([*files, folder / LOGS / "tracking.log"])
        for within in (folder / LOGS, folder / CHECKPOINTS):
            location.remove([within / name for name in location.names(within) if _OF_A_TRIAL.fullmatch(name)])
    for here in dict.fromkeys([place.local_mirror, study_folder]):
        for made in (*(here / name for name in (*_FOLDERS, *_LOCK_FOLDERS)), here):
            with suppress(OSError):
                made.rmdir()


def remove_leftovers(place: Place) -> None:
    """Delete what writers that were killed left under temporary names; only for the one who holds the sweep."""
    for folder in (place.local_mirror, place.local_mirror / TRIALS, place.local_mirror / EPOCHS):
        for file in folder.glob(".*.tmp"):
            file.unlink(missing_ok=True)


def set_aside(place: Place, name: str) -> str:
    """Move a file to where no reader of a whole folder meets it. Return its new name."""
    path, number = PurePosixPath(name), 1
    while place.path(aside := f"{SET_ASIDE}/{path.parent.name}-{path.stem}-{number}{path.suffix}").is_file():
        number += 1
    place.move(name, aside)
    return aside
