"""As many processes as a sweep would run at once, which probe the same configuration at the same time.

They compete for cores, memory and GPUs as the sweep's trials will.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import RunError
from orchestrator.process import parent
from orchestrator.training import trainer
from orchestrator.tune import probing

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from orchestrator.machines.resources import Share

_GPUS = "CUDA_VISIBLE_DEVICES"
_START_SECONDS = 90.0  # on a machine that does other things; a few on an idle one


class RehearsalError(RunError, RuntimeError):
    """A process that should have probed a configuration did not; the message says why."""


@dataclass
class Rehearsal:
    """The processes. To be used with `started`."""

    processes: list[BaseProcess]
    channels: list[Connection[Any, Any]]  # Any: whatever is pickled goes through them
    ends: float  # by time.monotonic
    ready_seconds: float = field(default=0.0)  # until all had imported what a trial needs

    def probe(self, config: TrialConfig) -> probing.Probe | None:
        """What it takes where all do it; None where time is over. Raise RehearsalError."""
        for channel in self.channels:
            channel.send(config.flat())
        answers = self._answers()
        if answers is None:
            return None
        return joined([answer for answer in answers if isinstance(answer, probing.Probe)])

    def _answers(self) -> list[object] | None:
        """One of each process, or None where time is over. Raise RehearsalError for what is none."""
        there: dict[int, object] = {}
        while len(there) < len(self.channels):
            left = [channel for number, channel in enumerate(self.channels) if number not in there]
            come = wait(left, timeout=max(0.0, self.ends - time.monotonic()))
            if not come:
                return None
            for number, channel in enumerate(self.channels):
                if channel not in come:
                    continue
                try:
                    there[number] = channel.recv()
                except (EOFError, OSError):
                    raise RehearsalError("a process that trained for a moment died; is there enough memory?") from None
                if isinstance(said := there[number], str):
                    raise RehearsalError(f"the configuration could not be trained for a moment: {said}")
        return list(there.values())


def joined(each: list[probing.Probe]) -> probing.Probe:
    """What a trial takes on average, and all steps that were timed."""
    return replace(
        each[0],
        epoch_seconds=statistics.fmean(probe.epoch_seconds for probe in each),
        scoring_seconds=statistics.fmean(probe.scoring_seconds for probe in each),
        begin_seconds=statistics.fmean(probe.begin_seconds for probe in each),
        steps=sum(probe.steps for probe in each),
    )


@contextmanager
def started(share: Share, processes: int, machine: Mapping[str, float], seconds: float) -> Generator[Rehearsal]:
    """As many as a sweep has at once, each trial of so many `processes`; they end with the context.

    Once all have started, they probe for at most so many `seconds`. Raise RehearsalError where they do not start.
    """
    context = multiprocessing.get_context("spawn")  # nothing of this process's torch goes along
    count = share.concurrent * processes
    barrier = context.Barrier(count)
    begun = time.monotonic()
    pairs = [context.Pipe() for _ in range(count)]
    each: list[BaseProcess] = [
        context.Process(
            target=_work,
            args=(theirs, barrier, max(1, share.cpus // processes), _gpu(number, share, processes, machine)),
            daemon=True,
        )
        for number, (_, theirs) in enumerate(pairs)
    ]
    running: list[BaseProcess] = []
    try:
        for process in each:
            process.start()
            running.append(process)
        for _, theirs in pairs:
            theirs.close()
        rehearsal = Rehearsal(running, [ours for ours, _ in pairs], begun + _START_SECONDS)
        if rehearsal._answers() is None:
            raise RehearsalError(f"{count} processes did not start in {_START_SECONDS:.0f} s; the machine is too busy")
        rehearsal.ready_seconds = time.monotonic() - begun
        rehearsal.ends = time.monotonic() + seconds
        yield rehearsal
    finally:
        for process in running:
            process.kill()
            process.join()


def _gpu(number: int, share: Share, processes: int, machine: Mapping[str, float]) -> str | None:
    """The GPU that a process sees, as CUDA_VISIBLE_DEVICES; None where there are none to tell apart."""
    if not machine.get("GPU"):
        return None
    if not share.gpus:
        return ""
    known = os.environ.get(_GPUS, "").split(",") if os.environ.get(_GPUS) else []
    mine = int(number * min(1.0, share.gpus / processes) + 1e-9)
    return known[mine] if mine < len(known) else str(mine)


def _work(channel: Connection[Any, Any], barrier: Barrier, threads: int, gpu: str | None) -> None:
    """Be one of the processes."""
    parent.die_with_parent()
    if gpu is not None:
        os.environ[_GPUS] = gpu
    from orchestrator.tune import trainable  # noqa: F401 - a trial's process imports it

    trainer.set_threads(threads)
    channel.send(True)
    while True:
        try:
            config = TrialConfig.from_flat(channel.recv())
        except EOFError:
            return
        try:
            channel.send(probing.probe(config, trainer.dataset(config.data), barrier.wait))
        except Exception as error:  # noqa: BLE001 - the process that asked says it
            channel.send(trainer.describe(error))
            return
