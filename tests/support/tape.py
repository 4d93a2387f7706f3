"""A capture for a CPU that freezes what a CUDA graph freezes: operations on given memory, and no line of Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cpcnn_core.graphs import CaptureError, Work

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call in READS:
            raise CaptureError(f"operation not permitted when stream is capturing: {call}")
        kwargs = kwargs or {}
        result = call(*args, **kwargs)
        self.calls.append((call, args, kwargs, result))
        return result


def tape(work: Work) -> Callable[[], None]:
    """Do the work once more, and return a call that does its operations again: the same numbers in the same memory.

    A number of Python's is what it was; a tensor is whatever lies there now. What the work allocated is kept, as in a
    graph's own memory.
    """
    with _Recording() as recording:
        work()

    @torch.no_grad()
    def replay() -> None:
        for call, args, kwargs, results in recording.calls:
            again = call(*args, **kwargs)
            known = {
                tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if _is_tensor(tensor)
            }
            for result, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if _is_tensor(result) and result.untyped_storage().data_ptr() not in known:
                    result.detach().copy_(new)

    return replay


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
