"""Timing things in turns, and the machine that it was done on."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from cpcnn_core.precision import has_bf16_units, whole_float32

T = TypeVar("T")


@dataclass(frozen=True)
class Seconds:
    """Of one turn: by the clock, and of CPU (all threads; those that wait for one another may count too)."""

    wall: float
    cpu: float

    def times(self, factor: float) -> Seconds:
        return Seconds(self.wall * factor, self.cpu * factor)


def device() -> torch.device:
    """Where everything is measured: on a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(call: Callable[[], T]) -> tuple[Seconds, T]:
    """Time one call, and what it asks of a GPU."""
    _wait()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    _wait()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def machine() -> str:
    """What was measured, for a table's title."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def counted(seconds: Seconds) -> float:
    """Those that ratios are made of: of CPU, which other processes do not add to; with a GPU by the clock."""
    return seconds.wall if torch.cuda.is_available() else seconds.cpu


def fastest(turns: list[Seconds]) -> Seconds:
    """The least of each: what else the machine does only ever adds time."""
    return Seconds(min(turn.wall for turn in turns), min(turn.cpu for turn in turns))


def matrix_peak(dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s, of one CPU thread or the GPU, that a product of two large matrices reaches."""
    where = device()
    size = 1024 if where.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=where).to(dtype) for _ in range(2))
    with torch.inference_mode(), whole_float32():
        took = fastest([timed(lambda: torch.mm(a, b))[0] for _ in range(8)])
    return 2 * size**3 / counted(took)


def peaks() -> dict[str, float]:
    """`matrix_peak` by precision. Without bf16 where the machine has no units for it: a step would take minutes."""
    found = {"fp32": matrix_peak()}
    if torch.cuda.is_available() or has_bf16_units():
        found["bf16"] = matrix_peak(torch.bfloat16)
    return found


def write(out: Path, results: list[dict[str, Any]], load_before: float) -> None:
    """The results as JSON, with the machine beside them."""
    from orchestrator.records.provenance import cores  # the GPU's machine may have the core alone

    of_machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "load_before": load_before,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": of_machine, "results": results}, indent=1) + "\n")
