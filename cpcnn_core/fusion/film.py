"""What the FiLM variants share (Perez et al. 2018)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cpcnn_core.fusion.base import Conditioning, FusionOptions, Modulation, Site, SiteFusion, key, per_channel


class FilmOptions(FusionOptions):
    """`hidden`: width of the MLP between label and (gamma, beta). `gamma_clamp`: how far gamma may leave 1.

    `init` is where they start: `identity` is gamma 1 and beta 0; `random` is what torch gives an MLP, both around 0.
    """

    hidden: int = Field(64, ge=1)
    gamma_clamp: float | None = Field(None, gt=0, allow_inf_nan=False)
    init: Literal["identity", "random"] = "identity"


class Film(SiteFusion):
    """gamma(y) * h + beta(y) at each site of `used`; gamma starts at 1 and beta at 0, for every class.

    A gamma that starts near 0 suppresses the network it should modulate ("Project-455": FID grew for thirty epochs), so
    the MLP gives gamma - 1 and its last layer starts at zero, unless `init` is random.
    """

    Options: ClassVar[type[FusionOptions]] = FilmOptions
    Diagnostics: ClassVar[tuple[str, ...]] = ("gamma_mean", "gamma_std", "beta_mean", "beta_std")

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        assert isinstance(options, FilmOptions)
        self.gamma_clamp = options.gamma_clamp
        self.mlp = nn.ModuleDict({key(site): _mlp(label_dim, options, site.channels) for site in self.used})

    def gamma_beta(self, label: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """Scale and shift at `site`, (B, C) each."""
        gamma_minus_1, beta = self.mlp[key(site)](label).chunk(2, dim=1)
        if self.gamma_clamp is not None:  # smoothly: a gamma at the bound still has a gradient that leads it back
            gamma_minus_1 = self.gamma_clamp * torch.tanh(gamma_minus_1 / self.gamma_clamp)
        return 1 + gamma_minus_1, beta

    def forward(self, label: Tensor) -> Conditioning:
        modulations = {}
        for site in self.used:
            gamma, beta = self.gamma_beta(label, site)
            modulations[site.name] = Modulation(scale=per_channel(gamma), shift=per_channel(beta))
        return modulations

    @torch.no_grad()
    def diagnostics(self, label: Tensor) -> dict[str, float]:
        """Mean and standard deviation of gamma and beta over classes and channels: of all sites, and of each."""
        pairs = [self.gamma_beta(label, site) for site in self.used]
        gammas, betas = ([pair[i].flatten().float() for pair in pairs] for i in range(2))
        summary = _summary("", torch.cat(gammas), torch.cat(betas))
        for site, gamma, beta in zip(self.used, gammas, betas, strict=True):
            summary |= _summary(f"{site.name.removesuffix('.hidden')}.", gamma, beta)
        return summary


def _summary(prefix: str, gamma: Tensor, beta: Tensor) -> dict[str, float]:
    return {
        f"{prefix}gamma_mean": gamma.mean().item(),
        f"{prefix}gamma_std": gamma.std().item(),
        f"{prefix}beta_mean": beta.mean().item(),
        f"{prefix}beta_std": beta.std().item(),
    }


def _mlp(label_dim: int, options: FilmOptions, channels: int) -> nn.Sequential:
    last = nn.Linear(options.hidden, 2 * channels)
    with torch.no_grad():
        if options.init == "random":
            last.bias[:channels] -= 1  # it gives gamma - 1
        else:
            last.weight.zero_()
            last.bias.zero_()
    return nn.Sequential(nn.Linear(label_dim, options.hidden), nn.SiLU(), last)
