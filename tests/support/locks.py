"""File systems whose locks do nothing, for tests: calls that fail, and calls that always succeed."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable

ALWAYS = "always"  # granted to everybody
KINDS = (ALWAYS, *map(str, (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)))


def broken(kind: str) -> Callable[[int, int], None]:
    """What `fcntl.flock` is there; `kind` is one of KINDS."""

    def flock(descriptor: int, operation: int) -> None:
        if kind != ALWAYS:
            raise OSError(int(kind), "no locks here")

    return flock


def break_locks(kind: str) -> None:
    """Have this process find such a file system everywhere."""
    fcntl.flock = broken(kind)  # type: ignore[assignment]
