"""Trials that hang: a watchdog within the trial's process, and one in the driver for processes beyond help.

The process's own comes first, since nobody else can say where it hangs: after so many seconds without a sign of life it
writes the stack of every thread into the trial's log and ends. A sign of life is a step of training or an epoch. The
driver's watches the log's age, which the signs of life keep young, and kills what could not end itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

GRACE_SECONDS = 15.0  # that the driver gives a process to end by itself

_BEAT_SECONDS = 1.0  # no watchdog is armed anew more often
_DUMP = re.compile(r"^Timeout \(.*\)!$", re.MULTILINE)  # faulthandler's headline
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?: in (?P<function>.+))?')
_OF_A_STACK = re.compile(r"$|\s|Thread |Current thread |Extension modules")
_TAIL_BYTES = 2**16


@contextmanager
def watched(log: Path, seconds: float) -> Generator[Callable[[], None]]:
    """End this process, its stacks in `log`, unless the callable that this yields is called every so many seconds.

    Nothing is watched where `seconds` is 0.
    """
    if not seconds:
        yield lambda: None
        return
    last = 0.0
    with log.open("a", encoding="utf-8") as stream:

        def beat() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= min(_BEAT_SECONDS, seconds / 4):
                faulthandler.dump_traceback_later(seconds, exit=True, file=stream)
                with contextlib.suppress(OSError):
                    os.utime(log)
                last = now

        beat()
        try:
            yield beat
        finally:
            faulthandler.cancel_dump_traceback_later()


def last_dump(log: Path) -> str | None:
    """The innermost frames of the stack that the log ends with; None where it ends otherwise."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return None
    dumps = list(_DUMP.finditer(text))
    stack = text[dumps[-1].end() :].splitlines() if dumps else []
    if not all(_OF_A_STACK.match(line) for line in stack):
        return None  # an earlier attempt's, after which another one began
    # The last thread is the main one, which trains; each thread's frames are listed innermost first.
    main = max((at for at, line in enumerate(stack) if "hread " in line), default=0)
    frames = [match for match in map(_FRAME.search, stack[main:]) if match]
    shown = [f"{Path(f['file']).name}:{f['line']} {f['function'] or ''}".strip() for f in frames[:4]]
    return " < ".join(shown) or None


class Stalls:
    """The driver's watch over the logs of running trials."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        changed: Callable[[Path], float | None] | None = None,
        every: float = 0.0,
    ) -> None:
        """`changed` says when a log was written last; it is asked at most every so many seconds."""
        self._seconds = seconds
        self._clock = clock
        self._changed = changed or _changed
        self._every = every
        self._next = 0.0
        self._seen: dict[str, tuple[Path, float | None, float]] = {}  # log, its time of change, when that was noticed

    def watch(self, trial: str, log: str | Path) -> None:
        """A process runs the trial."""
        self._seen[trial] = (Path(log), self._changed(Path(log)), self._clock())

    def forget(self, trial: str) -> None:
        """The trial does not run any more."""
        self._seen.pop(trial, None)

    def overdue(self) -> list[str]:
        """The trials whose process has shown no sign of life, and did not end itself; each once."""
        now = self._clock()
        if not self._seconds or now < self._next:
            return []
        self._next = now + self._every
        found = []
        for trial, (log, changed, since) in list(self._seen.items()):
            latest = self._changed(log)
            if latest != changed:  # not its age: the clocks of two machines differ
                self._seen[trial] = (log, latest, now)
            elif now - since > self._seconds + GRACE_SECONDS:
                del self._seen[trial]
                found.append(trial)
        return found


def _changed(log: Path) -> float | None:
    try:
        return log.stat().st_mtime
    except OSError:
        return None
