"""Evaluating a checkpoint: log p(x | y) of every image under every class."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from cpcnn_core import seeds
from cpcnn_core.classify import class_log_likelihoods, with_close_calls_settled
from cpcnn_core.data import Split
from cpcnn_core.errors import LikelihoodError
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.graphs import Capture
from cpcnn_core.metrics import LEAST_BPD
from cpcnn_core.model import ConditionalPixelCNN

if TYPE_CHECKING:
    from accelerate import Accelerator


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


def scored(split: Split, most: int | None) -> Split:
    """The images of a labelled split that are scored: all, or `most` of them (`eval.max_images`), in their order.

    Which ones follows from the split's labels and their order alone, whatever trained the network, and fewer are among
    more. Both are part of the data's digest; what files are called is not.
    Every class has its share, and at least one image as long as there are so many.
    """
    if most is None or most >= len(split):
        return split
    return split.take(sorted(_by_share(split)[:most]))


def _by_share(split: Split) -> list[int]:
    """The images in an order whose every beginning has each class in its share of the split.

    First one image of each class, of the largest first. The r-th of n images of a class comes at (r - 1/2) / n of the
    way. Within a class they are in the order of a hash of their places, which knows nothing of what they show.
    """
    of_class: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for index, label in enumerate(split.labels.tolist()):
        of_class[label].append((hashlib.sha256(str(index).encode()).hexdigest(), index))
    placed = [
        (rank > 0, (rank + 0.5) / len(images), digest, index)
        for images in of_class.values()
        for rank, (digest, index) in enumerate(sorted(images))
    ]
    return [index for *_, index in sorted(placed)]


def log_likelihoods(
    model: ConditionalPixelCNN,
    images: Tensor,
    log_prior: Tensor,
    *,
    batch_size: int,
    bf16: bool = False,
    accelerator: Accelerator | None = None,
    on_images: Callable[[int, int], None] | None = None,
    capture: Capture | None = None,
) -> Tensor:
    """Log p(x | y), (N, Y), as `class_log_likelihoods` gives it; with several processes each takes its share of images.

    With `bf16`, close calls under `log_prior` (Y,) are computed again in float32, the same ones however many processes
    there are and whatever the batch size; memory is then float32's. `on_images` hears (images done, images in all) of
    this process's share, the last of it once more whenever some were computed again. `capture` is
    `class_log_likelihoods`'s.

    Raise LikelihoodError where a value is not finite: an argmax over it, or a mean, would look like a result.
    """
    world, rank = (1, 0) if accelerator is None else (accelerator.num_processes, accelerator.process_index)
    all_mine = math.ceil(len(images) / world)

    def table(images: Tensor, bf16: bool, on_images: Callable[[int, int], None] | None) -> Tensor:
        run = partial(
            class_log_likelihoods, model, batch_size=batch_size, bf16=bf16, on_images=on_images, capture=capture
        )
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
    capture: Capture | None = None,
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
        capture=capture,
    )
    found = Evaluation(split.names, split.labels.cpu(), table, log_prior, model.image_shape)
    if found.bpd < LEAST_BPD:
        raise LikelihoodError(f"bpd is {found.bpd:g}, as if every pixel of every image were certain")
    return found
