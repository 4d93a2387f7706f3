"""Augmentation on the device: flips and shifts of whole batches, from given random numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror left and right the images (B, C, H, W) for which `chosen` (B,) is True."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Move images (B, C, H, W) by whole pixels, `offsets` (B, 2) down and right; borders are repeated."""
    B, C, H, W = images.shape
    device = images.device
    rows = (torch.arange(H, device=device) - offsets[:, :1]).clamp(0, H - 1)
    columns = (torch.arange(W, device=device) - offsets[:, 1:]).clamp(0, W - 1)
    index = (rows[:, :, None] * W + columns[:, None, :]).view(B, 1, H * W).expand(-1, C, -1)
    return images.flatten(2).gather(2, index).view(B, C, H, W)
