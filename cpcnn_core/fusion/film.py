"""What the FiLM variants share (Perez et al. 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from cpcnn_core.fusion.base import Conditioning, FusionOptions, Modulation, Site, SiteFusion, key, per_channel


class FilmOptions(FusionOptions):
    """`hidden`: width of the MLP between label and (gamma, beta)."""

    hidden: int = Field(64, ge=1)


class Film(SiteFusion):
    """gamma(y) * h + beta(y) at each site of `used`; gamma starts at 1 and beta at 0, for every class.

    A gamma that starts near 0 suppresses the network it should modulate ("Project-455": FID grew for thirty epochs), so
    the MLP gives gamma - 1 and its last layer starts at zero.
    """

    Options: ClassVar[type[FusionOptions]] = FilmOptions
    Diagnostics: ClassVar[tuple[str, ...]] = ("gamma_mean", "gamma_std", "beta_mean", "beta_std")

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        assert isinstance(options, FilmOptions)
        self.mlp = nn.ModuleDict({key(site): _mlp(label_dim, options.hidden, site.channels) for site in self.used})

    def gamma_beta(self, label: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """Scale and shift at `site`, (B, C) each."""
        gamma_minus_1, beta = self.mlp[key(site)](label).chunk(2, dim=1)
        return 1 + gamma_minus_1, beta

    def forward(self, label: Tensor) -> Conditioning:
        modulations = {}
        for site in self.used:
            gamma, beta = self.gamma_beta(label, site)
            modulations[site.name] = Modulation(scale=per_channel(gamma), shift=per_channel(beta))
        return modulations

    @torch.no_grad()
    def diagnostics(self, label: Tensor) -> dict[str, float]:
        pairs = [self.gamma_beta(label, site) for site in self.used]
        gamma = torch.cat([gamma.flatten() for gamma, _ in pairs]).float()
        beta = torch.cat([beta.flatten() for _, beta in pairs]).float()
        return {
            "gamma_mean": gamma.mean().item(),
            "gamma_std": gamma.std().item(),
            "beta_mean": beta.mean().item(),
            "beta_std": beta.std().item(),
        }


def _mlp(label_dim: int, hidden: int, channels: int) -> nn.Sequential:
    last = nn.Linear(hidden, 2 * channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(label_dim, hidden), nn.SiLU(), last)
