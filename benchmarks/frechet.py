"""pytorch-fid's Frechet distance, as it computes it, under any SciPy."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_fid import fid_score
from scipy import linalg


class _Linalg:
    """SciPy's, with the square root of a matrix as pytorch-fid calls it: later versions lack the argument `disp`."""

    @staticmethod
    def sqrtm(matrix: NDArray[np.float64], disp: bool) -> tuple[Any, float]:  # Any: real or complex
        """The root, and in place of an estimate of its error none, which pytorch-fid does not look at."""
        del disp
        return linalg.sqrtm(matrix), 0.0


@contextmanager
def any_scipy() -> Generator[None]:
    """Let pytorch-fid call what this SciPy has."""
    before = fid_score.linalg
    fid_score.linalg = _Linalg
    try:
        yield
    finally:
        fid_score.linalg = before


def distance(*moments: NDArray[np.float64]) -> float:
    """pytorch-fid's distance of two normal distributions: mean, covariance, mean, covariance."""
    calculate: Callable[..., float] = fid_score.calculate_frechet_distance
    with any_scipy():
        return float(calculate(*moments))
