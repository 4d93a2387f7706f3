"""One optimizer step: gradient of a global batch, clipping, optimizer, average of the weights, sums of an epoch.

All of it lies on the device in memory that stays, numbers that change from step to step too (the batch, the learning
rate, the average's rate, how many images there are). So a step is the same work each time, and may be captured once and
replayed (`graphs.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from cpcnn_core.batches import Batch
from cpcnn_core.diagnostics import StageNorms
from cpcnn_core.layers import Normed
from cpcnn_core.loss import Loss
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.optim import Average

if TYPE_CHECKING:
    from accelerate import Accelerator


class Sums(NamedTuple):
    """Sums over the images of an epoch so far, on the device."""

    objective: Tensor  # the loss; a training state on disk has it under this name
    bpd: Tensor
    grad_norm: Tensor  # the largest, not a sum
    stage_norms: Tensor  # (S,): the largest of each stage

    @classmethod
    def zero(cls, device: torch.device, stages: int) -> Sums:
        return cls(*(torch.zeros(shape, device=device) for shape in ((), (), (), (stages,))))

    def taken(self) -> Sums:
        """What they were; from now on they are sums of nothing, in the same memory."""
        were = Sums(*(total.clone() for total in self))
        for total in self:
            total.zero_()
        return were


Snapshot = dict[str, list[Tensor]]
"""What `Step.lasting` gives, as it was before a step, in the CPU's memory: a GPU's may be short."""


class Step:
    """What an optimizer step does to a network, its optimizer, the average of its weights and the sums of an epoch."""

    def __init__(
        self,
        model: ConditionalPixelCNN,
        optimizer: torch.optim.Optimizer,
        ema: Average | None,
        *,
        grad_clip: float | None,
        accelerator: Accelerator,
        device: torch.device,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.ema = ema
        self.grad_norms = StageNorms(model.named_parameters())
        self.sums = Sums.zero(device, len(self.grad_norms.stages))
        # The norm of the last gradient before clipping; NaN where the loss is not finite.
        self.norm = torch.zeros((), device=device)
        self.loss, self.bpd = torch.zeros((), device=device), torch.zeros((), device=device)  # sums over its images
        self._parameters = list(model.parameters())
        self._grad_clip = grad_clip
        self._accelerator = accelerator
        self._world = accelerator.num_processes
        self._scale = torch.ones((), device=device)  # of a sum over images, to be the mean
        self._batch: Batch | None = None
        self.replicated: nn.Module | None = None  # the loss, of which several processes have a copy each
        self.objective: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None  # the same, compiled perhaps

    def load(self, batch: Batch, images: int) -> None:
        """Make `batch`, of which `images` are no padding, the next step's."""
        if self._batch is None:
            self._batch = batch
        else:
            self._batch.take(batch)
        self._scale.fill_(self._world / images)  # replicas are averaged: make it a sum again

    def __call__(self, micro_batch: int) -> None:
        """Take a step with the batch that was loaded, `micro_batch` images at a time."""
        self.add_up(micro_batch)
        self.apply()

    def add_up(self, micro_batch: int) -> None:
        """Compute the gradient of the mean loss over the global batch, in micro-batches of this process's share."""
        assert self._batch is not None
        assert self.objective is not None
        assert self.replicated is not None
        self.forget_gradient()
        share = len(self._batch.labels) // self._world
        begin, end = self._accelerator.process_index * share, (self._accelerator.process_index + 1) * share
        self.loss.zero_()
        self.bpd.zero_()
        for start in range(begin, end, micro_batch):
            stop = min(start + micro_batch, end)
            wait = self._world > 1 and stop < end  # replicas exchange gradients once, with the last micro-batch
            with self._accelerator.no_sync(self.replicated) if wait else contextlib.nullcontext():
                total, loss_sum, bpd_sum = self.objective(*self.arguments(self._batch.part(start, stop)))
                self._accelerator.backward(total * self._scale)
            self.loss += loss_sum
            self.bpd += bpd_sum

    def arguments(self, part: Batch) -> tuple[Tensor | list[Tensor] | None, ...]:
        """What the loss is called with for a part of a batch."""
        masks = None if part.masks is None else self.model.masks_of(part.masks)
        return (part.images, part.labels, part.withheld, part.weights, masks, part.others)

    @torch.no_grad()
    def apply(self) -> None:
        """Clip the gradient, take the optimizer's step, and enter both into average and sums."""
        norm, of_stages = self.grad_norms()
        if self._grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self._grad_clip, norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.take_in(self.model)
        self.sums.objective.add_(self.loss)
        self.sums.bpd.add_(self.bpd)
        torch.maximum(self.sums.grad_norm, norm, out=self.sums.grad_norm)
        torch.maximum(self.sums.stage_norms, of_stages, out=self.sums.stage_norms)
        # An infinite loss may have a finite gradient. Times zero it is NaN, and a finite one changes nothing; looking
        # at it here would wait for the device.
        self.norm.copy_(norm + 0.0 * (self.loss + self.bpd))

    def gradients(self) -> list[Tensor]:
        """The last gradient's tensors, clipped once it was applied. A step that is replayed writes into its own."""
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def forget_gradient(self) -> None:
        """Let go of the gradient's memory; the next one gets memory of its own, which a captured step then keeps."""
        self.optimizer.zero_grad(set_to_none=True)

    def gradient_of_bpd(self, loss: Loss, images: int, *, bf16: bool) -> Tensor:
        """The gradient of bpd alone, summed over the first images of this process's share: one vector, on the CPU."""
        assert self._batch is not None
        begin = self._accelerator.process_index * (len(self._batch.labels) // self._world)
        arguments = self.arguments(self._batch.part(begin, begin + images))
        used = [parameter for parameter in self._parameters if parameter.requires_grad]
        was = loss.bf16, loss.class_weight
        loss.bf16, loss.class_weight = bf16, 0.0
        try:
            total, _, _ = loss(*arguments)
            gradient: tuple[Tensor | None, ...] = torch.autograd.grad(total, used, allow_unused=True)
        finally:
            loss.bf16, loss.class_weight = was
        return torch.cat([part.flatten().cpu() for part in gradient if part is not None])

    @torch.no_grad()
    def round_weights(self, precision: torch.dtype) -> None:
        """Have the weights keep what `precision` keeps of them."""
        for parameter in self._parameters:
            parameter.copy_(parameter.to(precision))

    @torch.no_grad()
    def scale_weights(self, factor: float) -> None:
        """Multiply the scales and the biases of all convolutions, that is, what each of them adds."""
        for module in self.model.modules():
            if isinstance(module, Normed):
                for name in ("parametrizations.weight.original0", "bias"):
                    module.conv.get_parameter(name).mul_(factor)

    def lasting(self) -> dict[str, list[Tensor]]:
        """What a step changes and what outlives it, by what it is; an optimizer's moments begin with its first step."""
        parts: dict[str, list[Tensor]] = {"weights": list(self._parameters), "sums": list(self.sums)}
        if self.ema is not None:
            parts["average"] = list(self.ema.module.parameters())
        for state in self.optimizer.state.values():
            for name, value in state.items():
                parts.setdefault(name, []).append(value)
        return parts

    def snapshot(self) -> Snapshot:
        """Copies of all that a step changes and that outlives it."""
        return {name: [value.detach().to("cpu", copy=True) for value in part] for name, part in self.lasting().items()}

    @torch.no_grad()
    def restore(self, before: Snapshot, *, whole: bool = True) -> None:
        """Make all as it was before, in the same memory: what was captured goes on with it.

        Moments that did not exist yet are zero, which is what they begin with. Where a step was not `whole`, because
        memory ended in the middle of it, some may be missing, and all of them begin anew.
        """
        if not whole and "step" not in before:
            self.optimizer.state.clear()
        for name, part in self.lasting().items():
            if name not in before:
                torch._foreach_zero_(part)
                continue
            for value, was in zip(part, before[name], strict=True):
                value.copy_(was)
