"""Images are decoded by threads in order, a bounded number at a time, and the first error is the first image's."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcnn_core import image_files
from cpcnn_core.data import decoding
from cpcnn_core.errors import DataError

WORKERS = 3


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(joblib, "cpu_count", lambda: WORKERS)


class Made:
    """Images of 2x2, each full of its number, that take unequally long to decode."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.count = count
        self.broken = broken
        self.decoded: list[int] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return self.count

    def stamps(self) -> Iterable[str]:
        return map(str, range(self.count))

    def decode(self, index: int) -> NDArray[np.uint8]:
        self.decoded.append(index)
        self.threads.add(threading.current_thread().name)
        time.sleep(0.002 * (index % 3 == 0))
        if index in self.broken:
            raise DataError(f"image {index} is broken")
        return np.full((2, 2, 3), index % 256, dtype=np.uint8)


def rounded(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def unrounded_from(number: int) -> decoding.Fit:
    """The images from this one on are resized, which gives floats."""

    def fit(pixels: NDArray[np.uint8]) -> Tensor:
        kept = rounded(pixels)
        return kept.float() / 255 * 2 - 1 if pixels[0, 0, 0] >= number else kept

    return fit


@pytest.mark.parametrize("at_a_time", [1, 4, 100])
@pytest.mark.parametrize("resized_from", [0, 1, 10, 23, 99])
def test_images_come_in_order_and_are_floats_where_one_is(
    at_a_time: int, resized_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_AT_A_TIME", at_a_time)
    made = Made(24)
    images, hashes = decoding.decoded(made, kind="a", parameters="p", fit=unrounded_from(resized_from))
    assert sorted(made.decoded) == list(range(24))
    expected = torch.arange(24, dtype=torch.uint8)
    if resized_from < 24:
        assert torch.equal(images[:, 0, 0, 0], expected.float() / 255 * 2 - 1)
    else:
        assert torch.equal(images[:, 2, 1, 1], expected)
    assert images.shape == (24, 3, 2, 2)
    assert len({bytes(each.tolist()) for each in hashes}) == 24


def test_several_threads_decode_and_a_second_start_none() -> None:
    made = Made(200)
    first = decoding.decoded(made, kind="a", parameters="p", fit=rounded)
    assert len(made.threads - {threading.current_thread().name}) == WORKERS
    made.decoded.clear()
    second = decoding.decoded(made, kind="a", parameters="p", fit=rounded)
    assert not made.decoded
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_bounded_number_of_images_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slow is to write them down."""
    monkeypatch.setattr(decoding, "_AT_A_TIME", 1)
    made = Made(60)
    ahead: list[int] = []
    taken = 0
    for part, _ in decoding._fitted(made, rounded):
        time.sleep(0.003)
        taken += len(part)
        ahead.append(len(made.decoded) - taken)
    assert taken == 60
    assert max(ahead) <= 2 * WORKERS + 1


def test_of_large_images_a_thread_has_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_BYTES", 24)
    assert [len(part) for part, _ in decoding._fitted(Made(5), rounded)] == [1, 2, 2]


def test_the_error_is_of_the_first_broken_image_and_the_rest_is_left() -> None:
    made = Made(3000, broken=frozenset({400, 401, 700}))
    with pytest.raises(DataError, match="image 400 is broken"):
        decoding.decoded(made, kind="a", parameters="p", fit=rounded)
    assert len(made.decoded) < 1000
    assert not any(thread.name.startswith("decoding") for thread in threading.enumerate())


def test_warnings_are_as_before_once_all_threads_are_through() -> None:
    """Each by itself, the one that comes second and leaves last would put back what the first one had set."""
    before = list(warnings.filters)
    both, left = threading.Barrier(2, timeout=30), threading.Event()

    def early() -> None:
        with image_files.QUIET:
            both.wait()
            both.wait()
        left.set()

    def late() -> None:
        both.wait()
        with image_files.QUIET:
            both.wait()
            left.wait(30)

    threads = [threading.Thread(target=each) for each in (early, late)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
