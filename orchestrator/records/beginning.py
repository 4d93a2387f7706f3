"""A folder of results in the moments before its first trial: what fails there leaves nothing behind.

Otherwise its name would be taken, bound to a question that was never tried.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.records import alone
from orchestrator.records.store import Store, StoreError

logger = logging.getLogger(__name__)


@contextmanager
def begun(store: Store, trial_id: str) -> Generator[None]:
    """Make the folders for a trial that is run by hand, and be in there. Raise StoreError where that is not possible.

    Where it fails before the first trial has a row, nothing that was not there before stays. Others may begin trials in
    the same folder meanwhile.
    """
    new, absent = is_new(store), absent_folders(store)
    try:
        store.create()
    except StoreError:
        _remove_empty(absent)
        raise
    try:
        if not new:
            _unify(store)
        yield
    except BaseException:
        if new:
            with suppress(OSError, StoreError, alone.BusyError):
                _remove_of(store, trial_id)
                others = [*(store.local_mirror / "logs").glob("*"), *(store.local_mirror / "checkpoints").glob("*")]
                if not any(file.name != "tracking.log" for file in others):
                    remove(store, absent)
        raise


def _unify(store: Store) -> None:
    """Give the files that earlier releases left in a folder of trials by hand the columns of this one's.

    In the folder of a sweep its driver does it.
    """
    record = store.read_sweep()
    if record is not None and record.asked is not None:
        return

    @contextmanager
    def turn(trial_id: str) -> Generator[bool]:
        """Keep others from resuming the trial; where locks do not do that, its file stays as it is."""
        try:
            with alone.locked(store.local_mirror / "checkpoints" / f"{trial_id}.lock") as sure:
                yield sure
        except alone.BusyError:
            yield False

    for line in store.unify(turn):
        logger.warning("%s", line)


def is_new(store: Store) -> bool:
    """Whether nobody has begun anything in the folder. Raise StoreError where that cannot be told."""
    try:
        return not store.is_begun
    except OSError as error:
        raise StoreError(f"{store.folder}: cannot hold results: {error.strerror or error}") from None


def absent_folders(store: Store) -> list[Path]:
    """The store's folder on this machine and those around it, as far as they are not there, innermost first."""
    return (
        []
        if store.local_mirror.exists()
        else [store.local_mirror, *(each for each in store.local_mirror.parents if not each.exists())]
    )


@contextmanager
def without_a_trace(store: Store, absent: Sequence[Path]) -> Generator[None]:
    """Take away what was written if this fails before the first trial, and of the folders those that were absent.

    Only for the one who holds the sweep.
    """
    try:
        yield
    except BaseException:
        remove(store, absent)
        raise


def remove(store: Store, absent: Sequence[Path]) -> None:
    """Delete what was written to get the first trial going, unless one has a row, and the folders `absent` once empty.

    Only for the one who holds the sweep.
    """
    with suppress(OSError, StoreError):
        if not any(True for _ in store.trials_folder.glob("*.parquet")):
            store.remove()
    _remove_empty(absent)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _remove_of(store: Store, trial_id: str) -> None:
    """Delete the lock and the log of a trial without rows. Raise BusyError where somebody else has begun it."""
    if store.attempts_of(trial_id):
        return
    lock = store.local_mirror / "checkpoints" / f"{trial_id}.lock"
    if lock.exists():
        with alone.locked(lock):
            lock.unlink()
    store.log_file(trial_id).unlink(missing_ok=True)
