"""What float32 means on a GPU."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch


@contextmanager
def whole_float32() -> Generator[None]:
    """Have a GPU's convolutions keep all of float32.

    By default it rounds their factors to the 10 bits of TF32. Log-likelihoods and features would then be others than a
    CPU's, and a sampler that multiplies matrices would draw other images than one that convolves.
    Training, whose gradients are noisier than that, is left at the default.

    The setting is the process's: only one thread may enter at a time.
    """
    convolutions = cast("Any", torch.backends.cudnn).conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
