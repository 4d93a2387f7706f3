"""Pixels as a model sees them: of the wanted size and number of channels, on the 256 levels or not."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

FORMAT = 3  # raise where decoding or resizing changes: what caches hold of earlier ones is made anew


def as_floats(rgb: NDArray[np.uint8], channels: int) -> Tensor:
    """(H, W, 3) as (C, H, W) in [0, 1]; one channel is the luma of ITU-R 601, of a grey image its own."""
    pixels = rgb if channels == 3 else np.array(Image.fromarray(rgb).convert("L"))
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], channels).permute(2, 0, 1).float() / 255


def fit(images: Tensor, *, channels: int, size: int) -> Tensor:
    """(N, C, H, W) in [0, 1] at the wanted size, unrounded.

    Antialiased bilinear on floats is what torchvision's `Resize` does to the tensors of the starter code.
    """
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.expand(-1, channels, -1, -1).contiguous()


def on_grid(images: Tensor) -> Tensor:
    """Values in [0, 1] as the nearest of the 256 levels."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
