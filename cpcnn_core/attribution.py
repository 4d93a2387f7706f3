"""Where in an image the evidence for a class lies: the likelihood ratio of two classes, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from cpcnn_core.data import to_model
from cpcnn_core.likelihood import log_prob_of_pixels
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import whole_float32

_PIXELS = 32 * 32 * 32  # per forward pass


@torch.inference_mode()
@whole_float32()
def log_ratio(model: ConditionalPixelCNN, images: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Log p(pixel | pixels before it, one) - log p(the same | other) in nats, (N, H, W) float64 on the CPU.

    `images` (N, C, H, W) with two classes each, (N,) and (N,). The likelihood of an image is the product of those of
    its pixels, so these numbers add up to log p(image | one) - log p(image | other). A pixel is above 0 where the
    network expected its value rather under the class `one`, given all that is above it and left of it.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    size = max(1, _PIXELS // (2 * images.shape[2] * images.shape[3]))
    parts: list[Tensor] = []
    for numbers in torch.arange(len(images)).split(size):
        x = to_model(images[numbers].to(device))
        labels = torch.stack([one[numbers], other[numbers]], dim=1).flatten().to(device)
        params = model(x, labels)
        terms = log_prob_of_pixels(x.repeat_interleave(2, dim=0), params.float(), n_mix=model.config.nr_logistic_mix)
        of_both = terms.cpu().double().unflatten(0, (-1, 2))  # not every device has float64
        parts.append(of_both[:, 0] - of_both[:, 1])
    model.train(was_training)
    return torch.cat(parts) if parts else torch.zeros(0, *images.shape[2:], dtype=torch.float64)
