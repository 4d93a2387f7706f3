"""Calls that are recorded once and run for every row or pixel, in order.

Activations are (W, C, B): column, channel, image; or (C, B) at one column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Ops = list[Callable[[], object]]
"""Calls that write into memory allocated before: run in order, they are a piece of the forward pass."""

At = int | slice
"""A column, or all of them."""

ALL = slice(None)


def run(ops: Ops) -> None:
    """Make every call."""
    for op in ops:
        op()


def add_product(ops: Ops, out: Tensor, weight: Tensor, x: Tensor) -> None:
    """Out += weight @ x, per column."""
    if x.dim() == 2:
        ops.append(partial(out.addmm_, weight, x))
    else:
        ops.append(partial(out.baddbmm_, weight.expand(len(x), -1, -1), x))


def set_product(ops: Ops, out: Tensor, bias: Tensor, weight: Tensor, x: Tensor) -> None:
    """Out = bias + weight @ x, per column."""
    if x.dim() == 2:
        ops.append(partial(torch.addmm, bias, weight, x, out=out))
    else:
        ops.append(partial(torch.baddbmm, bias, weight.expand(len(x), -1, -1), x, out=out))


@dataclass(frozen=True)
class Affine:
    """A modulation: each of scale and shift is (1 or W, C, 1 or B) or None."""

    scale: Tensor | None = None
    shift: Tensor | None = None

    def record(self, ops: Ops, x: Tensor, at: At, out: Tensor | None = None) -> None:
        """Modulate x, the activation at column(s) `at`, in place or into `out`."""
        scale, shift = pick(self.scale, at), pick(self.shift, at)
        out = x if out is None else out
        if scale is not None and shift is not None:
            ops.append(partial(torch.addcmul, shift, x, scale, out=out))
        elif scale is not None:
            ops.append(partial(torch.mul, x, scale, out=out))
        elif shift is not None:
            ops.append(partial(torch.add, x, shift, out=out))

    def __bool__(self) -> bool:
        return self.scale is not None or self.shift is not None


def pick(value: Tensor | None, at: At) -> Tensor | None:
    if value is None or isinstance(at, slice):
        return value
    return value[at if len(value) > 1 else 0]
