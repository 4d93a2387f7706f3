"""Whether somebody debugs this process: what is drawn on a terminal would be drawn over what they type there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Generator
from contextlib import contextmanager

# pdb, ipdb and pudb run a program within `bdb`, PyCharm within `pydevd`, debugpy within a module of the other package.
_DEBUGGERS = {"bdb", "pydevd", "_pydevd_bundle"}

# Raised by `breakpoint()`, and by each Pdb that is made, as by `pdb.set_trace()` and `pdb.post_mortem()`.
_EVENTS = {"builtins.breakpoint", "pdb.Pdb"}


def is_debugged() -> bool:
    """Whether a debugger runs this program, as `python -m pdb` does, or has stopped in it.

    A trace function does not tell: pdb takes its own away where no breakpoint is set, and measuring coverage sets one.
    """
    return _watch.entered or is_run_by_debugger()


def is_run_by_debugger() -> bool:
    """Whether a debugger runs this program from its beginning on, and gets what it raises."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _DEBUGGERS:
            return True
    return False


@contextmanager
def leaving(leave: Callable[[], None]) -> Generator[None]:
    """Have `leave` called, at most once, before a debugger stops in here and reads what is typed."""
    _watch.install()
    _watch.leaving.append(leave)
    try:
        yield
    finally:
        if leave in _watch.leaving:
            _watch.leaving.remove(leave)


class _Watch:
    """Sees a debugger come: an audit hook, which Python never takes away again."""

    def __init__(self) -> None:
        self.entered = False
        self.leaving: list[Callable[[], None]] = []
        self._installed = False

    def install(self) -> None:
        if not self._installed:
            self._installed = True
            sys.addaudithook(self)

    def __call__(self, event: str, _arguments: tuple[object, ...], *, events: Container[str] = _EVENTS) -> None:
        if event in events:  # its own: at the interpreter's end the module's names are gone, and events still come
            self.entered = True
            while self.leaving:
                self.leaving.pop()()


_watch = _Watch()
