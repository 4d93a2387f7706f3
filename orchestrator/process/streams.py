"""Stdout and stderr of a command that has work to lose: whoever reads them may go away, or stop reading.

What is printed is a view. Where it cannot be written any more it is dropped, and the work goes on.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STALL_SECONDS = 5.0  # that work waits for a reader, once, before lines are dropped until it reads on

_STEP = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe which can be written takes without waiting
_READY, _BROKEN = getattr(select, "POLLOUT", 1), getattr(select, "POLLERR", 2)


class Outlasting(io.FileIO):
    """A descriptor to write to that swallows all once that has failed. `failure` says how it did."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.failure: OSError | None = None
        self.patience: float | None = None  # seconds that a write waits for the reader; None: for ever
        self._stalled = False

    def write(self, data: ReadableBuffer) -> int:
        """Write some of it, or nothing; return how much of it is done with."""
        content = memoryview(data).cast("B")
        try:
            if not self._is_ready():
                return len(content)
            return super().write(content if self.patience is None else content[:_STEP]) or 0
        except OSError as error:
            self.failure = error
            # For what does not come through here: libraries' own messages, and processes that this one starts.
            _open_nothing(self.fileno(), os.O_WRONLY)
            return len(content)

    def _is_ready(self) -> bool:
        """Whether something can be written now, or within the patience."""
        wait = None if self.patience is None else 0.0 if self._stalled else self.patience
        ready = bool(_poll(self.fileno(), wait))
        self._stalled = not ready
        return ready


def outlast() -> None:
    """Have stdout and stderr outlast their readers, from here to the end of the process."""
    for descriptor, way in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened, a database even, would get what others print
            _open_nothing(descriptor, way)
    sys.stdout = _outlasting(sys.stdout, 1)
    sys.stderr = _outlasting(sys.stderr, 2)


def _outlasting(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None and _raw(stream) is not None:
        return stream
    if stream is None:  # it was closed when the interpreter started
        return io.TextIOWrapper(io.BufferedWriter(Outlasting(descriptor)), encoding="utf-8", line_buffering=True)
    with suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(Outlasting(descriptor)),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,  # of a terminal that lacks a letter
        line_buffering=bool(stream.line_buffering),
        write_through=bool(getattr(stream, "write_through", False)),
    )


def failure(stream: IO[str] | None) -> OSError | None:
    """Why what was printed did not all arrive; None where it did, or nobody can tell."""
    raw = _raw(stream)
    if raw is None or stream is None:
        return None
    stream.flush()
    return raw.failure


def is_gone(stream: IO[str] | None) -> bool:
    """Whether nobody will read any more of it."""
    raw = _raw(stream)
    return raw is not None and (raw.failure is not None or bool(_poll(raw.fileno(), 0.0) & _BROKEN))


@contextmanager
def unheld() -> Generator[None]:
    """Let no reader of stdout or stderr that has stopped reading hold up the work in here."""
    raws = [raw for raw in (_raw(sys.stdout), _raw(sys.stderr)) if raw is not None]
    with ExitStack() as stack:
        for raw in raws:
            stack.callback(setattr, raw, "patience", raw.patience)
            raw.patience = STALL_SECONDS
        yield


def lost() -> str | None:
    """What to say of output that did not arrive; None where it did, or whoever read it has gone."""
    error = failure(sys.stdout)
    if error is None or error.errno == errno.EPIPE:
        return None
    return f"stdout cannot be written ({error.strerror}); not all that was to be said there was"


def _raw(stream: IO[str] | None) -> Outlasting | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlasting) else None


def _poll(descriptor: int, seconds: float | None) -> int:
    if not hasattr(select, "poll"):
        return _READY  # Windows tells of sockets alone: a reader that has stopped reading holds up the work
    poll = select.poll()
    poll.register(descriptor, _READY)
    return next((event for _, event in poll.poll(None if seconds is None else 1000 * seconds)), 0)


def _open_nothing(descriptor: int, way: int) -> None:
    nothing = os.open(os.devnull, way)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
    os.set_inheritable(descriptor, True)
