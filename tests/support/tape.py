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
    """Notes each operation with the results that are no memory of its arguments'."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []
        self.kept: list[Any] = []  # views, whose memory others read
        self.overwritten: list[tuple[Tensor, Tensor]] = []  # and what was there before

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call in READS:
            raise CaptureError(f"operation not permitted when stream is capturing: {call}")
        kwargs = kwargs or {}
        for place, argument in enumerate(call._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[place] if place < len(args) else kwargs.get(argument.name)
                self.overwritten += [(tensor, tensor.clone()) for tensor in tree_leaves(written)]
        results = call(*args, **kwargs)
        given = {_memory(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        made = [
            (place, result)
            for place, result in enumerate(tree_leaves(results))
            if isinstance(result, Tensor) and _memory(result) not in given
        ]
        self.kept.append((args, kwargs, results))
        if made or call._schema.is_mutable:
            self.calls.append((call, args, kwargs, made))
        return results


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tape(work: Work) -> Callable[[], None]:
    """A call that does the operations of the work again, with the same numbers in the same memory.

    To know them the work is done once more; what it changed is then as it was, for a capture does nothing yet.
    A number of Python's is what it was; a tensor is whatever lies there now. What the work allocated is kept, as in a
    graph's own memory.
    """
    with _Recording() as recording:
        work()
    with torch.no_grad():
        for tensor, before in reversed(recording.overwritten):
            tensor.detach().copy_(before)

    @torch.no_grad()
    def replay() -> None:
        for call, args, kwargs, made in recording.calls:
            again = tree_leaves(call(*args, **kwargs))
            for place, result in made:
                result.detach().copy_(again[place])

    return replay
