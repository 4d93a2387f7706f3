"""Where a device's memory ends, and how many images at a time fit into it.

Accelerate is imported late: it reads the environment, which `fit` cleans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

CONTEXT_BYTES = 768 * 2**20
"""What CUDA and its libraries hold in each process besides what torch allocates: an estimate."""

# What accelerate does not know of: libraries that allocate for themselves, and the driver's own words.
_ALLOCATIONS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_INSUFFICIENT_RESOURCES",
    "CUDA error: out of memory",
    "MPS backend out of memory",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ended, which each kind of device and library says in words of its own."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    found: bool = should_reduce_batch_size(error)
    text = str(error) if isinstance(error, RuntimeError) else ""
    return found or isinstance(error, torch.OutOfMemoryError) or any(words in text for words in _ALLOCATIONS)


def release_memory() -> None:
    """Give back to the device what nobody holds any more."""
    from accelerate.utils import release_memory

    release_memory()


class MicroBatch:
    """How many images go through the network at once: halved where memory ends, and later tried larger again.

    What took the memory may have ended, as another program's use of the GPU. A larger size that does not fit costs a
    step, so after each such one it takes twice as many epochs until the next is tried.
    """

    def __init__(self, asked: int) -> None:
        self._sizes = [asked]
        while self._sizes[-1] > 1:
            self._sizes.append(math.ceil(self._sizes[-1] / 2))
        self._at = 0
        self._waited, self._patience = 0, 1  # epochs
        self._grown = False  # by the last change of size

    @property
    def size(self) -> int:
        return self._sizes[self._at]

    def state_dict(self) -> dict[str, int]:
        """What another process needs to go on as this one would."""
        return {"size": self.size, "waited": self._waited, "patience": self._patience, "grown": int(self._grown)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on as the process would have that gave `state`; that of an earlier release has the size alone."""
        self._at = next(at for at, known in enumerate(self._sizes) if known <= max(1, state["size"]))
        self._waited, self._patience = state.get("waited", 0), state.get("patience", 1)
        self._grown = bool(state.get("grown", 0))

    def halve(self) -> None:
        """Memory ended with the present size."""
        self._patience *= 2 if self._grown else 1
        self._waited, self._grown = 0, False
        self._at += 1

    def begin_epoch(self) -> None:
        """Try a larger one again, where it is time."""
        self._waited += 1
        if self._at and self._waited >= self._patience:
            self._at -= 1
            self._waited, self._grown = 0, True
