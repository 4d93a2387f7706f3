from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records import location
from orchestrator.records.location import RemoteError, RemotePath, located
from orchestrator.records.store import Store, StoreError, sweeps
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.training.trainer import is_storage_failure
from tests.support import remote


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path))


def test_a_path_is_a_folder_on_disk_and_a_url_is_not() -> None:
    assert located("results") == Path("results")
    assert located("file:///shared/results") == Path("/shared/results")
    assert located("s3://bucket/results/") == RemotePath("s3://bucket/results")
    path = RemotePath("s3://bucket/results") / "one" / "a-0001.parquet"
    assert (str(path), path.name, path.stem, path.suffix) == (
        "s3://bucket/results/one/a-0001.parquet",
        "a-0001.parquet",
        "a-0001",
        ".parquet",
    )
    assert path.parent == RemotePath("s3://bucket/results/one")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://key:s3cret@bucket/results", "without user, password or options"),
        ("s3://bucket/results?secret=s3cret", "without user, password or options"),
        ("s3://", "names no folder"),
        ("nonsense://bucket/results", "fsspec knows no storage of that kind"),
        ("sftp://host/results", "uv pip install|mount it"),
        ("gs://bucket/results", "uv sync --extra gcs"),
    ],
)
def test_a_url_that_will_not_do_is_refused_without_its_secrets(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        located(url)
    assert "s3cret" not in str(raised.value)


def test_a_file_is_created_once() -> None:
    file = remote.folder() / "a"
    assert file.create(b"1")
    assert not file.create(b"2")
    assert file.read_bytes() == b"1"


def test_a_listing_tells_a_changed_file_from_the_same_one() -> None:
    folder = remote.folder()
    assert folder.listing() == {}
    (folder / "a").write_bytes(b"1")
    (folder / "b" / "c").write_bytes(b"1")
    before = folder.listing()
    assert list(before) == ["a", "b"]
    (folder / "a").write_bytes(b"12")
    assert folder.listing()["a"] != before["a"]
    (folder / "a").unlink()
    (folder / "a").unlink(missing_ok=True)
    assert not (folder / "a").exists()


def test_what_does_not_answer_is_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(location, "_PAUSES", (0.001, 0.001))
    failures = iter(range(3))

    def before(operation: str, path: str) -> None:
        if operation == "put" and next(failures, None) is not None:
            raise ConnectionError("no route")

    impatient = remote.folder() / "a"
    with remote.asking(before):
        with pytest.raises(RemoteError, match=r"results/one/a: cannot be reached \(no route\)") as raised:
            impatient.write_bytes(b"1")
        assert is_storage_failure(raised.value)
        RemotePath(impatient.url, patience=60).write_bytes(b"2")
    assert impatient.read_bytes() == b"2"


def test_what_is_refused_is_not_asked_again_and_no_secret_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    asked = []

    def before(operation: str, path: str) -> None:
        asked.append(operation)
        raise PermissionError("403 at https://me:s3cret@host with s3cret")

    with remote.asking(before), pytest.raises(StoreError, match=r"refused .*Credentials are read from") as raised:
        Store(RemotePath(remote.folder().url, patience=60)).create()
    assert asked == ["put"]
    assert "s3cret" not in str(raised.value)


def test_readers_say_that_storage_is_out_of_reach_rather_than_that_files_are_broken() -> None:
    store = Store(remote.folder())
    store.create()
    store.write_sweep(SweepRecord.model_validate({"name": "one"}))
    (store.epochs_folder / "aaa.parquet").write_bytes(b"")

    def before(operation: str, path: str) -> None:
        if operation in reached:
            raise ConnectionError("no route")

    for reached in ({"list"}, {"get"}):
        with remote.asking(before):
            with pytest.raises(StoreError, match=r"fragile://.*cannot be reached \(no route\)"):
                store.epochs()
            with pytest.raises(StoreError, match=r"fragile://.*cannot be reached \(no route\)"):
                store.epochs_of("aaa") if "get" in reached else sweeps(store.folder.parent)
    assert (store.epochs_folder / "aaa.parquet").exists()  # not put aside as broken
    assert [found.folder for found in sweeps(store.folder.parent)] == [store.folder]


def test_a_copy_of_the_study_has_what_its_log_has(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    store = Store(remote.folder())
    store.create()
    store.publish_study()
    assert not (store.folder / "study.db").exists()
    with closing(sqlite3.connect(store.study_file)) as study:
        study.execute("pragma journal_mode = wal")
        study.execute("create table trials (number)")
        study.execute("insert into trials values (7)")
        study.commit()
        store.publish_study()
    location.fetch(store.folder / "study.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("select number from trials").fetchall() == [(7,)]


def test_files_that_did_not_change_are_not_fetched_again() -> None:
    store = Store(remote.folder())
    (store.sweep_file.parent / "epochs" / "notes.txt").write_bytes(b"not a table")
    from tests.support.fakes import metrics

    for trial_id in ("aaa", "bbb"):
        store.add_epoch(trial_id, 1, metrics(1))
    store.epochs()
    fetched = []

    def before(operation: str, path: str) -> None:
        if operation == "get" and "compacted" not in path:
            fetched.append(path.rpartition("/")[2])

    Store(store.folder).add_epoch("bbb", 1, metrics(2))
    with remote.asking(before):
        assert len(store.epochs().rows()) == 3
        assert "val_acc" in store.epoch_columns()
    assert fetched == ["bbb.parquet"]


def test_predictions_that_are_expected_are_fetched_once() -> None:
    store = Store(remote.folder())
    for epoch in (1, 2):
        store.write_predictions("aaa", epoch, images=["a"], labels=[0], log_likelihood=[[-1.0, -2.0]])
    fetched = []
    with remote.asking(lambda operation, path: fetched.append((operation, path[-12:]))):
        store.expect_predictions([("aaa", 1), ("aaa", 3)])
        assert len(store.predictions_table("aaa", 1)) == len(store.predictions_table("aaa", 2)) == 1
        with pytest.raises(StoreError, match="not there"):
            store.predictions_table("aaa", 3)
    assert fetched.count(("get", "0001.parquet")) == fetched.count(("get", "0002.parquet")) == 1
