"""Optimizers, learning-rate schedules and the exponential moving average of the weights, as a config names them."""

from __future__ import annotations

import inspect
import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from cpcnn_core import devices

if TYPE_CHECKING:
    from cpcnn_core.config import TrainConfig


def build_optimizer(config: TrainConfig, model: nn.Module, image_shape: tuple[int, int, int]) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters; weight decay spares what is no matrix or filter (biases, weight norm's g).

    But for eps, Adam's update does not depend on the gradient's scale. The loss here is a mean of bits per sub-pixel
    over the batch of images (C, H, W), in starter code and papers a sum of nats; eps is scaled as the gradient is.

    The update of them all is one call (on a GPU a few kernels), where by default it is hundreds in every step: up to a
    seventh of a small network's step on a CPU.
    """
    betas = (config.beta1, config.beta2)
    eps = config.adam_eps / (config.batch_size * math.prod(image_shape) * math.log(2.0))
    if config.optimizer == "adam":
        return uncompiled(torch.optim.Adam)(model.parameters(), lr=config.lr, betas=betas, eps=eps, fused=True)
    directions = [p for p in model.parameters() if _is_matrix(p)]
    others = [p for p in model.parameters() if not _is_matrix(p)]
    groups = [{"params": directions, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return uncompiled(torch.optim.AdamW)(groups, lr=config.lr, betas=betas, eps=eps, fused=True)


@cache
def uncompiled(kind: type[torch.optim.Adam]) -> type[torch.optim.Adam]:
    """The optimizer without torch's wrappers that keep its compiler out of it, which nobody here asks in.

    They import the compiler, compiled or not: of a trial's process that was a third of the time until its first step.
    Its state can be saved; it cannot be pickled itself.
    """
    wrapped = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and parameter[0].numel() > 1


def lr_factor(config: TrainConfig, step: int, steps_per_epoch: int, before: tuple[int, int] = (0, 0)) -> float:
    """What `lr` is multiplied by at a 0-based step. Defined in epochs, so that curves of equal epochs compare.

    `before` are the epochs and steps of the trial that this one continues, whose epochs may have had other numbers of
    steps. An exponential decay counts the steps that were really taken.
    """
    epochs_before, steps_before = before
    at = epochs_before * steps_per_epoch + step - steps_before
    warmup = config.warmup_epochs * steps_per_epoch
    if at < warmup:
        return (at + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "exponential":
        return max(config.lr_floor, math.pow(config.lr_gamma, max(0.0, step - warmup)))
    total = config.epochs * steps_per_epoch
    done = min(1.0, (at - warmup) / max(1.0, total - warmup))
    if config.schedule == "linear":
        return config.lr_floor + (1 - config.lr_floor) * (1 - done)
    return config.lr_floor + (1 - config.lr_floor) * 0.5 * (1 + math.cos(math.pi * done))


def build_scheduler(
    config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int, before: tuple[int, int] = (0, 0)
) -> LambdaLR:
    """The schedule as a scheduler that is stepped once per optimizer step; `before` as in `lr_factor`.

    From here on the optimizer reads its learning rate from a tensor, where its parameters lie: a step that was captured
    goes on with the rate of the day. The scheduler's own numbers stay Python's.
    """
    scheduler = LambdaLR(optimizer, lambda step: lr_factor(config, step, steps_per_epoch, before))
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
        group["capturable"] = devices.captures(device)  # torch asks for it, though a fused step is so anyway
    return scheduler


def set_lr(group: dict[str, Any], lr: float | Tensor) -> None:
    """Set the learning rate of one of the optimizer's groups of parameters, in the tensor that steps read."""
    group["lr"].fill_(lr)


class Average(AveragedModel):
    """An average of the weights that forgets with `decay` per step, faster at first so that early epochs count.

    torch's own update hands the number of updates over by way of the weights' device and waits for it there. Here the
    number stays on the CPU, and what follows from it lies on the device before a step begins.
    """

    rate: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.register_buffer("rate", torch.ones((), device=next(model.parameters()).device), persistent=False)

    def prepare(self) -> None:
        """Set the rate at which the next step's weights enter."""
        n = int(self.n_averaged)  # a buffer that stays on the CPU
        self.rate.fill_(1 - (min(self.decay, (1 + n) / (10 + n)) if n else 0.0))

    @torch.no_grad()
    def take_in(self, model: nn.Module) -> None:
        """Let the weights after one more step enter; work for the device alone."""
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        towards = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(list(towards), self.rate)
        torch._foreach_add_(averages, list(towards))

    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after one more step."""
        self.prepare()
        self.take_in(model)
        self.n_averaged += 1
