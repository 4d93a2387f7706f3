"""A place on disk and one behind a URL do the same for a store."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.records.location import Folder
from orchestrator.records.place import BehindUrl, OnDisk, Place, place_of
from orchestrator.records.store import Store, StoreError
from orchestrator.records.sweep_file import SweepRecord
from tests.support import remote
from tests.support.fakes import metrics


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "results" / "one" if request.param == "disk" else remote.folder()


@pytest.fixture
def place(folder: Folder) -> Place:
    Store(folder).create()
    return place_of(folder)


def table(place: Place, name: str) -> None:
    place.write(name, lambda stream: pq.write_table(pa.table({"trial_id": ["a", "b"]}), stream))


def test_the_implementation_is_chosen_by_where_the_folder_lies(tmp_path: Path) -> None:
    assert isinstance(place_of(tmp_path), OnDisk)
    assert isinstance(place_of(remote.folder()), BehindUrl)


def test_parquet_files_are_listed_in_order_and_read(place: Place) -> None:
    for name in ("epochs/b.parquet", "epochs/a.parquet"):
        table(place, name)
    place.write("epochs/notes.txt", lambda stream: stream.write(b"no table"))
    listed = place.tables("epochs")
    assert list(listed) == ["epochs/a.parquet", "epochs/b.parquet"]
    for name, tag in listed.items():
        assert place.may_have(name, listed)
        assert place.schema(name, tag).names == ["trial_id"]
        with place.opened(name, tag) as file:
            assert file.read()["trial_id"].to_pylist() == ["a", "b"]
    assert place.rows("epochs/a.parquet", [("trial_id", "==", "b")]).num_rows == 1
    place.remove(["epochs/a.parquet", "epochs/nothing.parquet"])
    assert list(place.tables("epochs")) == ["epochs/b.parquet"]
    assert place.tables("trials") == {}


def test_what_is_expected_is_read_without_asking_again(place: Place) -> None:
    table(place, "predictions/a.parquet")
    place.expect(["predictions/a.parquet", "predictions/nothing.parquet"])

    def before(operation: str, path: str) -> None:
        raise AssertionError(operation)

    with remote.asking(before), place.opened("predictions/a.parquet") as file:
        assert file.metadata.num_rows == 2
    with pytest.raises(FileNotFoundError), place.opened("predictions/nothing.parquet"):
        pass


def test_a_file_moves_and_is_made_where_only_a_path_will_do(place: Place) -> None:
    place.write_as_file("samples/a.png", lambda path: path.write_bytes(b"drawn"))
    place.move("samples/a.png", "set-aside/a.png")
    assert not place.path("samples/a.png").exists()
    assert place.path("set-aside/a.png").read_bytes() == b"drawn"


def test_a_log_goes_there_and_comes_back(place: Place) -> None:
    (place.local_mirror / "logs" / "a.log").write_bytes(b"said")
    place.send_near("logs/a.log")
    assert place.path("logs/a.log").read_bytes() == b"said"
    assert place.modified("logs/a.log") > 0
    if place.is_remote:
        (place.local_mirror / "logs" / "a.log").unlink()
        assert place.modified("logs/a.log") > 0
    place.fetch_near("logs/a.log")
    assert (place.local_mirror / "logs" / "a.log").read_bytes() == b"said"
    with pytest.raises(FileNotFoundError):
        place.modified("logs/nothing.log")


def test_fences_are_asked_in_turn_for_as_long_as_they_stand(folder: Folder) -> None:
    asked: list[str] = []
    store = Store(folder, lambda: asked.append("driver"))
    store.create()
    with store.fenced(lambda: asked.append("trial")) as own:
        own.write_sweep(SweepRecord(name="one"))
        own.retrying().add_epoch(TrialConfig().trial_id, 1, metrics(1))
        assert asked == ["driver", "trial", "driver", "trial"]
        store.write_sweep(SweepRecord(name="one"))
    own.write_sweep(SweepRecord(name="one"))
    assert asked[4:] == ["driver", "driver"]


def test_a_fence_that_falls_keeps_what_was_there(folder: Folder) -> None:
    store = Store(folder)
    store.create()
    store.write_sweep(SweepRecord(name="one"))

    def taken_over() -> None:
        raise StoreError("another driver")

    with store.fenced(taken_over) as own, pytest.raises(StoreError, match="another driver"):
        own.write_sweep(SweepRecord(name="two"))
    assert store.read_sweep() == SweepRecord(name="one")
