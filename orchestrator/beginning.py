"""A folder of results in the moments before its first trial: what fails there leaves nothing behind."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from orchestrator.store import Store, StoreError


@contextmanager
def begun(store: Store) -> Generator[None]:
    """Make the folders, and be in there. Raise StoreError where that is not possible.

    Where it fails before the first trial has a row, nothing that was not there before stays.
    """
    new, absent = is_new(store), absent_folders(store)
    try:
        store.create()
    except StoreError:
        _remove(absent)
        raise
    with without_a_trace(store, absent) if new else nullcontext():
        yield


def is_new(store: Store) -> bool:
    """Whether nobody has begun anything in the folder. Raise StoreError where that cannot be told."""
    try:
        return not store.is_begun
    except OSError as error:
        raise StoreError(f"{store.folder}: cannot hold results: {error.strerror or error}") from None


def absent_folders(store: Store) -> list[Path]:
    """The store's folder on this machine and those around it, as far as they are not there, innermost first."""
    return [] if store.near.exists() else [store.near, *(each for each in store.near.parents if not each.exists())]


@contextmanager
def without_a_trace(store: Store, absent: Sequence[Path]) -> Generator[None]:
    """Take away what was written if this fails before the first trial, and of the folders those that were absent.

    Otherwise the name would be taken, bound to a question that was never tried.
    """
    try:
        yield
    except BaseException:
        with suppress(OSError, StoreError):
            if not any(True for _ in store.trials_folder.glob("*.parquet")):
                store.remove()
        _remove(absent)
        raise


def _remove(absent: Sequence[Path]) -> None:
    for folder in absent:
        with suppress(OSError):
            folder.rmdir()
