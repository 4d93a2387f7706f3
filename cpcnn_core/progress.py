"""How far long work is, on stderr: a bar on a terminal, lines elsewhere, nothing where it is soon done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

_SILENT = 1.0  # seconds until a bar is shown
_DRAWN = 0.1  # seconds between two times that it is drawn
_LINES = 10.0  # seconds between two lines


@contextmanager
def shown(what: str, total: int) -> Generator[Callable[[int], None]]:
    """Yield what hears how many of `total` are done; `what` are they, in words.

    No thread draws: nothing is drawn over what somebody types at a debugger.
    """
    with ExitStack() as stack:
        begun = time.monotonic()
        say: Callable[[int], None] | None = None
        draws = _is_free_terminal()
        due, every = begun + (_SILENT if draws else _LINES), _DRAWN if draws else _LINES

        def advance(done: int) -> None:
            nonlocal say, due
            now = time.monotonic()
            if now < due:
                return
            due = now + every
            if say is None:
                say = _bar(stack, what, total) if draws else _lines(what, total, begun)
            say(done)

        yield advance


def _is_free_terminal() -> bool:
    """Whether stderr is a terminal on which nothing else is drawn: `rich` stands in for it while something is."""
    rich = sys.modules.get("rich.file_proxy")
    return sys.stderr.isatty() and (rich is None or not isinstance(sys.stderr, rich.FileProxy))


def _bar(stack: ExitStack, what: str, total: int) -> Callable[[int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    stack.enter_context(progress)
    task = progress.add_task(what, total=total)
    return lambda done: progress.update(task, completed=done, refresh=True)


def _lines(what: str, total: int, begun: float) -> Callable[[int], None]:
    def say(done: int) -> None:
        left = (time.monotonic() - begun) * (total - done) / max(1, done)
        sys.stderr.write(f"{what}: {done:,} of {total:,}, about {left:.0f} s left\n")

    return say
