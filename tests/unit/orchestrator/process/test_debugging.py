"""A debugger that runs the program, or comes while it runs, is seen."""

from __future__ import annotations

import bdb
import io
import pdb
import sys
from collections.abc import Callable

import pytest

from orchestrator.process import debugging


@pytest.fixture(autouse=True)
def _nobody_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debugging._watch, "entered", False)


def test_what_a_debugger_runs_is_debugged_though_it_traces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def program() -> None:
        before = sys.gettrace()
        sys.settrace(None)  # as pdb does after `continue`, where it has no breakpoints
        asked.extend((debugging.is_debugged(), debugging.is_run_by_debugger()))
        sys.settrace(before)

    bdb.Bdb().runcall(program)
    assert asked == [True, True]
    assert not debugging.is_debugged()


def test_what_is_traced_for_another_reason_is_not_debugged() -> None:
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        assert not debugging.is_debugged()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    "stop", [lambda: breakpoint(), lambda: pdb.Pdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True)]
)
def test_a_debugger_that_comes_is_left_the_terminal_once(
    monkeypatch: pytest.MonkeyPatch, stop: Callable[[], object]
) -> None:
    monkeypatch.setattr(sys, "breakpointhook", lambda: None)
    left: list[str] = []
    with debugging.leaving(lambda: left.append("the bar")):
        assert not debugging.is_debugged()
        stop()
        stop()
    assert left == ["the bar"]
    assert debugging.is_debugged()
    assert not debugging.is_run_by_debugger()


def test_one_that_comes_later_is_no_matter_any_more() -> None:
    left: list[str] = []
    with debugging.leaving(lambda: left.append("the bar")):
        pass
    pdb.Pdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True)
    assert left == []
