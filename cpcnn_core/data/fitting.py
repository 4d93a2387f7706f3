"""Pixels as a model sees them: of the wanted size and number of channels, on the 256 levels or not."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

FORMAT = 3  # raise where decoding or resizing changes: what caches hold of earlier ones is made anew


def fit_source(rgb: NDArray[np.uint8], *, channels: int, size: tuple[int, int], quantize: bool) -> Tensor:
    """A source image (H, W, 3) as it is kept, (C, *size): uint8 on the 256 levels, or float32 in [-1, 1] off them.

    One that needs no resizing lies on the levels as it is, so that there `quantize` changes nothing.
    """
    if rgb.shape[:2] == size:
        return _in_channels(rgb, channels)
    fitted = fit(as_floats(rgb, channels)[None], channels=channels, size=size)[0]
    return on_grid(fitted) if quantize else fitted * 2 - 1


def is_grey(rgb: NDArray[np.uint8]) -> bool:
    """Whether an image (H, W, 3) has no colour, however its file stores it."""
    return bool((rgb == rgb[..., :1]).all())


def as_floats(rgb: NDArray[np.uint8], channels: int) -> Tensor:
    """(H, W, 3) as (C, H, W) in [0, 1]; one channel is the luma of ITU-R 601, of a grey image its own."""
    return _in_channels(rgb, channels).float() / 255


def fit(images: Tensor, *, channels: int, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) in [0, 1] at the wanted height and width, unrounded.

    Antialiased bilinear on floats is what torchvision's `Resize` does to the tensors of the starter code.
    """
    if tuple(images.shape[-2:]) != size:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    return images.expand(-1, channels, -1, -1).contiguous()


def on_grid(images: Tensor) -> Tensor:
    """Values in [0, 1] as the nearest of the 256 levels."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _in_channels(rgb: NDArray[np.uint8], channels: int) -> Tensor:
    pixels = np.array(rgb if channels == 3 else Image.fromarray(rgb).convert("L"))
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], channels).permute(2, 0, 1).contiguous()
