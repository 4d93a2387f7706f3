"""Class encodings: how a class index becomes the vector that a fusion projects into the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NULL_LABEL = -1
"""The label of an image whose class is withheld: every encoding maps it to the zero vector."""

DEFAULT_LABEL_DIM = 32


class LabelEncoding(nn.Module):
    """Map labels (B,) int64 in [-1, nr_classes) to vectors (B, dim) float; `NULL_LABEL` to zeros."""

    def __init__(self, nr_classes: int, dim: int) -> None:
        super().__init__()
        self.nr_classes = nr_classes
        self.dim = dim

    def table(self) -> Tensor:
        """The encodings of all classes, (nr_classes, dim)."""
        raise NotImplementedError

    def forward(self, labels: Tensor) -> Tensor:
        return F.pad(self.table(), (0, 0, 0, 1))[labels]  # index -1 is the last row, zeros


class _FixedEncoding(LabelEncoding):
    """An encoding without parameters."""

    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__(*codes.shape)
        self.register_buffer("codes", codes, persistent=False)

    def table(self) -> Tensor:
        return self.codes


class OneHot(_FixedEncoding):
    """The unit vector of the class; what follows it is then a table of one learned row per class."""

    def __init__(self, nr_classes: int, dim: int | None = None) -> None:
        super().__init__(torch.eye(nr_classes))


class Embedding(LabelEncoding):
    """A learned vector per class."""

    def __init__(self, nr_classes: int, dim: int | None = None) -> None:
        super().__init__(nr_classes, dim or DEFAULT_LABEL_DIM)
        self.weight = nn.Parameter(torch.randn(nr_classes, self.dim))

    def table(self) -> Tensor:
        return self.weight


class Sinusoidal(_FixedEncoding):
    """The positional encoding of the class index (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, nr_classes: int, dim: int | None = None) -> None:
        dim = dim or DEFAULT_LABEL_DIM
        frequency = torch.exp(-math.log(10_000.0) * torch.arange(0, dim, 2) / dim)
        angle = torch.arange(nr_classes)[:, None] * frequency[None, :]
        super().__init__(torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1))


ENCODINGS: dict[str, type[OneHot | Embedding | Sinusoidal]] = {
    "one_hot": OneHot,
    "embedding": Embedding,
    "sinusoidal": Sinusoidal,
}
