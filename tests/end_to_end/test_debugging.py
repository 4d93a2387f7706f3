"""A trial under a debugger, on a terminal, as somebody sees it who looks for what is wrong with their network."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpcnn_core import environment
from orchestrator.records.store import Store
from orchestrator.views.epochs import Epochs
from tests.support.terminal import Terminal, draws

pytestmark = pytest.mark.timeout(600)

SPACE = '''"""What is wrong with my fusion? Cost: seconds."""
from cpcnn_core.fusion.stem_add import StemAdd
from search_spaces import choice
space = {"model.fusion": choice("stem_add")}
settings = {
    "data.train_fraction": 0.03, "model.nr_filters": 4, "model.nr_logistic_mix": 1, "train.epochs": 2,
    "eval.train_images": 0, "eval.batch_size": 1000,
}
objective = "val_bpd"
calls = []
whole = StemAdd.forward

def forward(self, label):
    calls.append(label)
    if len(calls) == STOP_AT:
        here = "stopped"
        STOP
    return whole(self, label)

StemAdd.forward = forward
'''
NEVER = 10**9
LATER = 4  # calls of the fusion: the first epoch has ended, or is about to

Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    begun: list[Terminal] = []

    def start(*before: str, stop: str = "pass", at: int = NEVER, after: tuple[str, ...] = ()) -> Terminal:
        space = tmp_path / "mine.py"
        space.write_text(SPACE.replace("STOP_AT", str(at)).replace("STOP", stop))
        command = [sys.executable, *before, "-m", "orchestrator.trial", str(space), "--results", str(tmp_path / "of")]
        clean = environment.without_launchers(os.environ) | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
        begun.append(Terminal([*command, *after], clean))
        return begun[-1]

    yield start
    for terminal in begun:
        terminal.close()


def ends(tmp_path: Path) -> list[tuple[str, str | None, int]]:
    rows = Store(tmp_path / "of" / "mine-trials").trials().rows()
    return [(row["state"], row["error"] or row["stopped"], row["epochs"]) for row in rows]


@pytest.mark.parametrize("stop", ["breakpoint()", "import pdb; pdb.set_trace()"])
def test_at_a_breakpoint_nothing_is_drawn_over_what_is_typed(start: Start, tmp_path: Path, stop: str) -> None:
    terminal = start(stop=stop, at=LATER)
    assert draws(terminal.read_until("(Pdb) "))  # there was a bar until here
    assert terminal.rest(1.0) == ""
    terminal.type("p here")
    assert not draws(terminal.read_until("'stopped'"))
    terminal.read_until("(Pdb) ")
    terminal.type("c")
    code, said = terminal.end()
    assert code == 0, said
    assert not draws(said)
    assert ends(tmp_path) == [("COMPLETE", None, 2)]


def test_the_bar_stands_still_while_anything_else_is_typed(start: Start) -> None:
    terminal = start(stop="input('more\\n')", at=LATER)
    terminal.read_until("more")
    terminal.rest(0.5)  # what is left of the bar
    assert terminal.rest(1.0) == ""
    terminal.type("")
    code, said = terminal.end()
    assert code == 0, said
    assert draws(said)  # it goes on


def test_leaving_a_breakpoint_interrupts_the_trial_which_the_same_command_takes_up(
    start: Start, tmp_path: Path
) -> None:
    terminal = start(stop="breakpoint()", at=LATER)
    terminal.read_until("(Pdb) ")
    terminal.type("q")
    code, said = terminal.end()
    assert code == 130
    assert "Stopped. To go on where it stands:" in said
    [left] = ends(tmp_path)
    assert left[:2] == ("INTERRUPTED", "the debugger was left")
    assert start().end()[0] == 0
    assert ends(tmp_path) == [left, ("COMPLETE", None, 2)]


def test_under_pdb_there_is_no_bar_and_leaving_it_ends_the_command(start: Start, tmp_path: Path) -> None:
    line = inspect.getsourcelines(Epochs.print_epoch)[1] + 2  # below the docstring
    terminal = start("-m", "pdb", "-c", f"b {inspect.getfile(Epochs)}:{line}")
    terminal.read_until("(Pdb) ")
    terminal.type("c")
    assert not draws(terminal.read_until("(Pdb) "))
    terminal.type("q")
    code, said = terminal.end()
    assert "restarted" not in said
    assert code == 0  # pdb's own
    assert ends(tmp_path) == [("INTERRUPTED", "the debugger was left", 1)]


@pytest.mark.parametrize(
    ("after", "raised"),
    [((), "ZeroDivisionError: division by zero"), (("--set", "train.epochs=few"), "SpaceError: ")],
)
def test_pdb_gets_what_was_raised_and_the_attempt_failed_of_it(
    start: Start, tmp_path: Path, after: tuple[str, ...], raised: str
) -> None:
    terminal = start("-m", "pdb", "-c", "continue", stop="1 / 0", at=LATER, after=after)
    assert raised in terminal.read_until("Entering post mortem debugging")
    terminal.read_until("(Pdb) ")
    if not after:
        terminal.type("p here")
        terminal.read_until("'stopped'")
        [(state, error, _)] = ends(tmp_path)
        assert (state, error) == ("FAILED", raised)


def test_plain_lines_on_a_terminal(start: Start, tmp_path: Path) -> None:
    code, said = start(after=("--plain",)).end()
    assert code == 0, said
    assert not draws(said)
    assert "\n    2 " in said
    assert ends(tmp_path) == [("COMPLETE", None, 2)]
