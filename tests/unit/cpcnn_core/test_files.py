"""Where a machine keeps what can be made again, and how its processes take turns."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from cpcnn_core import cache, fetching, files
from cpcnn_core.config import DataConfig
from cpcnn_core.data import load
from tests.support.locks import KINDS, broken


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPCNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / "temporary" / f"cpcnn-{os.getuid()}"


def test_the_cache_is_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / ".cache" / "cpcnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg" / "cpcnn"
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "own"))
    assert files.cache_folder() == tmp_path / "own"
    assert not list((tmp_path / "temporary").iterdir())  # looking for it makes nothing


@pytest.mark.parametrize("home", ["nowhere", "a-file", "a-file/within", "not-a-folder-in-it"])
def test_without_a_home_that_can_be_written_it_is_a_folder_of_ones_own(
    home: str, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "not-a-folder-in-it").mkdir()
    (tmp_path / "not-a-folder-in-it" / ".cache").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    assert files.cache_folder() == temporary
    assert temporary.stat().st_mode & 0o777 == 0o700
    assert files.cache_folder() == temporary
    assert not (tmp_path / "nowhere").exists()


def test_a_user_whom_the_machine_does_not_know_has_a_cache(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert files.cache_folder() == temporary
    assert len(load(DataConfig(name="digits")).train) > 0
    assert any(temporary.iterdir())


@pytest.mark.parametrize("made", ["by another", "for all to write", "as a link", "as a file"])
def test_a_folder_that_somebody_else_may_have_made_is_not_used(
    made: str, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    if made == "as a link":
        temporary.symlink_to(tmp_path)
    elif made == "as a file":
        temporary.touch()
    else:
        temporary.mkdir(mode=0o700)
    if made == "for all to write":
        temporary.chmod(0o777)
    if made == "by another":
        own = os.getuid()
        folder = temporary.with_name(f"cpcnn-{own + 1}")
        temporary.rename(folder)
        monkeypatch.setattr(os, "getuid", lambda: own + 1)
    assert files.temporary_cache() is None


def test_no_temporary_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in []")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert files.cache_folder() == Path("~/.cache/cpcnn")
    made = {"x": torch.zeros(1)}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").touch()  # so that not even that can be made
    assert cache.tensors("a", "b", lambda: made) == made


@pytest.mark.parametrize("kind", KINDS)
def test_without_locks_what_several_make_at_once_is_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", broken(kind))
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path))
    both = threading.Barrier(2, timeout=60)

    def make() -> dict[str, torch.Tensor]:
        both.wait()  # neither waits for the other, who is in here too
        return {"x": torch.arange(1000)}

    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(cache.tensors("a", "b", make)["x"])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(each, torch.arange(1000)) for each in found)
    assert len(found) == 2

    def never() -> dict[str, torch.Tensor]:
        raise AssertionError

    assert torch.equal(cache.tensors("a", "b", never)["x"], torch.arange(1000))  # and it was kept


def test_with_locks_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path))
    made = []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"x": torch.zeros(1)}

    threads = [threading.Thread(target=lambda: cache.tensors("a", "b", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_an_error_in_turn_has_nothing_to_do_with_the_lock(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(ValueError, match="of its own") as raised, files.in_turn(tmp_path / "a-file" / "x.lock"):
        raise ValueError("of its own")
    assert raised.value.__context__ is None


@pytest.mark.parametrize("kind", KINDS)
def test_without_locks_data_is_fetched_by_several_and_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", broken(kind))
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("a,0\n")
    both = threading.Barrier(2, timeout=60)
    fetch = fetching._fetch

    def at_once(*arguments: object) -> None:
        both.wait()
        fetch(*arguments)

    monkeypatch.setattr(fetching, "_fetch", at_once)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetching.folder(f"local://{tmp_path / 'data'}"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(folder / "train.csv").read_text() for folder in found] == ["a,0\n"] * 2
