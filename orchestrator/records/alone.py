"""Being the only process to do something: a lock on a file, and where locks cannot be trusted a lease too.

A lock goes with its process, however that ends. But some file systems have none, some grant every lock to everybody,
and some know only the locks of their own machine. A lease needs no more than that one of several can create a file.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cpcnn_core.errors import UserError
from orchestrator.records import location
from orchestrator.records.lease import Beating, Lease, TakenError

_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
_LOOK_SECONDS = 0.5  # between two looks at a lease that somebody else holds
_LEASE = "claim"


class BusyError(UserError):
    """Somebody else is at it; the message says who, where that is known."""


@contextmanager
def locked(file: Path, *, wait: float = 0.0) -> Generator[bool]:
    """Hold the lock on a file, which stays; yield whether that surely keeps everybody else out.

    Wait at most so many seconds for whoever holds it. Raise BusyError after that, OSError where the file cannot be
    written.
    """
    # Without the library's way out, a file whose existence is the lock: a killed process's may stay for ever.
    lock = FileLock(file, timeout=wait, fallback_to_soft=False)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except Timeout:
            raise BusyError("its lock is held") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield lock.is_locked and _keeps_out(file) and not location.is_shared(file)


def _keeps_out(file: Path) -> bool:
    """Whether the lock that this process holds is refused to a second one who asks."""
    second = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        second.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    second.release()
    return False


@contextmanager
def alone(file: Path, *, wait: float = 0.0) -> Generator[Lease | None]:
    """Hold the lock on a file, and where that is not sure to keep everybody out, the lease beside it, which it yields.

    Wait at most so many seconds for whoever holds them. Raise BusyError after that, OSError where they cannot be
    written.
    """
    until = time.monotonic() + wait
    with locked(file, wait=wait) as sure:
        if sure:
            yield None
            return
        folder = file.with_name(f"{file.name}s")
        folder.mkdir(exist_ok=True)
        lease = _taken(folder, until)
        beating = Beating(lease)
        try:
            yield lease
        finally:
            beating.stop()
            lease.release()


def _taken(folder: Path, until: float) -> Lease:
    while True:
        try:
            return Lease.taken(folder, _LEASE)[0]
        except TakenError as taken:
            if time.monotonic() >= until:
                raise BusyError(str(taken.seen.holder)) from None
        time.sleep(_LOOK_SECONDS)
