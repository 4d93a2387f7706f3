"""What float32 means on a GPU."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch


@contextmanager
def whole_float32() -> Generator[None]:
    """Have a GPU's convolutions keep all of float32.

    By default it rounds their factors to the 10 bits of TF32, so that log-likelihoods are off by a tenth of a nat, a
    sampler that multiplies matrices draws other images than one that convolves, and features differ from a CPU's.
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
