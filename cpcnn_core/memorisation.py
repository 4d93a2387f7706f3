"""Whether a model draws images or recites them: how near its samples come to the images that it learnt from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cpcnn_core.data import to_model

_ROWS = 1024  # of the matrix of distances at a time


def nearest(features: Tensor, of: Tensor) -> Tensor:
    """The Euclidean distance from each of `features` (N, D) to the nearest of `of` (M, D): (N,) float64."""
    of = of.double()
    return torch.cat([torch.cdist(rows.double(), of).amin(dim=1) for rows in features.split(_ROWS)])


def nearest_images(images: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """For each of `images` (N, C, H, W) which of `of` (M, C, H, W) is nearest, and how far: (N,) int64, (N,) float64.

    Between pixels in [-1, 1], as a root mean square: 0 is a copy, and black is 2 from white.
    """
    x = to_model(images).double().flatten(1)
    distances, at = torch.full((len(x),), math.inf, dtype=torch.float64), torch.zeros(len(x), dtype=torch.int64)
    for start in range(0, len(of), _ROWS):  # part by part: of 50,000 images the pixels as float64 are a gigabyte
        part = to_model(of[start : start + _ROWS]).double().flatten(1)
        nearest_of_part = [torch.cdist(rows, part).min(dim=1) for rows in x.split(_ROWS)]
        found = torch.cat([each.values for each in nearest_of_part])
        nearer = found < distances
        at[nearer] = torch.cat([each.indices for each in nearest_of_part])[nearer] + start
        distances[nearer] = found[nearer]
    return at, distances / math.sqrt(x.shape[1])


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The training images as features, and how far unseen real images are from them: what samples are held against.

    Samples much nearer to the training images than the validation images are have been learnt by heart (the idea of
    Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models", by medians).
    """

    train: Tensor  # (M, D)
    of_validation: float  # median distance of the validation images to the nearest training image

    @classmethod
    def of_splits(cls, train: Tensor, validation: Tensor) -> Neighbours:
        """From the features (M, D) and (N, D) of the two splits."""
        return cls(train, nearest(validation, train).median().item())

    def of_samples(self, features: Tensor) -> float:
        """The median distance of samples, as features (N, D), to the nearest training image."""
        return nearest(features, self.train).median().item()
