"""The class posterior: Bayes' rule over log p(x | y)."""

from __future__ import annotations

import torch
from torch import Tensor

from cpcnn_core.data import to_model
from cpcnn_core.likelihood import log_prob
from cpcnn_core.model import ConditionalPixelCNN


@torch.inference_mode()
def class_log_likelihoods(model: ConditionalPixelCNN, images: Tensor, *, batch_size: int) -> Tensor:
    """Log p(x | y) in nats for every image and class: images (N, C, H, W) -> (N, Y) float64 on the CPU.

    `batch_size` counts images per forward pass, each under all classes at once.
    """
    device = next(model.parameters()).device
    Y = model.nr_classes
    was_training = model.training
    model.eval()
    rows = []
    for chunk in images.split(max(1, batch_size // Y)):
        x = to_model(chunk.to(device)).repeat_interleave(Y, dim=0)
        labels = torch.arange(Y, device=device).repeat(len(chunk))
        params = model(x, labels)
        rows.append(log_prob(x, params, n_mix=model.config.nr_logistic_mix).view(-1, Y).cpu().double())
    model.train(was_training)
    return torch.cat(rows)


def log_posterior(log_likelihood: Tensor, log_prior: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log p(y | x) from log p(x | y) (N, Y) and log p(y) (Y,); `temperature` divides the log-likelihoods."""
    joint = log_likelihood / temperature + log_prior
    return joint - torch.logsumexp(joint, dim=1, keepdim=True)


def predict(log_likelihood: Tensor, log_prior: Tensor) -> Tensor:
    """Argmax over classes of log p(x | y) + log p(y): (N, Y) -> (N,)."""
    return (log_likelihood + log_prior).argmax(dim=1)
