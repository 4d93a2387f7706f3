"""Long work says how far it is: a bar on a terminal of its own, lines elsewhere, nothing where it is soon done."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.file_proxy import FileProxy

from cpcnn_core import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SILENT", "_DRAWN", "_LINES"):
        monkeypatch.setattr(progress, name, 0.0)
    monkeypatch.setenv("TERM", "xterm")


def done_on(stream: io.TextIOBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.shown("decoding [images]", 2000) as advance:
        for done in (1000, 2000):
            advance(done)


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_what_is_soon_done_says_nothing(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    done_on(stream, monkeypatch)
    assert not stream.getvalue()


@pytest.mark.usefixtures("at_once")
def test_a_log_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    done_on(log := io.StringIO(), monkeypatch)
    first, second = log.getvalue().splitlines()
    assert first.startswith("decoding [images]: 1,000 of 2,000, about ")
    assert second == "decoding [images]: 2,000 of 2,000, about 0 s left"


@pytest.mark.usefixtures("at_once")
def test_a_terminal_has_a_bar_that_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    done_on(terminal := Terminal(), monkeypatch)
    shown = terminal.getvalue()
    assert "decoding [images]" in shown
    assert "1000/2000" in shown
    assert shown.rstrip("\n").endswith("\x1b[2K")  # the line is erased


@pytest.mark.usefixtures("at_once")
def test_where_something_is_drawn_already_lines_stand_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    done_on(FileProxy(Console(file=terminal, force_terminal=True), terminal), monkeypatch)
    assert "2,000 of 2,000" in terminal.getvalue()
    assert "\x1b[2K" not in terminal.getvalue()
