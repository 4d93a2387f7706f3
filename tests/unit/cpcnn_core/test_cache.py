"""What is kept is mapped, written a piece at a time, and looked at once; what is broken is noticed and made anew."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cpcnn_core import cache
from cpcnn_core.data.split import Split

IMAGES = torch.arange(7 * 2 * 3, dtype=torch.int64).reshape(7, 2, 3).to(torch.uint8)
REST = {"hashes": torch.arange(5, dtype=torch.uint8), "labels": torch.arange(3), "weights": torch.rand(2, 2)}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(rows: cache.Rows) -> dict[str, Tensor]:
    for start in range(0, len(IMAGES), 3):
        rows.append(IMAGES[start : start + 3])
    return REST


def black(rows: cache.Rows) -> dict[str, Tensor]:
    rows.append(IMAGES * 0)
    return {}


def never(rows: cache.Rows) -> dict[str, Tensor]:
    raise AssertionError


def kept(make: Callable[[cache.Rows], dict[str, Tensor]] = never) -> dict[str, Tensor]:
    return cache.rows("kind", "key", make)


def check(found: dict[str, Tensor]) -> None:
    assert found.keys() == {cache.ROWS, *REST}
    for name, expected in {cache.ROWS: IMAGES, **REST}.items():
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)


def test_rows_written_a_few_at_a_time_are_read_as_one_tensor() -> None:
    check(kept(write))
    check(kept())


@pytest.mark.parametrize("block", [1, 20, 10_000])
@pytest.mark.parametrize("in_a_file", [True, False])
def test_rows_become_wider_where_they_lie(
    block: int, in_a_file: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_BLOCK", block)
    if not in_a_file:
        folder.write_text("a file where the folder should be")

    def widen(rows: cache.Rows) -> dict[str, Tensor]:
        rows.change(Tensor.float)  # of nothing yet
        rows.append(IMAGES[:5])
        rows.change(lambda some: some.float() / 3)
        rows.append(IMAGES[5:].float() / 3)
        return {}

    assert torch.equal(kept(widen)[cache.ROWS], IMAGES.float() / 3)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_is_read_is_a_mapped_file_from_the_first_process_on() -> None:
    for make in (write, never):
        found = kept(make)
        regions = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        for tensor in found.values():
            [place] = [
                region[-1]
                for region in regions
                if int(region[0].split("-")[0], 16) <= tensor.data_ptr() < int(region[0].split("-")[1], 16)
            ]
            assert Path(place) == cache.file("kind", "key")


def test_whoever_writes_into_it_changes_no_file_and_nobody_else() -> None:
    mine = kept(write)
    mine[cache.ROWS].zero_()
    check(kept())
    assert not mine[cache.ROWS].any()


def test_a_file_in_use_may_be_replaced_or_deleted(folder: Path) -> None:
    found = kept(write)
    cache.file("kind", "key").unlink()
    kept(black)
    check(found)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    with path.open("r+b") as stream:  # in place: the very file that was checked
        stream.write(content)


@pytest.mark.parametrize("at", [4096, -1, 0, 20], ids=["the first byte", "the last byte", "length", "header"])
def test_a_changed_byte_is_noticed_although_the_times_are_set_back(at: int) -> None:
    check(kept(write))
    path = cache.file("kind", "key")
    whole, stamp = path.read_bytes(), path.stat()
    flip(path, at)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    check(kept(write))
    assert path.read_bytes() == whole


def test_a_header_that_says_something_else_is_noticed() -> None:
    check(kept(write))
    path = cache.file("kind", "key")
    whole = path.read_bytes()
    for said, other in ((b'"U8"', b'"I8"'), (b'"rows"', b'"rowz"')):
        assert said in whole
        path.write_bytes(whole.replace(said, other, 1))
        check(kept(write))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 7, 100, 4096, 4100, -1])
def test_a_file_that_was_cut_off_is_noticed(length: int) -> None:
    check(kept(write))
    path = cache.file("kind", "key")
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    check(kept(write))
    assert path.read_bytes() == whole


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One for each file that was read as a whole."""
    seen: list[object] = []
    checksum = cache._checksum

    def noted(entries: Mapping[str, object], stream: BinaryIO) -> str:
        seen.append(stream)
        return checksum(entries, stream)

    monkeypatch.setattr(cache, "_checksum", noted)
    return seen


def test_a_file_is_read_as_a_whole_once_after_a_start_of_the_machine(
    readings: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(write)
    readings.clear()  # of what was written
    check(kept())
    assert not readings
    cache.file("kind", "key").touch()
    check(kept())
    check(kept())
    assert len(readings) == 1
    monkeypatch.setattr(cache, "_boot", lambda: "another start")
    check(kept())
    check(kept())
    assert len(readings) == 2


def test_where_no_note_can_be_written_the_file_is_read_each_time(readings: list[object]) -> None:
    kept(write)
    note = cache.file("kind", "key").with_suffix(".checked")
    note.unlink()
    note.mkdir()
    readings.clear()
    check(kept())
    check(kept())
    assert len(readings) == 2


def test_a_file_of_an_earlier_release_is_made_anew(folder: Path) -> None:
    folder.mkdir()
    save_file({cache.ROWS: IMAGES}, cache.file("kind", "key"), {"checksum": "of another kind"})
    check(kept(write))
    check(kept())


def test_where_nothing_can_be_mapped_it_is_read_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept(write)

    def unable(*_: object, **__: object) -> object:
        raise OSError(19, "No such device")

    monkeypatch.setattr(cache, "safe_open", unable)
    check(kept())
    check(kept())
    [said] = caplog.messages
    assert "cannot be mapped ([Errno 19] No such device): each process reads its own copy into memory" in said
    path = cache.file("kind", "key")
    flip(path, -1)
    check(kept(write))


def test_what_cannot_be_kept_is_made_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    check(kept(write))
    made: list[int] = []

    def make() -> dict[str, Tensor]:
        made.append(1)
        return REST

    assert cache.tensors("kind", "other", make).keys() == REST.keys()
    assert made == [1]  # costly, and in memory already
    assert not cache.file("kind", "key").exists()


def test_a_split_of_what_is_kept_is_no_copy_where_its_images_follow_upon_one_another() -> None:
    whole = Split(kept(write)[cache.ROWS], torch.arange(7), tuple("abcdefg"))
    for indices in (range(2, 5), [2, 3, 4], []):
        part = whole.take(indices)
        assert part.images.untyped_storage().data_ptr() == whole.images.untyped_storage().data_ptr()
        assert part.names == tuple("abcdefg"[i] for i in indices)
        assert part.labels.tolist() == list(indices)
    assert whole.take([2, 4]).names == ("c", "e")
    assert torch.equal(whole.take([4, 3, 2]).images, IMAGES[[4, 3, 2]])
