"""Trials that share a GPU: how, what is said and written of it, and what the fault of one does to the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cpcnn_core.config import ConfigError
from orchestrator.machines import launch, mps
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import Objective
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import Run, SweepRecord
from orchestrator.search.space import SearchSpace
from orchestrator.training.stall import Stalls
from orchestrator.tune import packing, running, watching
from orchestrator.tune.assignment import Epoch, to_ray
from orchestrator.tune.packing import Measured
from orchestrator.tune.plan import Plan
from orchestrator.tune.sharing import Sharing
from orchestrator.tune.trainable import TrialProcess
from orchestrator.tune.tuning import LedgerCallback
from search_spaces import ints
from tests.support.fakes import assignment, metrics
from tests.unit.orchestrator.tune.test_tuning import Events

MEASURED = Measured("A100", 2**36, 2**30, ((1, 10.0), (2, 19.0), (4, 19.2)), mps=True)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "one")
    made.create()
    made.write_sweep(SweepRecord(name="one", runs=[Run(trials=4)]))
    return made


def sharing_of(store: Store) -> Any:
    record = store.read_sweep()
    assert record is not None
    return record.runs[-1].sharing


def test_how_gpus_are_shared_is_in_the_sweep_s_file(store: Store) -> None:
    Sharing(store, lambda _: None, 2, MEASURED)
    assert sharing_of(store) == {
        "gpu": "A100",
        "free_bytes": 2**36,
        "trial_bytes": 2**30,
        "steps_per_second": {"1": 10.0, "2": 19.0, "4": 19.2},
        "stopped": None,
        "trials_per_gpu": 2,
        "without_mps": [],
    }


def test_a_machine_without_mps_is_said_once(store: Store) -> None:
    said: list[str] = []
    sharing = Sharing(store, said.append, 2, None)
    for reason in (None, "n1: it is not installed", "n1: it is not installed", "n2: it is not installed"):
        result = to_ray(Epoch(1, metrics(1), Place("n", "cpu", 1), reason), done=False)
        sharing.on_trial_result(1, [], SimpleNamespace(), result)
    assert [line.rpartition(": n")[2] for line in said] == ["1: it is not installed", "2: it is not installed"]
    assert sharing_of(store)["without_mps"] == ["n1: it is not installed", "n2: it is not installed"]
    assert Sharing(store, said.append, 2, Measured("A", 1, 1, ((1, 1.0),), without_mps="n3: no")) is not None
    assert said[2].endswith("n3: no")


@pytest.mark.parametrize(
    ("gpus", "allowed", "joins"), [(0.5, True, 1), (0.5, False, 0), (1.0, True, 0), (0.0, True, 0)]
)
def test_a_trial_s_process_uses_mps_where_it_shares_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float, allowed: bool, joins: int
) -> None:
    joined: list[None] = []
    monkeypatch.setattr(mps, "join", lambda: joined.append(None))
    monkeypatch.setattr(TrialProcess, "_begin", lambda *_: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    process = object.__new__(TrialProcess)
    process.setup(assignment(tmp_path, gpus=gpus, mps=allowed).to_ray())
    assert len(joined) == joins


@pytest.mark.parametrize(
    ("gpus", "allowed", "said", "heard"),
    [
        (0.5, True, "torch.AcceleratorError: CUDA error: an illegal memory access", (False, True)),
        (0.5, True, "Worker exit detail: killed by signal 9", (True, False)),
        (0.5, False, "torch.AcceleratorError: CUDA error: an illegal memory access", (True, False)),
        (1.0, True, "torch.AcceleratorError: CUDA error: an illegal memory access", (True, False)),
        (0.5, True, "torch.AcceleratorError: CUDA error: unspecified; the node has died", (False, True)),
    ],
)
def test_trials_that_are_lost_together_run_apart_from_then_on(
    tmp_path: Path, gpus: float, allowed: bool, said: str, heard: tuple[bool, bool]
) -> None:
    file = tmp_path / "error"
    file.write_text(f"Failure #1\n{said}")
    assigned = assignment(tmp_path, number=3, gpus=gpus, mps=allowed)
    events: Any = Events()
    trial: Any = SimpleNamespace(trial_id="one", config=assigned.to_ray(), error_file=str(file))
    LedgerCallback(events, lambda: False, Stalls(0.0)).on_trial_error(0, [trial], trial)
    ((_, number, reason, its_fault, alone),) = events.heard
    assert (number, its_fault, alone) == (3, *heard)
    assert ("runs alone from now on" in reason) == alone


def heard_by(said: list[str]) -> Any:
    """A view that hears what a sweep says before its first trial."""
    return SimpleNamespace(note=said.append, stage=said.append)


def space(resources: Resources) -> SearchSpace:
    return SearchSpace(
        "a test",
        "",
        {"model.nr_filters": ints(8, 40)},
        {"train.epochs": 3, "seed": 0},
        4,
        Objective("val_acc", "max"),
        resources=resources,
    )


def test_where_there_is_no_gpu_packing_changes_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "begin", lambda _plan, _store, share, _extra: (share, None))
    said: list[str] = []
    placings = [
        running.place(
            Plan("one", space(Resources.of(given)), tmp_path, 4), store, {"CPU": 4.0, "GPU": 0.0}, heard_by(said)
        )
        for given in ({"gpus": "auto"}, {})
    ]
    assert placings[0] == placings[1]
    assert placings[0].sharing is None
    assert said == []


@pytest.mark.parametrize(
    ("given", "gpus", "said"),
    [
        ({"gpus": "auto"}, 0.5, "Measuring how many trials should share a GPU"),
        ({"gpus": 0.4}, 0.5, "gpus is 0.4, of which 2 fit"),
        ({}, 1.0, ""),
    ],
)
def test_where_there_is_one_its_trials_get_parts_of_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: object, gpus: float, said: str
) -> None:
    monkeypatch.setattr(watching, "begin", lambda _plan, _store, share, _extra: (share, None))
    monkeypatch.setattr(watching, "look", lambda: None)
    monkeypatch.setattr(packing, "measure", lambda *_, **__: MEASURED)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    heard: list[str] = []
    plan = Plan("one", space(Resources.of(given)), tmp_path, 4)
    placing = running.place(plan, store, {"CPU": 4.0, "GPU": 1.0}, heard_by(heard))
    assert placing.share.gpus == gpus
    assert (placing.sharing is not None) == (gpus < 1)
    assert "".join(heard).startswith(said) or said in "".join(heard)


@pytest.mark.parametrize(
    ("address", "minutes", "seconds"),
    [(None, 0.0, 120), (None, 30.0, 120), ("10.0.0.1:6379", 0.0, 120), ("10.0.0.1:6379", 30.0, 1800)],
)
def test_what_measures_has_the_time_to_come_up_however_short_trials_may_wait(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    minutes: float,
    seconds: float,
) -> None:
    waits: list[float] = []

    def measure(*_: object, wait_seconds: float, **__: object) -> Measured:
        waits.append(wait_seconds)
        return MEASURED

    monkeypatch.setattr(launch, "cluster_address", lambda: address)
    monkeypatch.setattr(watching, "begin", lambda _plan, _store, share, _extra: (share, None))
    monkeypatch.setattr(watching, "look", lambda: None)
    monkeypatch.setattr(packing, "measure", measure)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    plan = Plan("one", space(Resources.of({"gpus": "auto"})), tmp_path, 4, pending_minutes=minutes)
    running.place(plan, store, {"CPU": 4.0, "GPU": 1.0}, heard_by([]))
    assert waits == [seconds]


@pytest.mark.parametrize("gpus", [1.0, 0.0])
def test_a_gpu_that_torch_cannot_use_is_said_before_the_first_trial(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float
) -> None:
    monkeypatch.setattr(watching, "begin", lambda _plan, _store, share, _extra: (share, None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plan = Plan("one", space(Resources(gpus=gpus)), tmp_path, 4)
    if not gpus:
        assert running.place(plan, store, {"CPU": 4.0, "GPU": 1.0}, heard_by([])).share.gpus == 0
        return
    with pytest.raises(ConfigError, match=r"Ray finds a GPU here.* torch cannot use one.*\"gpus\": 0"):
        running.place(plan, store, {"CPU": 4.0, "GPU": 1.0}, heard_by([]))
