"""Signals that ask this process to end: SIGTERM, SIGHUP and SIGUSR1, as `kill`, closed terminals and Slurm send them.

They are handled as Ctrl-C is. One that whoever started the process has had ignored stays so, as SIGHUP under `nohup`.
"""

from __future__ import annotations

import bdb
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if name in signal.Signals.__members__)

Handler = Callable[[int, FrameType | None], object]


class AskedToEndError(KeyboardInterrupt):
    """What Ctrl-C raises, for another signal, or for what else announced that the process is taken away."""

    def __init__(self, why: int | str) -> None:
        super().__init__(why if isinstance(why, str) else name_of(why))


class Asked:
    """Whether the process has been asked to end."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Raise, once: a terminal that is closed and its shell send one signal each, and rows are being written."""
        if self.number is None:
            self.number = number
            raise AskedToEndError(number)

    def check(self) -> None:
        """Raise AskedToEndError again where somebody has swallowed it, as code that cleans up does."""
        if self.number is not None:
            raise AskedToEndError(self.number)


@contextmanager
def as_interrupts() -> Generator[Asked]:
    """Have the signals raise AskedToEndError in here. In a thread that cannot handle signals nothing changes."""
    asked = Asked()
    with handled_by(asked, ENDING):
        yield asked


@contextmanager
def handled_by(handler: Handler, numbers: tuple[signal.Signals, ...]) -> Generator[None]:
    """Have these signals handled in here, but for those that ask to end and are ignored so far."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers}
    earlier = {number: was for number, was in before.items() if number not in ENDING or was != signal.SIG_IGN}
    try:
        for number in earlier if here else ():
            signal.signal(number, handler)
        yield
    finally:
        for number, was in earlier.items() if here else ():
            signal.signal(number, signal.SIG_DFL if was is None else was)


def name_of(number: int) -> str:
    """The signal as people call it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def why(error: KeyboardInterrupt | bdb.BdbQuit) -> str:
    """What interrupted: the signal's name, or that a debugger was left."""
    if isinstance(error, bdb.BdbQuit):
        return "the debugger was left"
    return str(error) if isinstance(error, AskedToEndError) else "Ctrl-C"
