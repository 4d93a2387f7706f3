"""Numbers that are the same in each run, on a GPU too, where the fastest kernels add in whatever order they finish."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def prepare() -> None:
    """Have cuBLAS keep workspaces apart by stream. It reads this once, at its first use, by whichever trial."""
    os.environ.setdefault(_WORKSPACE, ":4096:8")


@contextmanager
def deterministic(wanted: bool, *, strict: bool) -> Generator[None]:
    """Where `wanted`, have torch take kernels that give the same bits each time.

    For an operation that has no such kernel, torch raises an error with its name if `strict`, and else warns.
    """
    if not wanted:
        yield
        return
    cudnn = cast("Any", torch.backends.cudnn)
    memory = cast("Any", torch.utils).deterministic
    with ExitStack() as stack:
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        stack.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
        stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
        stack.callback(setattr, cudnn, "deterministic", cudnn.deterministic)
        stack.callback(setattr, memory, "fill_uninitialized_memory", memory.fill_uninitialized_memory)
        torch.use_deterministic_algorithms(True, warn_only=not strict)
        cudnn.benchmark, cudnn.deterministic = False, True
        memory.fill_uninitialized_memory = False  # nothing reads what it did not write, and filling costs a pass
        yield
