"""What a command leaves that ends before its first trial: nothing that could be taken for a sweep.

Otherwise its name would be taken, bound to a question that was never tried.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator import alone
from orchestrator.store import Store, StoreError


def absent(store: Store) -> list[Path]:
    """The folders that are still to be made for the store, innermost first."""
    near = store.near
    return [] if near.exists() else [near, *(folder for folder in near.parents if not folder.exists())]


def remove(store: Store, made: Sequence[Path]) -> None:
    """Delete what was written to get the first trial going, unless one ran, and the folders `made` once empty.

    Only for the one who holds the sweep.
    """
    with suppress(OSError, StoreError):
        if not any(True for _ in store.trials_folder.glob("*.parquet")):
            store.remove()
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def none_left(store: Store, made: Sequence[Path]) -> Generator[None]:
    """Do so where what is done in here fails, or is interrupted."""
    try:
        yield
    except BaseException:
        remove(store, made)
        raise


@contextmanager
def none_left_by_hand(store: Store, made: Sequence[Path], trial_id: str) -> Generator[None]:
    """The same for a trial that is run by hand, beside which others may begin in the same folder."""
    try:
        yield
    except BaseException:
        with suppress(OSError, alone.BusyError):
            _remove_of(store, trial_id)
            others = [*(store.near / "logs").glob("*"), *(store.near / "checkpoints").glob("*")]
            if not any(file.name != "tracking.log" for file in others):
                remove(store, made)
        raise


def _remove_of(store: Store, trial_id: str) -> None:
    """Delete the lock and the log of a trial without rows. Raise BusyError where somebody else has begun it."""
    if store.attempts_of(trial_id):
        return
    lock = store.near / "checkpoints" / f"{trial_id}.lock"
    if lock.exists():
        with alone.locked(lock):
            lock.unlink()
    store.log_file(trial_id).unlink(missing_ok=True)
