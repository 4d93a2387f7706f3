"""Two drivers, or two processes of one trial, where locks on files do nothing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from filelock import FileLock

from cpcnn_core.config import TrialConfig
from orchestrator.records import alone, lease, location, processes
from orchestrator.records.alone import BusyError
from orchestrator.records.lease import STALE_SECONDS, Holder
from orchestrator.records.mirror import TrialBusyError
from orchestrator.records.store import Attempt, Store, StoreError
from orchestrator.training import trainer
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import SweepError
from tests.support.locks import ALWAYS, KINDS, broken
from tests.support.paths import local
from tests.support.times import at

HOLD = """
import sys, time
from pathlib import Path
from tests.support.locks import break_locks
kind, folder = sys.argv[1:]
if kind != "good":
    break_locks(kind)
from orchestrator.tune.holding import holding
from orchestrator.records.store import Store
with holding(Store(Path(folder))):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "results" / "one")
    made.create()
    return made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Locks that fail, each in its way, and ones that always succeed."""
    monkeypatch.setattr(fcntl, "flock", broken(request.param))
    return str(request.param)


@contextmanager
def held_elsewhere(store: Store, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of this machine drives the sweep."""
    command = [sys.executable, "-c", HOLD, kind, str(store.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def written(store: Store, **changes: object) -> None:
    """A driver of another machine holds the sweep, or with `changes` one of this."""
    held = replace(Holder(4711, "node-7", "2026-01-01T00:00:00+00:00", "another kernel", None), **changes)
    (local(store.folder) / f"{lease.DRIVER}-000001.json").write_text(json.dumps(asdict(held)))


@pytest.mark.parametrize("broken_as", [ALWAYS, KINDS[1], "good"])
def test_a_second_driver_is_refused_until_the_first_is_killed_and_then_let_in_at_once(
    store: Store, broken_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken_as != "good":
        monkeypatch.setattr(fcntl, "flock", broken(broken_as))
    with held_elsewhere(store, broken_as) as first:
        with pytest.raises(SweepError, match=f"another driver runs this sweep: pid {first.pid} on "):
            holding(store).__enter__()
        assert processes.driver_of(store) == processes.Driver(str(lease.seen(store.folder, "driver").holder), True)
        first.send_signal(signal.SIGKILL)
        while first.poll() is None:  # not waited for, until here, as by a container's first process
            time.sleep(0.01)
        with holding(store):
            pass


def test_two_drivers_of_one_process_are_told_apart(store: Store, kind: str) -> None:
    with holding(store), pytest.raises(SweepError, match=f"another driver runs this sweep: pid {os.getpid()} on "):
        holding(Store(store.folder)).__enter__()
    with holding(store):
        pass


def test_a_driver_of_another_machine_is_waited_for_and_then_replaced(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(store)
    with pytest.raises(SweepError, match=r"pid 4711 on node-7.* the same command goes on in \d+ s"):
        holding(store).__enter__()
    monkeypatch.setattr(lease, "_storage_clock", lambda _: lambda: time.time() + STALE_SECONDS)
    with holding(store):
        pass


def test_a_number_that_another_process_has_since_is_nobodys(store: Store, kind: str) -> None:
    here = {"host": os.uname().nodename, "kernel": lease._kernel(), "pid": os.getpid()}
    written(store, **here, started=lease._started(os.getpid()))
    with pytest.raises(SweepError):
        holding(store).__enter__()
    written(store, **here, started=1)
    with holding(store):
        pass


def test_a_process_that_is_dead_and_not_yet_buried_is_gone() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        me = Holder(child.pid, os.uname().nodename, "", lease._kernel(), None, started=1)
        assert me.is_gone
        assert lease._started(child.pid) is None


def another_container() -> dict[str, object]:
    kernel = lease._kernel()
    assert kernel is not None
    return {"host": "a-container", "kernel": f"{kernel.split()[0]} pid:[1]", "pid": 1}


def test_where_locks_work_a_killed_container_of_this_machine_is_replaced_at_once(store: Store) -> None:
    written(store, **another_container())
    with holding(store):
        pass


def test_where_they_do_not_it_is_waited_for(store: Store, kind: str) -> None:
    written(store, **another_container())
    with pytest.raises(SweepError, match="a-container"):
        holding(store).__enter__()


def test_on_a_disk_that_machines_share_their_own_locks_say_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location, "is_shared", lambda _: True)
    written(store, **another_container())
    with pytest.raises(SweepError, match="a-container"):
        holding(store).__enter__()


def test_no_file_is_taken_for_a_lock_by_its_being_there(store: Store, kind: str) -> None:
    (local(store.folder) / "driver.lock").write_text("4711\nnode-7\n")
    with holding(store):
        pass
    assert (store.folder / "driver.lock").exists()


def test_a_lock_that_cannot_be_written_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (local(store.folder) / "driver.lock").mkdir()
    with pytest.raises(StoreError, match=r"driver\.lock: cannot be written: Is a directory"):
        holding(store).__enter__()


def test_a_trial_is_trained_by_one_process(store: Store, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_ORPHAN_SECONDS", 0)
    with trainer._alone(store, "aaa"):
        with trainer._alone(store, "bbb"):
            pass
        with pytest.raises(TrialBusyError, match=f"pid {os.getpid()} on .*: another process has been training"):
            trainer._alone(Store(store.folder), "aaa").__enter__()
    with trainer._alone(store, "aaa"):
        pass


def test_a_trial_whose_process_slept_too_long_writes_nothing_more(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = lease._clock
    row = Attempt(trial_id="aaa", attempt=1, number=None, state="RUNNING", started=at())
    with trainer._alone(store, "aaa") as own:
        own.write_attempt(row, TrialConfig())
        folder = store.local_mirror / "checkpoints" / "aaa.locks"
        lease.Lease.stolen(folder, "claim")  # by whoever waited for long enough
        monkeypatch.setattr(lease, "_clock", lambda: clock() + STALE_SECONDS)
        with pytest.raises(TrialBusyError, match="another process trains trial aaa now"):
            own.write_attempt(row, TrialConfig())
    own.write_attempt(row, TrialConfig())  # what comes after, as that it was cut short


def test_where_locks_work_no_lease_is_left_by_a_trial(store: Store) -> None:
    with trainer._alone(store, "aaa"):
        pass
    assert [file.name for file in (store.local_mirror / "checkpoints").iterdir()] == ["aaa.lock"]


def test_whoever_waits_gets_it_once_it_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", broken(ALWAYS))
    monkeypatch.setattr(alone, "_LOOK_SECONDS", 0.01)
    (tmp_path / "x.locks").mkdir()
    with subprocess.Popen(["sleep", "1000"]) as gone:
        held = Holder(gone.pid, os.uname().nodename, "", lease._kernel(), None, started=lease._started(gone.pid))
        (tmp_path / "x.locks" / "claim-000001.json").write_text(json.dumps(asdict(held)))
        ending = threading.Timer(0.1, gone.kill)
        try:
            with pytest.raises(BusyError, match=f"pid {gone.pid}"):
                alone.alone(tmp_path / "x.lock").__enter__()
        finally:
            ending.start()
        with alone.alone(tmp_path / "x.lock", wait=60):
            assert not ending.is_alive()
        ending.join()


def test_looking_whether_a_lock_works_does_not_lose_it(tmp_path: Path) -> None:
    with alone.locked(tmp_path / "x") as sure:
        assert sure
        second = FileLock(tmp_path / "x", timeout=0)
        with pytest.raises(TimeoutError):
            second.acquire()
