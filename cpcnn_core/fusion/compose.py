"""Several variants at once: `input_concat+block_film`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from cpcnn_core.fusion.base import Conditioning, Fusion, Modulation, Site


class Composition(nn.Module):
    """The parts of a fusion in the order of its name; where two modulate one site, the left one comes first."""

    def __init__(self, parts: Mapping[str, Fusion]) -> None:
        super().__init__()
        self.names = tuple(parts)
        for name, part in parts.items():
            self.add_module(name, part)

    def parts(self) -> dict[str, Fusion]:
        """The variants by name."""
        found = {name: self.get_submodule(name) for name in self.names}
        return {name: part for name, part in found.items() if isinstance(part, Fusion)}

    def extra_channels(self, site: Site) -> int:
        """How many channels all parts together put beside the activation at `site`."""
        return sum(part.extra_channels(site) for part in self.parts().values())

    def forward(self, label: Tensor) -> Conditioning:
        """Modulations for encoded labels (B, label_dim)."""
        merged: dict[str, Modulation] = {}
        for part in self.parts().values():
            for name, modulation in part(label).items():
                merged[name] = merged[name].then(modulation) if name in merged else modulation
        return merged

    def diagnostics(self, label: Tensor) -> dict[str, float]:
        """What each part logs of itself, as `fusion.NAME.QUANTITY`."""
        return {
            f"fusion.{name}.{quantity}": value
            for name, part in self.parts().items()
            for quantity, value in part.diagnostics(label).items()
        }
