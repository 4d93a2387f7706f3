"""A sweep's folder on a file system that machines share, where a study's write-ahead log does not work."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import optuna
import psutil
import pytest

from orchestrator.records import location
from orchestrator.records.beginning import without_a_trace
from orchestrator.records.store import Store, StoreError
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.tune.holding import holding
from tests.support.paths import local
from tests.unit.orchestrator.search.test_study import run_all, states, studying


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that lie on such a file system, with all in them: the results at first."""
    held = [tmp_path / "shared"]
    monkeypatch.setattr(location, "is_shared", lambda path: any(path.is_relative_to(folder) for folder in held))
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return held


@pytest.fixture
def store(shared: list[Path]) -> Store:
    made = Store(shared[0] / "results" / "one")
    made.create()
    return made


def mode(file: Path) -> str:
    with closing(sqlite3.connect(file)) as held:
        return str(held.execute("pragma journal_mode").fetchone()[0])


def test_the_study_lies_on_the_drivers_own_disk_and_a_copy_in_the_folder(store: Store, tmp_path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):  # of a release that kept it there
        (store.folder / f"study.db{suffix}").write_bytes(b"old")
    with holding(store), studying(store) as study:
        assert store.study_file.is_relative_to(tmp_path / "cache" / "results")
        assert mode(store.study_file) == "wal"
        run_all(study, store)
    assert [file.name for file in store.folder.glob("study*")] == ["study.db"]
    copy = local(store.folder) / "study.db"
    assert mode(copy) == "delete"
    there = optuna.storages.RDBStorage(f"sqlite:///{copy}")
    held = optuna.load_study(study_name=store.folder.name, storage=there)
    assert [trial.state.name for trial in held.trials] == states(store) == ["COMPLETE"] * 6
    there.scoped_session.remove()
    there.engine.dispose()


def test_the_study_of_a_machine_that_others_have_driven_since_is_made_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding(store), studying(store, trials=2) as study:
        run_all(study, store)
    with holding(store):
        assert store.study_file.exists()  # nobody else has driven it meanwhile
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "another machine"))
    other = Store(store.folder)
    with holding(other), studying(other, trials=4) as study:
        assert study.finished == 2  # by the rows
        run_all(study, other)
    with holding(store):
        assert not store.study_file.exists()
        with studying(store, trials=6) as study:
            assert study.finished == 4
            run_all(study, store)
    assert len(store.latest_attempts().rows()) == 6
    assert (store.study_file.parent / "study-1.db").exists()


def test_a_home_that_is_shared_too_leaves_the_temporary_folder(
    store: Store, shared: list[Path], tmp_path: Path
) -> None:
    shared.append(tmp_path / "cache")
    assert store.study_file.is_relative_to(tmp_path / "temporary")


def test_with_no_disk_of_its_own_a_machine_keeps_a_safe_journal(
    store: Store, shared: list[Path], tmp_path: Path
) -> None:
    shared += [tmp_path / "cache", tmp_path / "temporary"]
    assert store.study_file == store.folder / "study.db"
    with holding(store), studying(store) as study:
        run_all(study, store)
        assert mode(store.study_file) != "wal"
    assert states(store) == ["COMPLETE"] * 6


def test_a_study_whose_log_was_written_ahead_is_read_and_goes_on_without(
    store: Store, shared: list[Path], tmp_path: Path
) -> None:
    own = shared.pop()
    with studying(store, trials=2) as study:
        run_all(study, store)
    assert mode(store.study_file) == "wal"
    shared += [own, tmp_path / "cache", tmp_path / "temporary"]
    again = Store(store.folder)
    with studying(again, trials=4) as study:
        assert study.finished == 2
        run_all(study, again)
    assert mode(again.study_file) != "wal"


def test_on_a_disk_of_ones_own_it_lies_in_the_folder(tmp_path: Path, shared: list[Path]) -> None:
    store = Store(tmp_path / "results" / "one")
    store.create()
    with holding(store), studying(store) as study:
        run_all(study, store)
    assert store.study_file == store.folder / "study.db"
    assert not (store.folder / "work.txt").exists()


def test_a_cache_that_cannot_hold_the_study_is_said_with_the_way_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "a file"))
    with pytest.raises(StoreError, match=r"cannot hold the study: Not a directory; CPCNN_CACHE names another place"):
        holding(store).__enter__()


def test_a_copy_that_cannot_be_written_ends_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left")

    with holding(store), studying(store) as study:
        run_all(study, store)
        monkeypatch.setattr(Store, "publish_study", full)


def test_a_sweep_that_fails_before_its_first_trial_leaves_nothing_on_either_disk(store: Store, tmp_path: Path) -> None:
    def begin_and_fail() -> None:
        with studying(store):
            pass
        store.write_sweep(SweepRecord.model_validate({}))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), holding(store), without_a_trace(store, [local(store.folder.parent)]):
        begin_and_fail()
    assert not store.folder.parent.exists()
    assert not any((tmp_path / "cache" / "results").iterdir())


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph")),
        *(
            (kind, True)
            for kind in ("fuse.sshfs", "fuse.gcsfuse", "fuse", "9p", "virtiofs", "glusterfs", "afs", "vboxsf")
        ),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "apfs", "fuseblk", "")),
        ("fuse.fuse-overlayfs", False),  # a container's own disk
    ],
)
def test_file_systems_that_machines_share_are_known_by_their_kind(
    kind: str, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(tmp_path.resolve()), fstype="xfs"),  # beneath, once
        SimpleNamespace(mountpoint=str(tmp_path.resolve()), fstype=kind),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    assert location.is_shared(tmp_path / "not" / "yet" / "there") is shared
    (tmp_path / "link").symlink_to("/")
    assert not location.is_shared(tmp_path / "link" / "elsewhere")
    assert not location.is_shared(Path("/"))


def test_this_machines_own_temporary_folder_is_known_for_something() -> None:
    assert location.kind_of_disk(Path("/proc/self")) == "proc"
