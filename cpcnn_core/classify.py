"""The class posterior: Bayes' rule over log p(x | y)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from cpcnn_core.data import to_model
from cpcnn_core.likelihood import log_prob
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import whole_float32

CPU_PIXELS = 32 * 32 * 32
"""On a CPU, pixels per forward pass: larger tensors leave its caches, and each is memory fresh from the system."""


SURE = 1.5
"""In bf16, how many times the largest error found two classes must lie apart to be believed."""

SAMPLE = 16
"""The fewest images whose error is looked at, where there are so many."""


@torch.inference_mode()
@whole_float32()
def class_log_likelihoods(
    model: ConditionalPixelCNN,
    images: Tensor,
    *,
    batch_size: int,
    bf16: bool = False,
    log_prior: Tensor | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Log p(x | y) in nats for every image and class: images (N, C, H, W) -> (N, Y) float64 on the CPU.

    `batch_size` is the most images times classes per forward pass; on a CPU, which is faster with few, `CPU_PIXELS` is
    another limit. What does not depend on the class, with late fusions the larger part of the network, is computed once
    per image. `on_images` hears (images done, images in all).

    With `bf16` the network runs under autocast, the likelihood in float32 all the same. A trained network's errors are
    then some nats, its close calls no further apart: images whose two likeliest classes under `log_prior` (Y,), by
    default uniform, are not further apart than `SURE` times the largest error found so far are computed again in
    float32, the closest first. So predictions are those of float32, and the rows of the others are rounded.
    """
    Y = model.nr_classes
    if next(model.parameters()).device.type == "cpu":
        batch_size = min(batch_size, CPU_PIXELS // images.shape[2:].numel())
    at_once = max(1, batch_size // Y)
    was_training = model.training
    model.eval()
    rows: list[Tensor] = []
    done = 0
    with parametrize.cached():  # weight norm once, not once per batch
        for chunk in images.split(at_once):
            rows.append(_log_likelihoods(model, chunk, bf16=bf16))
            done += len(chunk)
            if on_images is not None:
                on_images(done, len(images))
        table = torch.cat(rows)
        if bf16 and Y > 1:
            _settle_close_calls(model, images, table, torch.zeros(Y) if log_prior is None else log_prior, at_once)
    model.train(was_training)
    return table


def _log_likelihoods(model: ConditionalPixelCNN, images: Tensor, *, bf16: bool) -> Tensor:
    """(N, Y) float64 on the CPU, by one forward pass."""
    device, Y = next(model.parameters()).device, model.nr_classes
    x = to_model(images.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        params = model(x, torch.arange(Y, device=device).repeat(len(images)))
    log_p = log_prob(x.repeat_interleave(Y, dim=0), params.float(), n_mix=model.config.nr_logistic_mix)
    return log_p.view(-1, Y).cpu().double()


def _settle_close_calls(
    model: ConditionalPixelCNN, images: Tensor, table: Tensor, log_prior: Tensor, at_once: int
) -> None:
    """Put float32's rows into the table (N, Y) of bf16 wherever its error might change the likeliest class."""
    first, second = (table + log_prior).topk(2, dim=1).values.unbind(dim=1)
    lead, order = (first - second).sort()
    error, compared = 0.0, 0
    for leads, chunk in zip(lead.split(at_once), order.split(at_once), strict=True):
        if compared >= SAMPLE and leads[0] >= SURE * error:
            break
        exact = _log_likelihoods(model, images[chunk.to(images.device)], bf16=False)
        off = table[chunk] - exact
        found = (off.amax(dim=1) - off.amin(dim=1)).max().item()  # of a difference of two classes
        error, compared = max(error, found), compared + len(chunk)
        table[chunk] = exact


def log_posterior(log_likelihood: Tensor, log_prior: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log p(y | x) from log p(x | y) (N, Y) and log p(y) (Y,); `temperature` divides the log-likelihoods."""
    joint = log_likelihood / temperature + log_prior
    return joint - torch.logsumexp(joint, dim=1, keepdim=True)


def predict(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """Argmax over classes of log p(x | y) + log p(y): (N, Y) -> (N,)."""
    return (log_likelihood + log_prior).argmax(dim=1)
