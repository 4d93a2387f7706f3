"""Images decoded, hashed and fitted once per machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcnn_core import cache
from cpcnn_core.data.pool import Images

Fit = Callable[[NDArray[np.uint8]], Tensor]
"""A source image as it is kept, (C, h, w): uint8 on the 256 levels, or float32 in [-1, 1] off them."""


def decoded(images: Images, *, kind: str, parameters: str, fit: Fit) -> tuple[Tensor, Tensor]:
    """The images as they are kept (N, C, h, w), in order, and the SHA-256 of each source image (N, 32) uint8.

    They are float32 where one of them is. `parameters` says in words what `fit` does. Decoded once per machine: as long
    as the stamps are the same, what was kept serves.
    """

    def make() -> dict[str, Tensor]:
        fitted, hashes = [], []
        for index in range(len(images)):  # one after another: sources may be much larger than what they are fitted to
            pixels = images.decode(index)
            hashes.append(_hash(pixels))
            fitted.append(fit(pixels))
        if any(image.dtype == torch.float32 for image in fitted):
            fitted = [image if image.dtype == torch.float32 else image.float() / 255 * 2 - 1 for image in fitted]
        return {"images": torch.stack(fitted), "hashes": torch.stack(hashes)}

    found = cache.tensors(kind, cache.digest([parameters, *images.stamps()]), make)
    return found["images"], found["hashes"]


def _hash(pixels: NDArray[np.uint8]) -> Tensor:
    digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)
