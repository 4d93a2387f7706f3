"""Drawing images: the reference sampler, one full forward pass per pixel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cpcnn_core import likelihood
from cpcnn_core.data import to_uint8
from cpcnn_core.model import ConditionalPixelCNN

SMALLEST_UNIFORM = 1e-5  # as OpenAI's code: keeps the logistic's tails finite


def draw_noise(model: ConditionalPixelCNN, batch: int, generator: torch.Generator) -> Tensor:
    """Uniforms (H, W, B, K + C) for one batch of images, all the randomness that a sampler uses."""
    channels, height, width = model.image_shape
    size = (height, width, batch, model.config.nr_logistic_mix + channels)
    return torch.empty(size, device=generator.device).uniform_(
        SMALLEST_UNIFORM, 1 - SMALLEST_UNIFORM, generator=generator
    )


@torch.inference_mode()
def sample_reference(
    model: ConditionalPixelCNN,
    labels: Tensor,
    noise: Tensor,
    *,
    temperature: float = 1.0,
    on_row: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw one image per label (B,) with `noise` from `draw_noise` -> (B, C, H, W) uint8.

    A full forward pass for each of the H x W pixels: slow, and what every faster sampler is tested against. `on_row`
    is told (rows done, rows in all).
    """
    channels, height, width = model.image_shape
    x = torch.zeros(len(labels), channels, height, width, device=noise.device)
    was_training = model.training
    model.eval()
    for row in range(height):
        for column in range(width):
            params = model(x, labels)[:, :, row, column]
            x[:, :, row, column] = likelihood.sample(
                params,
                noise[row, column],
                channels=channels,
                n_mix=model.config.nr_logistic_mix,
                temperature=temperature,
            )
        if on_row is not None:
            on_row(row + 1, height)
    model.train(was_training)
    return to_uint8(x)
