"""What tells that a network is about to blow up: its activations, its gates, its gradients, and saturated samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cpcnn_core.class_names import DISTANCE, MOST_PAIRED, of_pair
from cpcnn_core.layers import Gate, GatedBlock
from cpcnn_core.model import ConditionalPixelCNN

CLOSED, OPEN = 0.01, 0.99  # beyond these a gate hardly moves any more


@dataclass(frozen=True)
class Activations:
    """What a network's gated blocks did on some images."""

    largest: float  # absolute value that a block gave
    gate_saturation: float  # share of the gates that are closed or open as good as wholly


@torch.no_grad()
def activations(model: ConditionalPixelCNN, x: Tensor, labels: Tensor) -> Activations:
    """Look at all gated blocks while images x (B, C, H, W) in [-1, 1] with labels (B,) go through, without dropout."""
    largest: list[Tensor] = []
    saturated: list[Tensor] = []
    sizes: list[int] = []

    def see_output(_block: nn.Module, _inputs: object, out: Tensor) -> None:
        largest.append(out.abs().amax().float())

    def see_gate(_gate: nn.Module, inputs: tuple[Tensor], _out: Tensor) -> None:
        opened = inputs[0].chunk(2, dim=1)[1].sigmoid()
        saturated.append(((opened < CLOSED) | (opened > OPEN)).sum())
        sizes.append(opened.numel())

    handles = [module.register_forward_hook(see_output) for module in model.modules() if isinstance(module, GatedBlock)]
    handles += [module.register_forward_hook(see_gate) for module in model.modules() if isinstance(module, Gate)]
    try:
        model(x, labels)
    finally:
        for handle in handles:
            handle.remove()
    return Activations(torch.stack(largest).max().item(), torch.stack(saturated).sum().item() / sum(sizes))


def saturation(pixels: Tensor) -> float:
    """The share of uint8 sub-pixels that are black or white to the last level."""
    return ((pixels == 0) | (pixels == 255)).float().mean().item()


@torch.no_grad()
def class_distances(model: ConditionalPixelCNN) -> dict[str, float]:
    """How differently the network treats the classes: `class_distance.A.B`, and the least and the mean of them.

    The root mean square of the differences between what the fusion does for A and for B, over all that it does. It is
    0 where a model cannot tell two classes, whatever their encodings. Of more than MOST_PAIRED classes only the least
    and the mean are given, and nothing of a network that no label enters. A and B are the numbers of the classes.
    """
    count = model.nr_classes
    conditioning = model.condition(torch.arange(count, device=model.nin_out.conv.bias.device))
    parts = [part for m in conditioning.values() for part in (m.scale, m.shift, m.extra) if part is not None]
    if not parts or count < 2:
        return {}
    effect = torch.cat([part.flatten(1) for part in parts], dim=1).float()
    distances = torch.cdist(effect, effect, compute_mode="donot_use_mm_for_euclid_dist") / effect.shape[1] ** 0.5
    first, second = torch.triu_indices(count, count, offset=1, device=distances.device)
    of_pairs = distances[first, second].cpu().double()  # a thousand classes have half a million
    found = {f"{DISTANCE}.min": of_pairs.min().item(), f"{DISTANCE}.mean": of_pairs.mean().item()}
    if count <= MOST_PAIRED:
        pairs = zip(first.tolist(), second.tolist(), of_pairs.tolist(), strict=True)
        found |= {of_pair(one, other): distance for one, other, distance in pairs}
    return found


def stage_of(parameter: str) -> str:
    """The stage of the network that a parameter, by its name, belongs to: `up.0`, `label`, ..."""
    first, second, *_ = [*parameter.split("."), ""]
    if first in {"up_u", "up_ul", "down_u", "down_ul"}:
        return f"{first.partition('_')[0]}.{second}"
    return {"u_init": "stem", "ul_init": "stem", "nin_out": "head", "fusion": "label", "label": "label"}.get(
        first, "resampling"
    )


class StageNorms:
    """Gradient norms, of the whole network and of each of its stages, in a few operations on the device."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._parameters = list(parameters)
        self.stages: Sequence[str] = tuple(dict.fromkeys(stage_of(name) for name, _ in self._parameters))
        self._members: Tensor | None = None  # (stages, parameters that have a gradient)
        self._count = -1

    def __call__(self) -> tuple[Tensor, Tensor]:
        """The norm of all gradients, a scalar, and of those of each of `stages`, (S,)."""
        there = [(name, parameter.grad) for name, parameter in self._parameters if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm([grad for _, grad in there]))
        if self._members is None or self._count != len(there):
            self._count = len(there)
            of_each = [self.stages.index(stage_of(name)) for name, _ in there]
            one_hot = nn.functional.one_hot(torch.tensor(of_each), len(self.stages)).T
            self._members = one_hot.to(norms)
        return torch.linalg.vector_norm(norms), (self._members @ norms.square()).sqrt()
