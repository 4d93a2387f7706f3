"""Commands on a real terminal that is narrow and knows no letters but ASCII."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpcnn_core import environment
from tests.support.terminal import Terminal, draws, without_codes

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("ray beside")]

COLUMNS = 60
PLAIN = {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "TERM": "xterm", "OMP_NUM_THREADS": "1"}

Typed = Callable[..., str]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    monkeypatch.chdir(tmp_path)
    begun: list[Terminal] = []

    def typed(*arguments: str, columns: int = COLUMNS) -> str:
        clean = environment.without_launchers(os.environ) | PLAIN
        begun.append(Terminal([sys.executable, "-m", "orchestrator.cpcnn", *arguments], clean, columns=columns))
        code, said = begun[-1].end()
        assert code == 0, said
        assert "Traceback" not in said
        assert said.isascii()
        return said

    yield typed
    for terminal in begun:
        terminal.close()


def test_a_sweep_and_what_comes_after_it(typed: Typed) -> None:
    typed("new-space", "mine.py")
    small = ("--set", "data.train_fraction=0.05", "--set", "eval.train_images=0", "--set", "train.epochs=1")
    said = typed("sweep", "mine.py", "--trials", "2", *small)
    assert draws(said)  # a display that is drawn over itself
    shown = re.sub(r"\s+", " ", without_codes(said))
    for stage in (
        "Reading mine ...",
        "Importing Optuna and PyTorch ...",
        "Starting Ray (0 s)",
        "Starting a process for each trial that runs at once",
        "first steps (0 s)",
    ):
        assert stage in shown
    table = without_codes(said).replace("\r", "").split("the best 2 of 2 trials, by val_acc")[1].splitlines()
    rows = [line for line in table if re.match(r" [12]  [0-9a-f]{6} ", line)]
    assert len(rows) == 2
    assert all(len(row) <= COLUMNS and re.match(r" \d  \w+ +\d\.\d{4} ", row) for row in rows)
    assert any("orchestrator.cpcnn best --metric val_acc --sweep mine" in line for line in table)

    [trial] = re.findall(r" 1  ([0-9a-f]+) ", rows[0])
    best = without_codes(typed("best", "--metric", "val_acc", "--no-export", "--trial", trial))
    value = rows[0].split()[2]
    assert value in best
    assert "2 COMPLETE" in re.sub(r"\s+", " ", without_codes(typed("status")))


def test_the_spaces_and_the_help(typed: Typed) -> None:
    assert "digits" in typed("spaces")
    said = without_codes(typed("sweep", "--help", columns=80))
    assert "cpcnn sweep digits" in said
    assert max(map(len, said.replace("\r", "").splitlines())) <= 80
    assert "u2026" not in said  # nothing of it is cut off
