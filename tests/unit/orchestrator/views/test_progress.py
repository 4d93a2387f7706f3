"""A sweep's table is not drawn over what somebody types at a debugger's prompt."""

from __future__ import annotations

import io
import pdb

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.process import debugging
from orchestrator.views.progress import Progress
from tests.support.fakes import metrics
from tests.support.terminal import draws

CONFIG = TrialConfig.from_flat({"train.epochs": 2})


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setattr(debugging._watch, "entered", False)
    return Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_lines_on_a_terminal(console: Console) -> None:
    with Progress(console, Objective("val_acc", "max"), (), total=2, plain=True) as view:
        view.started(1, CONFIG)
        view.epoch(1, CONFIG, metrics(1), 0.5)
    assert not draws(said(console))
    assert f"trial {CONFIG.trial_id} epoch 1/2: val_acc 0.5000" in said(console)


def test_once_a_debugger_comes_the_table_becomes_lines(console: Console) -> None:
    with Progress(console, Objective("val_acc", "max"), (), total=2) as view:
        view.started(1, CONFIG)
        pdb.Pdb(stdin=io.StringIO(), stdout=io.StringIO(), nosigint=True)
        before = said(console)
        assert draws(before)
        view.epoch(1, CONFIG, metrics(1), 0.5)
    after = said(console).removeprefix(before)
    assert not draws(after)
    assert f"trial {CONFIG.trial_id} epoch 1/2: val_acc 0.5000" in after
