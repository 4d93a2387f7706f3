from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.records import lease, processes, provenance
from orchestrator.records.lease import STALE_SECONDS, Holder, Lease, LeaseLostError, TakenError, seen
from orchestrator.records.location import RemotePath, remove_tree
from orchestrator.records.store import Store, StoreError
from orchestrator.tune import holding as holding_module
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import SweepError
from tests.support import remote
from tests.support.fakes import metrics


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path))


@pytest.fixture
def store() -> Store:
    made = Store(remote.folder())
    made.create()
    return made


@pytest.fixture(params=["a bucket", "a folder"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made = Store(remote.folder() if request.param == "a bucket" else tmp_path / "results" / "one")
    made.create()
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How many seconds later it is by the storage's clock than when files were written."""
    seconds = [0.0]
    monkeypatch.setattr(lease, "_storage_clock", lambda _folder: lambda: time.time() + seconds[0])
    return seconds


def elsewhere(store: Store, number: int = 1, **changes: Any) -> Holder:
    """A driver on another machine takes the lease."""
    held = replace(Holder(4711, "node-7", "2026-01-01T00:00:00+00:00", "another kernel", "work"), **changes)
    (store.folder / f"{lease.DRIVER}-{number:06d}.json").write_bytes(json.dumps(asdict(held)).encode())
    return held


def test_of_many_who_want_a_lease_one_gets_it(anywhere: Store) -> None:
    def holder(_: int) -> int | None:
        try:
            Lease.taken(anywhere.folder, "driver")
        except TakenError as taken:
            return taken.seen.holder.pid
        return None

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(holder, range(8)), key=str) == [None, *[os.getpid()] * 7][::-1]


def test_two_attempts_of_one_process_in_one_millisecond_are_told_apart(
    anywhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "now", lambda: "2026-01-01T00:00:00.000+00:00")
    assert Lease._next(anywhere.folder, "driver", None, None)
    with pytest.raises(TakenError):
        Lease._next(anywhere.folder, "driver", None, None)


def test_a_first_attempt_whose_answer_was_lost_counts(store: Store) -> None:
    create = RemotePath.create

    def arrives_in_silence(self: RemotePath, content: bytes) -> bool:
        return create(self, content) and False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemotePath, "create", arrives_in_silence)
        taken, before = Lease._next(store.folder, "driver", None, None)
    assert before is None
    taken.look()


def test_a_second_driver_is_refused_with_the_first_one_s_pid_and_host(anywhere: Store) -> None:
    elsewhere(anywhere)
    with pytest.raises(SweepError, match=r"another driver .* pid 4711 on node-7, since 2026.* goes on in"):
        holding(anywhere).__enter__()
    assert "pid 4711 on node-7" in str(processes.driver_of(anywhere))


def test_a_lease_that_was_let_go_of_or_whose_process_is_gone_is_free(anywhere: Store) -> None:
    for _ in range(2):
        with holding(anywhere):
            assert processes.driver_of(anywhere).alive
        assert not processes.driver_of(anywhere).alive
    # the process of this machine that held it was killed
    assert elsewhere(anywhere, 3, host=os.uname().nodename, kernel=lease._kernel(), pid=2**22 + 1).is_gone
    with holding(anywhere):
        pass


def test_a_stale_lease_is_taken_over_and_its_holder_writes_nothing_more(
    anywhere: Store, later: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = [0.0]
    clock = lease._clock
    monkeypatch.setattr(lease, "_clock", lambda: clock() + slept[0])
    monkeypatch.setattr(lease.Holder, "is_gone", False)
    with holding(Store(anywhere.folder)) as sleeper:
        sleeper.add_epoch("aaa", 1, metrics(1))
        later[0] = STALE_SECONDS + 1
        elsewhere(anywhere, 2)
        slept[0] = STALE_SECONDS + 1  # this process, too, finds that time has passed
        with pytest.raises(StoreError, match="another driver has taken over this sweep: pid 4711 on node-7"):
            sleeper.add_epoch("aaa", 1, metrics(2))
    assert [row["epoch"] for row in anywhere.epochs().rows()] == [1]
    assert seen(anywhere.folder, "driver").holder.pid == 4711
    later[0] = 2 * STALE_SECONDS
    with holding(anywhere):
        assert seen(anywhere.folder, "driver").number == 3


def test_storage_that_cannot_tell_two_drivers_apart_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def ignores_the_mode(self: Any, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        MemoryFileSystem.pipe_file(self, path, value)

    monkeypatch.setattr(remote.FragileFileSystem, "pipe_file", ignores_the_mode)
    with pytest.raises(StoreError, match="this storage lets two create the same file"):
        holding(store).__enter__()


def test_a_sweep_that_was_deleted_there_begins_anew(store: Store) -> None:
    with holding(store):
        store.study_file.write_bytes(b"")
    remove_tree(store.folder)
    with holding(store):
        assert not store.study_file.exists()


def test_a_beating_holder_is_heard_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(holding_module, "_PUBLISH_SECONDS", 0.0)
    before = time.time()
    with holding(store):
        store.study_file.write_bytes(b"")
        deadline = time.monotonic() + 30
        while not (store.folder / "study.db").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (store.folder / "driver-000001.json").modified() >= before


def test_a_driver_on_another_machine_makes_the_study_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding(store):
        store.study_file.write_bytes(b"")
    with holding(store):
        assert store.study_file.exists()  # nobody else has driven it meanwhile
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "another machine"))
    other = Store(store.folder)
    other.create()
    with holding(other):
        assert not other.study_file.exists()
    with holding(store):
        assert not store.study_file.exists()
        assert (store.local_mirror / "study-1.db").exists()


def test_whoever_steals_a_lease_has_it_from_whoever_held_it(anywhere: Store) -> None:
    first = Lease.stolen(anywhere.folder, "claim")
    first.look()
    second = Lease.stolen(anywhere.folder, "claim")
    with pytest.raises(LeaseLostError, match=f"pid {os.getpid()}"):
        first.look()
    second.look()
    assert seen(anywhere.folder, "driver") is None
