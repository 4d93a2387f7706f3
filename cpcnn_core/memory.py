"""Where a device's memory ends. Accelerate is imported late: it reads the environment, which `fit` cleans."""

from __future__ import annotations


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ended, which each kind of device says in words of its own."""
    from accelerate.utils.memory import should_reduce_batch_size

    found: bool = should_reduce_batch_size(error)
    return found


def release_memory() -> None:
    """Give back to the device what nobody holds any more."""
    from accelerate.utils import release_memory

    release_memory()
