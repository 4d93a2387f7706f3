"""Data sets behind a URL: fetched once per machine, whole or not at all, and never to anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from PIL import Image

from cpcnn_core import data, fetching
from cpcnn_core.config import DataConfig
from cpcnn_core.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "far away"
    for split in data.SPLITS:
        (made / split).mkdir(parents=True)
        for label in range(4):
            Image.new("RGB", (4, 4), (40 * label, 0, 0)).save(made / split / f"{label}.png")
        (made / f"{split}.csv").write_text("".join(f"{split}/{label}.png,{label}\r\n" for label in range(4)))
    return made


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The copies made from now on."""
    made: list[Path] = []
    fetch = fetching._fetch

    def noting(system: Any, names: dict[str, str], copy: Path) -> None:
        fetch(system, names, copy)
        made.append(copy)

    monkeypatch.setattr(fetching, "_fetch", noting)
    return made


def test_a_url_is_fetched_once_and_again_when_it_changed(root: Path, fetched: list[Path]) -> None:
    here, there = (DataConfig(name="cpen455", root=where) for where in (str(root), f"file://{root}"))
    expected = data.load(here)
    for _ in range(2):
        assert torch.equal(data.load(there).train.images, expected.train.images)
    [copy] = fetched
    assert data.files(there, expected.test) == [copy / name for name in expected.test.names]
    (root / "test.csv").write_text("test/3.png,-1\n")
    assert data.load(there).test.names == ("test/3.png",)
    assert len(fetched) == 2


def test_a_path_is_no_url(root: Path, fetched: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    assert fetching.folder("~/x") == root / "x"
    assert not fetched


def test_a_fetch_that_breaks_off_leaves_nothing(root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("file")
    monkeypatch.setattr(type(system), "get", lambda self, far, near: (_ for _ in ()).throw(OSError("connection lost")))
    with pytest.raises(DataError, match=r"data\.root: file://.* cannot be fetched: connection lost"):
        fetching.folder(f"file://{root}")
    assert [path.suffix for path in own_cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "", "\x1b[31m"])
def test_what_a_bucket_lists_cannot_leave_the_copys_folder(
    name: str, root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fsspec.filesystem("file")
    far = name if name.startswith("/") else f"{root}/{name}"
    monkeypatch.setattr(type(system), "find", lambda self, path, detail: {far: {"name": far, "size": 1}})
    with pytest.raises(DataError, match="which leads out of it; rename that file"):
        fetching.folder(f"file://{root}")
    assert not own_cache.exists()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://key:secret@bucket/data", "holds credentials, and is recorded"),
        ("nosuch://bucket/data", "nosuch://bucket/data cannot be fetched: .*nosuch"),
        ("file:///nowhere/at/all", "there is nothing at file:///nowhere/at/all; expected a folder with"),
    ],
)
def test_a_url_that_leads_nowhere_is_told(url: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        fetching.folder(url)
    assert "secret" not in str(caught.value)
