"""How many optimizer steps a second several trials take that share a device, each in a process of its own.

What is timed are processes that train, as a sweep's trials do: under MPS where those are. Each has evaluated, drawn
images and measured their FID before, where its trial would, so that it holds the memory that this takes.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias, TypeVar

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import RunError
from orchestrator.process import parent

GPU = "orchestrator.tune.training_process:Cuda"

_SECONDS = 4.0  # for which all processes train at the same time
_READY_SECONDS = 480.0  # for importing, loading, compiling and evaluating

Channel: TypeAlias = "Connection[Any, Any]"  # Any: whatever is pickled goes through it, either way


Answer = TypeVar("Answer")


class ProbeError(RunError, RuntimeError):
    """A process that should have trained for a moment did not; the message says why."""


@dataclass(frozen=True)
class Ready:
    """What a process says once it can train."""

    device: str
    free_before: int  # bytes, with this process's context there and nothing else of it
    free_after: int  # bytes, with the most that it held
    without_mps: str | None  # why it does not run under MPS, where it should


class Trials:
    """Processes that each train the same configuration, as many as were added. To be used with `started`."""

    def __init__(self, config: TrialConfig, *, device: str, use_mps: bool, threads: int, seconds: float) -> None:
        self._task = {
            "config": config.flat(),
            "device": device,
            "mps": use_mps,
            "threads": threads,
        }
        self._seconds = seconds
        self._processes: list[tuple[subprocess.Popen[bytes], Channel]] = []

    def grow(self, count: int) -> list[Ready]:
        """Start processes until there are so many; what the new ones say. Raise ProbeError."""
        new = [_started() for _ in range(count - len(self._processes))]
        self._processes += new
        for _, channel in new:
            _send(channel, self._task)
        return [_received(channel, Ready) for _, channel in new]

    def steps_per_second(self) -> float:
        """Of all of them together. Raise ProbeError."""
        for _, channel in self._processes:
            _send(channel, self._seconds)
        return sum(_received(channel, float) for _, channel in self._processes)

    def end(self) -> None:
        """End all processes, whatever they do."""
        for process, channel in self._processes:
            process.kill()
            process.wait()
            channel.close()


@contextmanager
def started(
    config: TrialConfig, *, device: str = GPU, use_mps: bool = True, threads: int = 1, seconds: float = _SECONDS
) -> Generator[Trials]:
    """None at first, to which processes can be added; those end with the context."""
    trials = Trials(config, device=device, use_mps=use_mps, threads=threads, seconds=seconds)
    try:
        yield trials
    finally:
        trials.end()


def _started() -> tuple[subprocess.Popen[bytes], Channel]:
    parent.check_hands_down('"gpus": "auto", which measures how many trials fit a GPU')
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.tune.training_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return process, Connection(ours.detach())


def _send(channel: Channel, what: object) -> None:
    try:
        channel.send(what)
    except OSError:
        raise ProbeError("a process that trained for a moment died") from None


def _received(channel: Channel, kind: type[Answer]) -> Answer:
    try:
        answer = channel.recv() if channel.poll(_READY_SECONDS) else f"no answer in {_READY_SECONDS:.0f} s"
    except (EOFError, OSError):
        answer = "a process that trained for a moment died"
    if not isinstance(answer, kind):
        raise ProbeError(str(answer))
    return answer
