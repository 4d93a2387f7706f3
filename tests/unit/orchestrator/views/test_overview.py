from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator.records import processes, recording
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.tune.holding import holding
from orchestrator.views import overview
from tests.support.fakes import metrics
from tests.support.paths import local
from tests.support.times import at


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results" / "one")
    made.create()
    asked = {"objective": {"metric": "val_acc", "direction": "max"}}
    made.write_sweep(SweepRecord.model_validate({"name": "one", "asked": asked, "runs": [{"trials": 9}]}))
    return made


def shown(store: Store) -> str:
    console = Console(width=200, record=True, quiet=True)
    console.quiet = False
    with console.capture() as capture:
        console.print(overview.render(store))
    return capture.get()


def record(store: Store, filters: int, *accuracies: float) -> Recording:
    made = Recording(store, TrialConfig.from_flat({"model.nr_filters": filters}), 0)
    for epoch, value in enumerate(accuracies, start=1):
        made.add(metrics(epoch, val_acc=value), Place("here", "cpu", 1))
    return made


def test_a_sweep_is_shown_from_its_files(store: Store) -> None:
    record(store, 8, 0.5, 0.75).finish("COMPLETE")
    record(store, 9, 0.2).finish("PRUNED", stopped="after epoch 1 behind 1 of 1 others")
    record(store, 10, 0.1).finish("FAILED", "ValueError: [bad]")
    running = record(store, 11, 0.3)
    with holding(store):
        said = shown(store)
    assert "one: 3 of 9 trials have ended (1 COMPLETE, 1 FAILED, 1 PRUNED, 1 RUNNING)" in said
    assert "running" in said
    assert "trials an hour, about" in said
    best = TrialConfig.from_flat({"model.nr_filters": 8}).trial_id
    assert f"best so far: val_acc 0.7500 in epoch 2 of {best}: nr_filters 8" in said
    assert "FAILED: ValueError: [bad]" in said
    assert f"{running.config.trial_id} runs: epoch 1/10 on here" in said

    said = shown(store)
    assert ", gone; the same command goes on where it stood" in said
    assert " runs: epoch" not in said
    assert "left" not in said


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("trials", "the `trial` command that began it goes on after epoch 2"),
        ("replays", "`trial replay {id}` begins it anew"),
        ("imported", "the same import takes it in"),
    ],
)
def test_a_trial_by_hand_whose_process_is_gone_is_said_with_the_way_on(store: Store, kind: str, way: str) -> None:
    store.write_sweep(SweepRecord.model_validate({"name": "one", "kind": kind, "runs": []}))
    with subprocess.Popen(["sleep", "60"]) as process:
        config = TrialConfig()
        begun = Recording(store, config, None, place=Place(platform.node(), "cpu", process.pid))
        assert f"{config.trial_id} runs: epoch 0/10 on {platform.node()}" in shown(store)
        for epoch in (1, 2):
            begun.add(metrics(epoch), Place(platform.node(), "cpu", process.pid))
        assert f"{config.trial_id} runs: epoch 2/10 on {platform.node()}" in shown(store)
        process.kill()
        gone = (
            f"{config.trial_id} RUNNING: its process, pid {process.pid} on this machine, is gone; "
            f"{way.format(id=config.trial_id)}"
        )
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert gone in shown(store)  # nobody has asked how it ended yet
    assert gone in shown(store)


def test_a_number_that_another_process_has_now_is_not_the_trial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "moment", at)  # before this process was there
    Recording(store, TrialConfig(), None, place=Place(platform.node(), "cpu", os.getpid()))
    assert f"pid {os.getpid()} on this machine, is gone" in shown(store)


def test_whether_a_trial_by_hand_runs_elsewhere_cannot_be_told(store: Store) -> None:
    Recording(store, TrialConfig(), None, place=Place("elsewhere", "cpu", 1))
    assert "runs: epoch 0/10 on elsewhere; whether it still runs can only be told there" in shown(store)


def test_what_the_nodes_have_cost_is_added_up_over_all_runs(store: Store) -> None:
    assert "cost" not in shown(store)  # nobody pays for this machine
    runs = [{"trials": 9, "cost": 1.25}, {"trials": 9}, {"trials": 9, "cost": 0.5, "price_per_hour": 1.39}]
    store.write_sweep(SweepRecord.model_validate({"runs": runs}))
    (local(store.folder) / "driver.json").write_text(json.dumps({"pid": 1, "host": "head", "since": "2025"}))
    assert "cost so far: 1.75; an hour costs 1.39 now" in shown(store)
    runs.append({"trials": 9, "cost": 0.25, "price_per_hour": 0.0, "max_cost": 20.0})
    store.write_sweep(SweepRecord.model_validate({"runs": runs}))
    assert "cost so far: 2.00 of the 20.00 that --max-cost allows" in map(str.rstrip, shown(store).splitlines())


def test_the_rate_is_that_of_the_hours_in_which_trials_ran() -> None:
    def ended(day: int, hour: int) -> dict[str, object]:
        started = at(f"2025-01-0{day}T{hour:02d}:00")
        row = {"trial_id": f"{day}{hour}", "attempt": 1, "state": "COMPLETE", "started": started, "seconds": 3600.0}
        return row | {"ended": at(f"2025-01-0{day}T{hour + 1:02d}:00")}

    # two at a time for two hours, then a night, then one more hour
    assert overview.per_hour([ended(1, 20), ended(1, 20), ended(1, 21), ended(1, 21), ended(2, 9), ended(2, 9)]) == 2
    assert overview.per_hour([]) is None


def test_a_sweep_that_nobody_began_is_shown(store: Store) -> None:
    store.sweep_file.unlink()
    said = shown(store)
    assert "0 of 0 trials have ended (none began)" in said
    assert "no driver has held it" in said


def test_a_broken_sweep_json_is_named_and_the_rest_is_shown(store: Store) -> None:
    record(store, 8, 0.5).finish("COMPLETE")
    local(store.sweep_file).write_text("{")
    said = shown(store)
    assert "1 of 1 trials have ended (1 COMPLETE)" in said
    assert "sweep.json: not readable as JSON" in said


@pytest.mark.parametrize(("host", "pid", "alive"), [("elsewhere", 1, None), (platform.node(), 2**22 + 1, False)])
def test_a_driver_is_alive_gone_or_out_of_sight(store: Store, host: str, pid: int, alive: bool | None) -> None:
    (local(store.folder) / "driver.json").write_text(json.dumps({"pid": pid, "host": host, "since": "2025"}))
    driver = processes.driver_of(store)
    assert driver is not None
    assert driver.alive is alive


def test_a_number_that_another_process_has_now_is_not_the_driver(store: Store) -> None:
    with holding(store):
        held = processes.driver_of(store)
        assert held is not None
        assert held.alive is True
    driver = processes.driver_of(store)  # this very process is there still
    assert driver is not None
    assert driver.alive is False
    with holding(store):
        pass  # looking did not keep the lock


def test_looking_takes_neither_torch_nor_ray_nor_optuna() -> None:
    code = "import sys, orchestrator.status; assert not {'torch', 'ray', 'optuna'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_alarms_in_the_last_epoch_of_a_trial_is_a_line(store: Store) -> None:
    made = record(store, 8, 0.5)
    made.add(metrics(2, nearest_train=0.1, nearest_train_validation=1.0), Place("here", "cpu", 1))
    assert f"{made.config.trial_id} epoch 2: the model recites its training images" in shown(store)
    made.add(metrics(3, nearest_train=0.9, nearest_train_validation=1.0), Place("here", "cpu", 1))
    assert "recites" not in shown(store)
    made.add(metrics(4, gate_saturation=0.9), Place("here", "cpu", 1))
    assert f"{made.config.trial_id} epoch 4: 90% of the gates" in shown(store)
    made.finish("FAILED", "it diverged")
    assert "of the gates" not in shown(store)
