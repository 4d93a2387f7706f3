"""The device that this machine computes on, and what it can do: asked of torch by capability, not told by its name.

CUDA's name is also that of AMD's GPUs, and other devices lack some of what these have. Apple's (MPS) captures no
graphs, counts no peak of its memory and has no float64: what needs float64 is computed on the CPU for every device.

Torch is imported late, as reading tables and help need none.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def here() -> torch.device:
    """What training takes on this machine: a GPU of any maker that torch can use, else the CPU."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else torch.device(found.type)


def captures(device: torch.device) -> bool:
    """Whether work on the device can be captured as a CUDA graph."""
    return hasattr(_module(device), "CUDAGraph")


def limits_memory(device: torch.device) -> bool:
    """Whether a process can be held to a part of the device's memory, and can tell how much it took."""
    return hasattr(_module(device), "set_per_process_memory_fraction") and _counts_memory(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def begin_memory(device: torch.device) -> None:
    """Give back what nobody holds any more, and count the peak from here on, where the device does."""
    if device.type != "cpu" and hasattr(_module(device), "empty_cache"):
        _module(device).empty_cache()
    if _counts_memory(device):
        _module(device).reset_peak_memory_stats()


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: the device's since it was last reset, or on a CPU the process's since it started.

    A device that counts no peak keeps what it once took, so that what its driver holds now is close to it.
    """
    if _counts_memory(device):
        return int(_module(device).max_memory_allocated(device))
    if hasattr(_module(device), "driver_allocated_memory"):
        return int(_module(device).driver_allocated_memory())
    return _peak_of_process()


def _module(device: torch.device) -> Any:  # torch.cuda, torch.mps, torch.cpu: each has functions of its own
    import torch

    return torch.get_device_module(device)


def _counts_memory(device: torch.device) -> bool:
    return hasattr(_module(device), "max_memory_allocated")


def _peak_of_process() -> int:
    try:
        import resource
    except ImportError:  # Windows counts it elsewhere
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
