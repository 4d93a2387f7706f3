"""Images decoded, hashed and fitted by several threads, and written as they come to one file, which processes map."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcnn_core import cache, image_files, progress

if TYPE_CHECKING:
    from cpcnn_core.data.pool import Images

_AT_A_TIME = 32  # images of a thread; small ones are decoded in less time than it takes to hand them over
_BYTES = 2**23  # of fitted images that wait, by thread

Fit = Callable[[NDArray[np.uint8]], Tensor]
"""A source image as it is kept, (C, h, w): uint8 on the 256 levels, or float32 in [-1, 1] off them."""


def decoded(images: Images, *, kind: str, parameters: str, fit: Fit) -> tuple[Tensor, Tensor]:
    """The images as they are kept (N, C, H, W), in order, and the SHA-256 of each source image (N, 32) uint8.

    They are float32 where one of them is. `parameters` says in words what `fit` does. Decoded once per machine: as long
    as the stamps are the same, what was kept serves. Neither the sources nor the result need fit in memory.
    """
    found = cache.rows(
        kind, cache.digest([parameters, *images.stamps()]), lambda rows: {"hashes": _write(rows, images, fit)}
    )
    return found[cache.ROWS], found["hashes"]


def _write(rows: cache.Rows, images: Images, fit: Fit) -> Tensor:
    """Write the fitted images; return the hashes."""
    hashes: list[bytes] = []
    unrounded = False
    with image_files.QUIET, progress.shown("decoding images", len(images)) as advance:
        for fitted, of_them in _fitted(images, fit):
            if fitted.dtype == torch.float32 and not unrounded:
                unrounded = True
                rows.change(_unrounded)
            rows.append(_unrounded(fitted) if unrounded else fitted)
            hashes += of_them
            advance(len(hashes))
    return torch.frombuffer(bytearray(b"".join(hashes)), dtype=torch.uint8).reshape(-1, 32)


def _fitted(images: Images, fit: Fit) -> Iterator[tuple[Tensor, list[bytes]]]:
    """Fitted images and hashes of the sources, some at a time, in order. What is kept of them decides how many."""
    first = _some(images, fit, range(1))
    yield first
    at_a_time = max(1, min(_AT_A_TIME, _BYTES // first[0].nbytes))
    parts = (range(start, min(start + at_a_time, len(images))) for start in range(1, len(images), at_a_time))
    yield from _in_order(lambda part: _some(images, fit, part), parts)


def _in_order(
    work: Callable[[range], tuple[Tensor, list[bytes]]], parts: Iterable[range]
) -> Iterator[tuple[Tensor, list[bytes]]]:
    """Results of `work` in the order of `parts`, with a bounded number of them in memory.

    By threads: Pillow, hashlib and torch let others run while they work. Processes would import torch anew, and start a
    user's own script anew that has no `if __name__ == "__main__"`.
    """
    import joblib  # takes a moment, and who finds the images decoded does without

    workers = joblib.cpu_count()
    waiting: deque[Future[tuple[Tensor, list[bytes]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decoding")
    try:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _some(images: Images, fit: Fit, part: range) -> tuple[Tensor, list[bytes]]:
    fitted, hashes = [], []
    for index in part:
        pixels = images.decode(index)
        hashes.append(_hash(pixels))
        fitted.append(fit(pixels))
    if len({each.dtype for each in fitted}) > 1:
        fitted = [_unrounded(each) for each in fitted]
    return torch.stack(fitted), hashes


def _unrounded(images: Tensor) -> Tensor:
    """To float32 in [-1, 1], by the same arithmetic as images that were resized."""
    return images.float() / 255 * 2 - 1 if images.dtype == torch.uint8 else images


def _hash(pixels: NDArray[np.uint8]) -> bytes:
    state = hashlib.sha256(f"{pixels.shape}".encode())
    state.update(np.ascontiguousarray(pixels).data)
    return state.digest()
