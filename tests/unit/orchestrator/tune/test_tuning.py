"""What Ray Tune's events become in the ledger; no Ray is started."""

from __future__ import annotations

import pickle
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpcnn_core.metrics import EpochMetrics
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.search.ledger import Ledger
from orchestrator.training.stall import Stalls
from orchestrator.training.trainer import TrialBusyError
from orchestrator.tune import tuning
from orchestrator.tune.assignment import Assignment, Epoch, report_of, to_ray
from orchestrator.tune.trainable import TrialProcess
from orchestrator.tune.tuning import LedgerCallback
from tests.support.fakes import assignment, metrics


class Events:
    """A ledger that only writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def ended(self, number: int, error: str | None) -> None:
        self.heard.append(("ended", number, error))

    def died(self, number: int, error: str, *, its_fault: bool = True, alone: bool = False) -> None:
        self.heard.append(("died", number, error, its_fault, alone))

    def preempted(self, number: int, why: str, *, where: str | None = None, goes_on: bool = True) -> None:
        self.heard.append(("preempted", number, why, where, goes_on))

    def halt(self, number: int, error: str) -> None:
        self.heard.append(("halt", number, error))

    fatal = None
    stopped: tuple[int, ...] = ()

    def asked_to_stop(self, number: int) -> bool:
        return number in self.stopped


def test_what_passes_through_tune_comes_out_as_it_was(tmp_path: Path) -> None:
    sent = assignment(tmp_path, number=3, gpus=0.5)
    assert Assignment.of_ray(pickle.loads(pickle.dumps(sent.to_ray()))) == sent
    epoch = Epoch(3, metrics(1), Place("here", "cpu", 1))
    assert report_of(pickle.loads(pickle.dumps(to_ray(epoch, done=False)))) == epoch
    assert report_of(to_ray(None, done=True)) is report_of(None) is report_of({"pid": 1}) is None


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (ValueError("bad"), ("ended", 3, "ValueError: bad")),
        (OSError(28, "No space left on device"), ("halt", 3, "OSError: [Errno 28] No space left on device")),
        (TrialBusyError("held"), ("died", 3, "TrialBusyError: held", False, False)),
    ],
)
def test_a_trial_is_failed_for_its_own_faults_only(tmp_path: Path, error: Exception, heard: tuple[Any, ...]) -> None:
    def training() -> Generator[EpochMetrics]:
        raise error
        yield

    process = object.__new__(TrialProcess)
    process._assignment = assigned = assignment(tmp_path, number=3)
    process._store, process._log = Store(tmp_path), tmp_path / "log"
    process._epochs, process._place = training(), None
    process._heeding = ExitStack()
    events: Any = Events()
    ledger: Ledger = events
    trial: Any = SimpleNamespace(trial_id="one", config=assigned.to_ray(), last_result=process.step())
    LedgerCallback(ledger, lambda: False, Stalls(0.0)).on_trial_complete(0, [trial], trial)
    assert events.heard == [heard]


@pytest.mark.parametrize(
    ("said", "its_fault"),
    [
        ("The actor died unexpectedly while it wrote to {folder}/trials", True),
        ("the worker of {folder} was ended since its node has died", False),
    ],
)
def test_a_sweep_s_folder_is_not_taken_for_what_became_of_its_node(tmp_path: Path, said: str, its_fault: bool) -> None:
    folder = tmp_path / "spot nodes  preempted"
    filed = tmp_path / "error.txt"
    filed.write_text(f"Failure # 1 (occurred at noon)\n{said.format(folder=folder)}\n")
    events: Any = Events()
    ledger: Ledger = events
    config = assignment(folder, number=3).to_ray()
    trial: Any = SimpleNamespace(trial_id="one", config=config, error_file=str(filed))
    LedgerCallback(ledger, lambda: False, Stalls(0.0)).on_trial_error(0, [trial], trial)
    [(_, number, cause, told, _alone)] = events.heard
    assert (number, told) == (3, its_fault)
    assert "spot nodes preempted" in cause


@pytest.mark.parametrize(("gpus", "mps", "is_killed"), [(0.0, True, True), (0.5, False, True), (0.5, True, False)])
def test_a_process_that_shares_a_gpu_by_mps_is_not_killed_for_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: float, mps: bool, is_killed: bool
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(tuning, "_kill", lambda trial: killed.append(trial.trial_id))
    events: Any = Events()
    events.stopped = (3,)
    ledger: Ledger = events
    trials: list[Any] = [
        SimpleNamespace(
            trial_id=name, status=status, config=assignment(tmp_path, number=number, gpus=gpus, mps=mps).to_ray()
        )
        for name, number, status in (("one", 3, "RUNNING"), ("other", 4, "RUNNING"), ("waits", 3, "PENDING"))
    ]
    LedgerCallback(ledger, lambda: False, Stalls(0.0)).on_step_end(0, trials)
    assert killed == (["one"] if is_killed else [])


SAVED = "the training state is saved in epoch 2, after 3 of 4 steps"


@pytest.mark.parametrize(
    ("by", "stopping", "taken", "told"),
    [
        ("SIGTERM", False, False, [(SAVED, True)]),
        ("SIGUSR1", False, False, [(SAVED, True)]),
        ("AWS: spot terminate at 08:22", False, False, [(None, True)]),
        ("Ray drains node SIGTERM", False, False, [(None, True)]),
        ("the sweep ends: SIGTERM", True, True, [(None, False)]),
        ("SIGTERM", True, True, [(None, False)]),  # the whole group got one
        ("the sweep ends: SIGHUP", True, False, []),  # a sweep that ends says so of all that ran
    ],
)
def test_a_trial_that_saved_its_state_before_it_was_taken_away_has_not_died(
    tmp_path: Path, by: str, stopping: bool, taken: bool, told: list[tuple[str | None, bool]]
) -> None:
    filed = tmp_path / "error.txt"
    said = f"cpcnn_core.errors.PreemptedError: {by}: {SAVED}"
    filed.write_text(f"Failure # 1 (occurred at noon)\nray::TrialProcess.train() (pid=1)\n{said}\n")
    events: Any = Events()
    ledger: Ledger = events
    config = assignment(tmp_path, number=3).to_ray()
    trial: Any = SimpleNamespace(trial_id="one", config=config, error_file=str(filed))
    callback = LedgerCallback(ledger, lambda: stopping, Stalls(0.0), is_taken=lambda: taken)
    callback.on_trial_error(0, [trial], trial)
    assert events.heard == [("preempted", 3, f"{by}: {SAVED}", where, goes_on) for where, goes_on in told]
