"""Small networks for the contract suites: every variant and some compositions, with a label that matters."""

from __future__ import annotations

import torch

from cpcnn_core.config import TrialConfig
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.model import ConditionalPixelCNN

COMPOSITIONS = (
    "input_concat+block_film+skip_add+head_add",
    "input_map+block_mild",
    "stem_add+block_concat+bottleneck_film",
    "input_concat+input_add+block_film+block_three_bias",
    "skip_add+bottleneck_map+head_add",
)
NAMES = (*FUSIONS, *COMPOSITIONS)
CONDITIONAL = tuple(name for name in NAMES if name != "none")
NR_CLASSES = 3


def network(
    fusion: str,
    image_shape: tuple[int, int, int] = (3, 8, 8),
    *,
    seed: int = 0,
    settled: bool = True,
    **settings: object,
) -> ConditionalPixelCNN:
    """A network of 4 filters; `settled` moves every parameter from its initial value, which may be the identity."""
    config = TrialConfig.from_flat(
        {"model.fusion": fusion, "model.nr_filters": 4, "model.nr_logistic_mix": 2, "model.dropout": 0.0}
        | {f"model.{name}": value for name, value in settings.items()}
    )
    torch.manual_seed(seed)
    model = ConditionalPixelCNN(config.model, image_shape, NR_CLASSES).eval()
    if settled:
        settle(model)
    return model


@torch.no_grad()
def settle(model: ConditionalPixelCNN) -> None:
    """Add noise to all parameters, so that nothing holds only because something is zero."""
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))


def images(batch: int, image_shape: tuple[int, int, int] = (3, 8, 8), *, seed: int = 0) -> torch.Tensor:
    """Random images on the 8-bit grid, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, *image_shape), generator=generator) / 127.5 - 1
