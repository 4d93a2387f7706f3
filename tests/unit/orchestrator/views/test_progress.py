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


@pytest.mark.parametrize(("metric", "fid"), [("val_acc", None), ("val_acc", 31.5), ("fid", 31.5)])
def test_accuracies_and_fid_stand_beside_the_objective_where_they_are_measured(
    console: Console, metric: str, fid: float | None
) -> None:
    with Progress(console, Objective(metric, "max"), (), total=2, plain=True) as view:
        view.epoch(1, CONFIG, metrics(1, fid=fid), 0.75)
    expected = {metric: "0.7500", "val_bpd": "3.2000", "train_acc": "0.5000", "val_acc": "0.5000", "fid": "31.5000"}
    if metric == "val_acc":
        expected["val_acc"] = "0.7500"
    values = ", ".join(f"{name} {value}" for name, value in expected.items() if name != "fid" or fid is not None)
    assert f"epoch 1/2: {values.replace('fid 31.5000', 'fid 0.7500') if metric == 'fid' else values}, 0.0 s" in said(
        console
    ).replace("\n", " ")


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_a_column_for_each_and_what_it_costs_where_there_is_room(console: Console, width: int) -> None:
    console.width = width
    with Progress(console, Objective("score", "max"), ("model.fusion",), total=2) as view:
        view.epoch(1, CONFIG, metrics(1, fid=31.5, score=0.25), 0.25)
        with console.capture() as captured:
            console.print(view._render())
    lines = captured.get().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("running"))
    costs = ["s/epoch", "memory"] if width > 80 else []
    named = ["running", "epoch", "score", "val_bpd", "train_acc", "val_acc", "fid", *costs, "settings"]
    assert lines[at].split() == named
    assert "0.2500 3.2000" in " ".join(lines[at + 1].split())
    assert "31.5000" in lines[at + 1]
    assert "fusion none" in lines[at + 1]


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
