"""Being the only driver of a sweep: a lock where locks work, and a lease everywhere."""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from orchestrator.records import alone, lease
from orchestrator.records.lease import STALE_SECONDS, Beating, Lease, LeaseLostError, TakenError
from orchestrator.records.location import RemoteError
from orchestrator.records.store import Store, StoreError
from orchestrator.tune.plan import Plan, SweepError

logger = logging.getLogger(__name__)


_PUBLISH_SECONDS = 600.0  # between two copies of the study that go where the results are


@contextmanager
def holding(store: Store, *, way_out: str = Plan.way_out) -> Generator[Store]:
    """Be the sweep's only driver; yield the store that writes for as long as this one is.

    Raise SweepError, naming the other one, where there is one.
    """
    # A lock is let go of with the process, however that ends. Where locks do nothing, or end at this machine, the lease
    # is what keeps a second driver out.
    lock = store.local_mirror / "driver.lock"
    with ExitStack() as stack:
        try:
            sure = stack.enter_context(alone.locked(lock))
        except alone.BusyError:
            raise SweepError(_taken(store, _seen(store), way_out)) from None
        except OSError as error:
            raise StoreError(f"{lock}: cannot be written: {error.strerror or error}") from None
        yield stack.enter_context(_leased(store, locked=sure, way_out=way_out))


def _seen(store: Store) -> lease.Seen | None:
    """Who holds the lease; None where that cannot be told."""
    with suppress(OSError):
        seen = lease.seen(store.folder, lease.DRIVER)
        return None if seen is None or seen.holder.over else seen
    return None


def _taken(store: Store, seen: lease.Seen | None, way_out: str) -> str:
    who = "which has not said yet who it is" if seen is None else str(seen.holder)
    return f"{store.folder}: another driver runs this sweep: {who}. Wait for it, stop it with Ctrl-C, or {way_out}"


@contextmanager
def _leased(store: Store, *, locked: bool, way_out: str) -> Generator[Store]:
    """Hold the lease of the sweep's driver, and publish the study now and then where it lies elsewhere."""
    work = _work(store)
    try:
        own_lease, before = Lease.taken(store.folder, lease.DRIVER, work=work, locked=locked)
    except TakenError as taken:
        left = max(1, round(STALE_SECONDS - taken.seen.silent))
        raise SweepError(
            f"{_taken(store, taken.seen, way_out)}; it was heard of {taken.seen.silent:.0f} s ago. If its machine is "
            f"gone, the same command goes on in {left} s"
        ) from None
    except OSError as error:
        raise _unwritable(store, error) from None
    if work is not None and (before is None or before.work != work) and store.study_file.exists():
        # Another machine has driven the sweep since this one did, or this is another sweep by the same name. The study
        # is made anew from the rows.
        store.set_study_aside()

    def fence() -> None:
        try:
            own_lease.check()
        except LeaseLostError as error:
            raise StoreError(
                f"{store.folder}: another driver has taken over this sweep: {error}. This one was not heard of for "
                "too long, and writes nothing more"
            ) from None
        except OSError as error:
            raise _unwritable(store, error) from None

    try:
        with store.fenced(fence) as fenced:
            beating = Beating(own_lease, meanwhile=partial(_publish, fenced), every=_PUBLISH_SECONDS)
            try:
                yield fenced
            finally:
                beating.stop()
                _publish(fenced)
    finally:
        with suppress(OSError):
            own_lease.release()


def _publish(store: Store) -> None:
    try:
        store.publish_study()
    except (StoreError, OSError, sqlite3.Error) as error:
        logger.warning("no copy of the study: %s", error)


def _unwritable(store: Store, error: OSError) -> StoreError:
    if isinstance(error, RemoteError):
        return StoreError(str(error))
    return StoreError(f"{store.folder}: cannot be written: {error.strerror or error}")


def _work(store: Store) -> str | None:
    """What names this machine's study of the sweep, whatever the machine is called; None where it is in the folder."""
    file = store.study_file.with_name("work.txt")
    if file.parent == store.folder:
        return None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(uuid.uuid4().hex, encoding="ascii")
        return file.read_text(encoding="ascii")
    except OSError as error:
        way = "CPCNN_CACHE names another place"
        raise StoreError(f"{file.parent}: cannot hold the study: {error.strerror or error}; {way}") from None
