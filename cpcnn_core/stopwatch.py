"""Where an epoch's time goes: seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by the clock of each stage since the last `reset`; a stage that comes again is added up.

    A stage on a GPU is to end with what waits for the device, as reading a number from it does.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def reset(self) -> None:
        """Begin anew."""
        self.seconds = {}

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Count what is done in the context, whether it succeeds or not."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def of(self, *names: str) -> float:
        """The seconds of several stages together."""
        return sum(self.seconds.get(name, 0.0) for name in names)
