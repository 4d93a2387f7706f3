"""The process that started this one, and what a child of it is handed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from cpcnn_core.errors import UserError

_PR_SET_PDEATHSIG = 1
_HANDS_DOWN = os.name == "posix"  # open connections, by their numbers


class NotHereError(UserError):
    """What this kind of system has no way to do; the message says what to do instead."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, which may not come to do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def check_hands_down(what: str) -> None:
    """Raise NotHereError where a process cannot be started with a connection to this one, which `what` needs."""
    if not _HANDS_DOWN:
        raise NotHereError(f"{what}: is not to be had on Windows, where a process inherits no connection; leave it out")
