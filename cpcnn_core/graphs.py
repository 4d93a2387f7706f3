"""Capturing work once and replaying it: on a GPU as a CUDA graph, which waits for Python once instead of per kernel.

Work that can be captured reads and writes memory that stays, draws no randomness, reads no number from the device, and
was done once before. A test's or a benchmark's capture only does the work again: all but the capture itself then runs
on a CPU.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from cpcnn_core import devices
from cpcnn_core.errors import RunError
from cpcnn_core.memory import is_out_of_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")

Work = Callable[[], object]

Capture = Callable[[Work], Callable[[], object]]
"""Turns work that was done once before into one call that does it again. Raise CaptureError where it cannot."""


class CaptureError(RunError, RuntimeError):
    """Work that the device or its driver refuses to capture; the message says why."""


_refusals: dict[Capture, str] = {}  # of this process


def default_capture(device: torch.device) -> Capture | None:
    """How work on the device is captured, None where nothing is."""
    return cuda_graph if devices.captures(device) else None


def call_by_call(work: Work) -> Callable[[], object]:
    """No capture: the work is done as it was the first time."""
    return work


def cuda_graph(work: Work) -> Callable[[], object]:
    """The work as one CUDA graph. Raise CaptureError where it is refused, and out-of-memory errors as they are."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # What other threads ask of the GPU meanwhile is none of this graph's business.
        with torch.cuda.graph(graph, stream=_side_stream(stream.device), capture_error_mode="thread_local"):
            work()
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # a capture that fails may leave its own behind
        if is_out_of_memory(error):
            raise
        # Ending a capture whose memory ended may raise an error of its own.
        if isinstance(error.__context__, RuntimeError) and is_out_of_memory(error.__context__):
            raise error.__context__ from None
        raise CaptureError(str(error)) from error
    replay: Callable[[], object] = graph.replay
    return replay


def captured(work: Work, capture: Capture, *, what: str) -> Callable[[], object] | None:
    """A call that does the work again, or None where it cannot be captured.

    After a first refusal nothing is captured by `capture` any more in this process: releases of torch before 2.15 are
    left half in the capture that failed, and each further try would cost a step.
    """
    if capture in _refusals:
        return None
    try:
        return capture(work)
    except CaptureError as error:
        _refusals[capture] = str(error)
        logger.warning(
            "%s was not captured as a graph; this process works call by call from now on, which costs time only: %s",
            what,
            error,
        )
        return None


def refusal(capture: Capture) -> str | None:
    """Why nothing is captured by `capture` in this process, None where it was not refused."""
    return _refusals.get(capture)


def warmed_up(work: Callable[[], T], device: torch.device) -> T:
    """Do work as a capture demands that it was done before: on a GPU, on a stream beside the current one."""
    if not devices.captures(device):
        return work()
    current = torch.cuda.current_stream(device)
    side = _side_stream(current.device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = work()
    current.wait_stream(side)
    return result


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of this process where work is done first and captured.

    cuBLAS keeps a workspace for each stream that it ever worked on (32 MiB on a Hopper), which nothing gives back.
    """
    return torch.cuda.Stream(device)
