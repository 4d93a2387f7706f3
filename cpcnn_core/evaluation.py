"""Evaluation: what a model says of every image of a labelled split, from which each metric follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cpcnn_core.class_names import of_classes
from cpcnn_core.classify import log_posterior, predict
from cpcnn_core.likelihood import bits_per_dim

ECE_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """What a model says of every image of a labelled split; a metric needs nothing of the model besides."""

    names: tuple[str, ...]
    labels: Tensor  # (N,) int64
    log_likelihood: Tensor  # (N, Y) float64, nats
    log_prior: Tensor  # (Y,) float64
    image_shape: tuple[int, int, int]

    @cached_property
    def predictions(self) -> Tensor:
        """(N,) the likeliest class."""
        return predict(self.log_likelihood, self.log_prior)

    @cached_property
    def bpd(self) -> float:
        """Mean bits per sub-pixel under the true class."""
        true = self.log_likelihood.gather(1, self.labels[:, None])[:, 0]
        return bits_per_dim(true, self.image_shape).mean().item()

    @cached_property
    def accuracy(self) -> float:
        """Share of images whose likeliest class is the true one."""
        return (self.predictions == self.labels).double().mean().item()

    @cached_property
    def confusion(self) -> Tensor:
        """(Y, Y) int64: rows are true classes, columns predicted ones."""
        Y = self.log_likelihood.shape[1]
        return torch.bincount(self.labels * Y + self.predictions, minlength=Y * Y).view(Y, Y)

    @cached_property
    def per_class_accuracy(self) -> tuple[float | None, ...]:
        """Recall of each class; None for a class without images."""
        hits, counts = self.confusion.diagonal().tolist(), self.confusion.sum(dim=1).tolist()
        return tuple(hit / count if count else None for hit, count in zip(hits, counts, strict=True))

    def class_accuracies(self, class_names: tuple[str, ...]) -> dict[str, float]:
        """`per_class_accuracy` as metrics `val_acc.NAME`, of the classes that have images; none of very many."""
        return of_classes("val_acc", zip(class_names, self.per_class_accuracy, strict=True), len(class_names))

    @cached_property
    def macro_f1(self) -> float:
        """Mean over classes of 2 TP / (2 TP + FP + FN); a class neither present nor predicted counts 0."""
        true_positive = self.confusion.diagonal().double()
        total = (self.confusion.sum(dim=0) + self.confusion.sum(dim=1)).double()
        return (2 * true_positive / total.clamp(min=1)).mean().item()

    def posterior(self, temperature: float = 1.0) -> Tensor:
        """p(y | x), (N, Y)."""
        return log_posterior(self.log_likelihood, self.log_prior, temperature=temperature).exp()

    def class_nll(self, temperature: float = 1.0) -> float:
        """Mean of -log p(true class | x), nats."""
        log_p = log_posterior(self.log_likelihood, self.log_prior, temperature=temperature)
        return -log_p.gather(1, self.labels[:, None]).mean().item()

    @cached_property
    def temperature(self) -> float:
        """The temperature that minimises `class_nll` (Guo et al. 2017); likelihoods of images are overconfident."""
        from scipy.optimize import minimize_scalar  # most of a second, which who reads results does without

        found = minimize_scalar(
            lambda log_t: self.class_nll(math.exp(log_t)), bounds=(math.log(1e-2), math.log(1e4)), method="bounded"
        )
        return math.exp(found.x)

    def ece(self, temperature: float = 1.0) -> float:
        """Expected calibration error of the predicted class over 15 equal-width bins (Naeini et al. 2015)."""
        confidence, predicted = self.posterior(temperature).max(dim=1)
        correct = (predicted == self.labels).double()
        index = (confidence * ECE_BINS).long().clamp(max=ECE_BINS - 1)
        gap = torch.zeros(ECE_BINS, dtype=torch.float64).index_add_(0, index, correct - confidence)
        return gap.abs().sum().item() / len(self.labels)
