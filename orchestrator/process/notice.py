"""Notice that this process, or its machine, is about to be taken away: by a signal, or from whoever knows.

Training that gets it saves its state and ends, and goes on elsewhere. A second signal ends the process at once.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeAlias

from orchestrator.process import signals

logger = logging.getLogger(__name__)

SIGNALS = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGUSR1") if name in signal.Signals.__members__)
"""SIGTERM as machines send it that shut down; SIGUSR1 as Slurm does, asked by `--signal=USR1@120`."""

SECONDS = 10.0  # within which a training state is saved

TOGETHER_SECONDS = 1.0  # signals that come so soon after another are one: a process and its group get one each
EVERY_SECONDS = 2.0  # between two questions to a source

Source: TypeAlias = Callable[[], str | None]
"""Somebody who knows: why the process will be taken away; None while nothing says that it will."""


class Notice:
    """Whether it was given, why, and by which source, if by one."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.source: Source | None = None

    def __call__(self) -> bool:
        return self.reason is not None

    def give(self, reason: str, source: Source | None = None) -> None:
        """The first reason counts."""
        if self.reason is None:
            self.reason, self.source = reason, source
            logger.warning("this process is to be taken away: %s", reason)


class _Heeding:
    """Handles the signals."""

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._heard: float | None = None
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._heard is None:
            self._heard = now
            self._notice.give(signals.name_of(number))
        elif now - self._heard > TOGETHER_SECONDS:
            handler = self._before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            raise signals.AskedToEndError(number)  # where that one did nothing


@contextmanager
def heeded(sources: Sequence[Source] = ()) -> Generator[Notice]:
    """Have signals in here give notice, and so what any of the `sources` says, each asked in a thread of its own."""
    with asked(sources) as notice, signals.handled_by(_Heeding(notice), SIGNALS):
        yield notice


@contextmanager
def asked(sources: Sequence[Source]) -> Generator[Notice]:
    """Ask the sources every few seconds; signals stay as they are. None waits for what another one answers."""
    notice, over = Notice(), threading.Event()
    for source in sources:
        threading.Thread(target=_ask, args=(source, notice, over), name="notice", daemon=True).start()
    try:
        yield notice
    finally:
        over.set()  # nobody waits for it: a source may take its time to answer


def _ask(source: Source, notice: Notice, over: threading.Event) -> None:
    has_failed = False
    while not over.is_set() and not notice():
        try:
            reason = source()
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on without that notice
            if not has_failed:
                has_failed = True
                logger.warning("no notice can be had from %s: %s: %s", source, type(error).__name__, error)
        else:
            if reason is not None and not over.is_set():
                notice.give(reason, source)
        over.wait(EVERY_SECONDS)
