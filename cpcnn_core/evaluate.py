"""All metrics of one checkpoint, derived from log p(x | y) of every image under every class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from cpcnn_core import seeds
from cpcnn_core.classify import class_log_likelihoods, log_posterior, predict, with_close_calls_settled
from cpcnn_core.data import Split
from cpcnn_core.errors import LikelihoodError
from cpcnn_core.likelihood import bits_per_dim
from cpcnn_core.metrics import LEAST_BPD
from cpcnn_core.model import ConditionalPixelCNN

if TYPE_CHECKING:
    from accelerate import Accelerator

ECE_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """What a model says of every image of a labelled split; each metric follows from it without the model."""

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
        """`per_class_accuracy` as metrics `val_acc.NAME`, of the classes that have images."""
        pairs = zip(class_names, self.per_class_accuracy, strict=True)
        return {f"val_acc.{name}": value for name, value in pairs if value is not None}

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

    def metrics(self) -> dict[str, float]:
        """The validation metrics of an EpochMetrics, by their names there."""
        return {
            "val_bpd": self.bpd,
            "val_acc": self.accuracy,
            "val_f1": self.macro_f1,
            "val_class_nll": self.class_nll(),
            "val_ece": self.ece(),
            "val_temperature": self.temperature,
            "val_ece_calibrated": self.ece(self.temperature),
        }


def log_prior(prior: Literal["uniform", "empirical"], train_labels: Tensor, nr_classes: int) -> Tensor:
    """Log p(y), (Y,) float64: uniform, or the training split's frequencies with one image added to each class."""
    if prior == "uniform":
        return torch.full((nr_classes,), -math.log(nr_classes), dtype=torch.float64)
    counts = torch.bincount(train_labels, minlength=nr_classes).double() + 1
    return (counts / counts.sum()).log()


def fixed_subset(split: Split, count: int, seed: int) -> Split:
    """A random choice of `count` images that depends on the seed alone, or all where there are fewer."""
    order = torch.randperm(len(split), generator=seeds.generator(seed, seeds.Purpose.TRAIN_SUBSET))
    return split.take(sorted(order[:count].tolist()))


def log_likelihoods(
    model: ConditionalPixelCNN,
    images: Tensor,
    log_prior: Tensor,
    *,
    batch_size: int,
    bf16: bool = False,
    accelerator: Accelerator | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Log p(x | y), (N, Y), as `class_log_likelihoods` gives it; with several processes each takes its share of images.

    With `bf16`, close calls under `log_prior` (Y,) are computed again in float32, the same ones however many processes
    there are and whatever the batch size; memory is then float32's. `on_images` hears (images done, images in all) of
    this process's share, the last of it once more whenever some were computed again.

    Raise LikelihoodError where a value is not finite: an argmax over it, or a mean, would look like a result.
    """
    world, rank = (1, 0) if accelerator is None else (accelerator.num_processes, accelerator.process_index)
    all_mine = math.ceil(len(images) / world)

    def table(images: Tensor, bf16: bool, on_images: Callable[[int, int], None] | None) -> Tensor:
        run = partial(class_log_likelihoods, model, batch_size=batch_size, bf16=bf16, on_images=on_images)
        if accelerator is None or world == 1:
            return run(images)
        share = math.ceil(len(images) / world)
        # Each process needs the same number of rows to gather; the surplus ones are cut off again.
        mine = torch.arange(rank * share, (rank + 1) * share).clamp(max=len(images) - 1)
        local = run(images[mine.to(images.device)])
        rows: Tensor = accelerator.gather(local.to(accelerator.device))
        return rows[: len(images)].cpu()

    def exact(numbers: Tensor) -> Tensor:
        rows = table(images[numbers.to(images.device)], False, None)
        if on_images is not None:  # a sign of life
            on_images(all_mine, all_mine)
        return rows

    found = table(images, bf16, on_images)
    found = with_close_calls_settled(found, log_prior, exact) if bf16 else found
    broken = (~found.isfinite()).nonzero()
    if len(broken):
        image, label = broken[0].tolist()
        raise LikelihoodError(
            f"log p(image | class) is not finite for {len(broken[:, 0].unique())} of {len(images)} images; it is "
            f"{found[image, label].item()} for image {image + 1} under class {label}"
        )
    return found


def evaluate(
    model: ConditionalPixelCNN,
    split: Split,
    log_prior: Tensor,
    *,
    batch_size: int,
    bf16: bool = False,
    accelerator: Accelerator | None = None,
    on_images: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate every image of a labelled split, by `log_likelihoods`.

    Raise LikelihoodError where what comes out is no likelihood: a value is not finite, or an image costs no bits.
    """
    table = log_likelihoods(
        model,
        split.images,
        log_prior,
        batch_size=batch_size,
        bf16=bf16,
        accelerator=accelerator,
        on_images=on_images,
    )
    found = Evaluation(split.names, split.labels.cpu(), table, log_prior, model.image_shape)
    if found.bpd < LEAST_BPD:
        raise LikelihoodError(f"bpd is {found.bpd:g}, as if every pixel of every image were certain")
    return found
