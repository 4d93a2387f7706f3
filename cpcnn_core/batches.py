"""The batches that training steps take: gathered on the device, augmented, padded, with all of a step's randomness."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cpcnn_core import augment, seeds
from cpcnn_core.config import TrialConfig
from cpcnn_core.loss import drawn_others
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.seeds import Purpose


class Batch(NamedTuple):
    """A global batch, padded to its full size, with all the randomness of its step."""

    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,)
    withheld: Tensor  # (B,) bool: trained without the label
    weights: Tensor  # (B,): 1, and 0 for padding
    masks: Tensor | None  # (B, M): dropout, all gated blocks side by side
    others: Tensor | None  # (B, m): the classes beside the true one that the class loss sees; None is all

    def part(self, start: int, stop: int) -> Batch:
        """Images start to stop with what belongs to them."""
        return self._each(lambda tensor: tensor[start:stop])

    def padded(self, surplus: int) -> Batch:
        """The first image repeated `surplus` times with weight 0, so that the replicas' shares are equal."""

        def extended(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor[:1].expand(surplus, *tensor.shape[1:])])

        weights = torch.cat([self.weights, self.weights.new_zeros(surplus)])
        return self._each(extended)._replace(weights=weights)

    def take(self, other: Batch) -> None:
        """Become another batch of the same shape, in the same memory."""
        for mine, its in zip(self, other, strict=True):
            if mine is not None and its is not None:
                mine.copy_(its)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.images),
            change(self.labels),
            change(self.withheld),
            change(self.weights),
            None if self.masks is None else change(self.masks),
            None if self.others is None else change(self.others),
        )


class Batches:
    """The training images of a trial on its device, and what is drawn for each step."""

    def __init__(
        self, config: TrialConfig, images: Tensor, labels: Tensor, model: ConditionalPixelCNN, *, world: int
    ) -> None:
        self.images = images
        self.labels = labels
        self._config = config
        self._model = model
        self._world = world

    def draw(self, chosen: Tensor, step: int) -> Batch:
        """Gather and augment a global batch, drawing the randomness of all of it in every process alike."""
        train, device = self._config.train, self.images.device
        B = train.batch_size
        # A stream for each step: nothing of it has to be kept, or lost, between a kill and the resumption.
        noise = seeds.generator(self._config.seed, Purpose.STEP, step, device=device)
        padding = chosen[:1].expand(B - len(chosen))
        index = torch.cat([chosen, padding])
        images, labels = self.images[index], self.labels[index]
        if train.flip:
            images = augment.flip(images, torch.rand(B, generator=noise, device=device) < 0.5)
        if train.shift:
            limit = train.shift
            offsets = torch.randint(-limit, limit + 1, (B, 2), generator=noise, device=device)
            images = augment.shift(images, offsets)
        withheld = torch.zeros(B, dtype=torch.bool, device=device)
        if train.label_dropout > 0:
            withheld = torch.rand(B, generator=noise, device=device) < train.label_dropout
        weights = (torch.arange(B, device=device) < len(chosen)).float()
        masks = self._model.draw_masks(B, noise)
        others, classes = train.class_loss_others, self._model.nr_classes
        drawn = others is not None and others < classes - 1  # else all of them are seen
        seen = drawn_others(labels, classes, others, noise) if drawn and others is not None else None
        batch = Batch(images, labels, withheld, weights, masks, seen)
        surplus = -B % self._world
        return batch if surplus == 0 else batch.padded(surplus)
