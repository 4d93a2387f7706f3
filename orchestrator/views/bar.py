"""A bar that says how far the work at hand is, on a terminal where nobody debugs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.process import debugging

Advance: TypeAlias = Callable[[str, int, int], None]
"""Hears what is done, how much of it, and how much there is to do."""

_SECONDS = 0.1  # between two times that it is drawn
_BAR = 40  # columns
_BESIDE = 36  # columns of what stands beside it


@contextmanager
def shown(console: Console, *, plain: bool = False) -> Generator[Advance]:
    """Show a bar, until a debugger stops in here; with `plain`, under a debugger and off a terminal none.

    No thread draws it. Whatever waits for somebody to type, as a debugger or `input()`, it does not draw over.
    """
    if plain or not console.is_interactive or debugging.is_debugged():
        yield _silent
        return
    progress = made(console)
    drawn = 0.0

    def advance(what: str, done: int, total: int) -> None:
        nonlocal drawn
        due = time.monotonic() - drawn >= _SECONDS
        if due:
            drawn = time.monotonic()
        progress.update(task, description=what, completed=done, total=total, refresh=due)

    with ExitStack() as stack:
        stack.enter_context(debugging.leaving(progress.stop))
        stack.enter_context(progress)
        task = progress.add_task("", total=None)
        yield advance


def made(console: Console) -> Progress:
    """The bar, not yet shown."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(max(1, min(_BAR, console.width - _BESIDE))),  # words and numbers are never what is cut off
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, auto_refresh=False)


def _silent(_what: str, _done: int, _total: int) -> None:
    pass
