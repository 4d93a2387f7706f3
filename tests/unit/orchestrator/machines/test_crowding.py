"""When training is told that it will compete for cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from orchestrator import trial
from orchestrator.machines.crowding import Machine
from orchestrator.machines.resources import Share
from orchestrator.objectives.objective import Objective
from orchestrator.search.space import SearchSpace
from orchestrator.tune import running
from orchestrator.tune.plan import Plan
from orchestrator.views.progress import Progress
from search_spaces import ints

IDLE = Machine(cores=4, all_cores=4, load=0.3)


@pytest.fixture
def own_threads() -> Iterator[None]:
    """The test may change how many threads torch uses."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("machine", "threads", "processes", "says"),
    [
        (IDLE, 4, 1, None),
        (IDLE, 2, 2, None),
        (IDLE, 8, 1, "8 threads on 4 cores: training may be several times slower. Do X."),
        (IDLE, 2, 4, "4 processes of 2 threads each on 4 cores: "),
        (IDLE, 1, 8, None),  # single threads only share the cores
        (replace(IDLE, load=1.4), 4, 1, "4 threads on 4 cores, while the machine is busy (load 1.4 on 4 cores): "),
        (replace(IDLE, load=9.0), 4, 1, "(load 9.0 on 4 cores)"),
        (replace(IDLE, load=9.0), 1, 4, None),
        (replace(IDLE, load=9.0, all_cores=64), 4, 1, None),  # others' cores are busy
        (Machine(cores=1, all_cores=64, load=0.0), 32, 1, "32 threads on 1 core: "),  # a container with a limit
    ],
)
def test_threads_that_lack_a_core_each_are_told(
    machine: Machine, threads: int, processes: int, says: str | None
) -> None:
    problem = machine.problem(threads, processes, "Do X.")
    assert (problem is None) if says is None else (problem is not None and says in problem and "Do X." in problem)


def test_a_machine_that_tells_no_load_counts_as_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", refuse)
    here = Machine.here()
    assert (here.load, here.free) == (0.0, here.cores)


@pytest.mark.parametrize(("load", "gpus", "told"), [(0.0, 0.0, 0), (6.0, 0.0, 1), (6.0, 1.0, 0)])
def test_a_sweep_notes_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: float, gpus: float, told: int
) -> None:
    monkeypatch.setattr(Machine, "here", lambda: replace(IDLE, load=load))
    space = SearchSpace("a test", "", {"model.nr_filters": ints(4, 8)}, {}, 2, Objective("val_acc", "max"))
    console = Console(record=True, width=200)
    view = Progress(console, space.objective, space.searched, total=2)
    running._warn_of_crowding(Plan("one", space, tmp_path, 2), Share(2, gpus, 2), view)
    said = console.export_text()
    assert said.count("warning: 2 processes of 2 threads each") == told
    assert said.count('resources = {"cpus": 1}') == told


@pytest.mark.usefixtures("own_threads")
def test_a_trial_by_hand_names_the_variable_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(Machine, "here", lambda: replace(IDLE, load=2.9))
    torch.set_num_threads(4)
    trial._warn_of_crowding(1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "warning: 4 threads on 4 cores" in err
    assert "OMP_NUM_THREADS=1 before the command" in err
    torch.set_num_threads(1)
    trial._warn_of_crowding(1)
    assert capsys.readouterr().err == ""
