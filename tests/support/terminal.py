"""A program on a terminal of 80 columns, and somebody who types into it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence

COLUMNS = 80
SECONDS = 120.0  # for the next prompt, or the end

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs a command; `read_until` and `type` are the conversation, `end` its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = COLUMNS) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], list(command), dict(environment))
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.said = ""
        self._seen = 0

    def read_until(self, text: str) -> str:
        """What it says from here on, up to and with this text."""
        deadline = time.monotonic() + SECONDS
        while text not in self.said[self._seen :]:
            assert time.monotonic() < deadline, self.said
            assert self._read(), self.said
        at = self.said.index(text, self._seen) + len(text)
        found, self._seen = self.said[self._seen : at], at
        return found

    def rest(self, seconds: float) -> str:
        """What it says unasked in this time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._read(0.1):
            pass
        found, self._seen = self.said[self._seen :], len(self.said)
        return found

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._descriptor, f"{line}\n".encode())

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it says until then."""
        deadline = time.monotonic() + SECONDS
        while self._read():
            assert time.monotonic() < deadline, self.said
        found = self.said[self._seen :]
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status), found

    def close(self) -> None:
        """Kill it, where it still runs."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._descriptor)

    def _read(self, seconds: float = 1.0) -> bool:
        """Read what is there; whether there may be more."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return True
        try:
            content = os.read(self._descriptor, 2**16)
        except OSError:  # the program has ended
            return False
        self.said += content.decode(errors="replace")
        return bool(content)


def without_codes(text: str) -> str:
    """What is written, without what moves the cursor, erases or colours."""
    return _CODES.sub("", text)


def draws(text: str) -> bool:
    """Whether this moves the cursor or erases, as what is drawn over itself does."""
    return _CODES.search(text) is not None
