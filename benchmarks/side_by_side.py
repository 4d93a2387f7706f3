"""Several trials at once on one device: processes that take training steps, as they are or under NVIDIA's MPS.

More and more processes are started, and those that are ready take steps together for some seconds. What goes wrong with
so many of them is the error of one row.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.training import trial

Sizes = tuple[int, int, int]

WORKER = "--side-by-side"  # how benchmarks/gpu.py is started as one of the trials
MPS_DAEMON = "nvidia-cuda-mps-control"
_QUIT_SECONDS = 20.0


class WorkerError(RuntimeError):
    """One of the trials ended; the message has its last words."""


class Workers:
    """Processes that train the same configuration."""

    def __init__(self, sizes: Sizes, batch: int, seconds: float, variables: Mapping[str, str]) -> None:
        self._asked = json.dumps({"sizes": sizes, "batch": batch, "seconds": seconds})
        self._variables = variables
        self._started: list[tuple[subprocess.Popen[str], IO[str]]] = []

    def steps_per_second(self, count: int) -> float:
        """Of `count` of them together, once all are ready; those that are there already go on."""
        new = [self._start() for _ in range(count - len(self._started))]
        for worker in new:
            if (said := self._line(*worker)) != "ready":
                raise WorkerError(f"one of {count} trials said {said!r} where it was to be ready")
        for process, _ in self._started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return sum(float(self._line(*worker)) for worker in self._started)

    def end(self) -> None:
        """End all of them."""
        for process, words in self._started:
            process.kill()
            process.communicate()
            words.close()
        self._started = []

    def _start(self) -> tuple[subprocess.Popen[str], IO[str]]:
        words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `end` closes it
        command = [sys.executable, "-m", "benchmarks.gpu", WORKER, self._asked]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            env=os.environ | self._variables,
        )
        self._started.append((process, words))
        return process, words

    def _line(self, process: subprocess.Popen[str], words: IO[str]) -> str:
        """What a process says next. Raise WorkerError where it has ended instead."""
        assert process.stdout is not None
        if line := process.stdout.readline().strip():
            return line
        code = process.wait()
        words.seek(0)
        last = words.read().strip().splitlines()[-1:] or ["nothing said"]
        raise WorkerError(f"one of {len(self._started)} trials ended with exit code {code}: {last[0]}")


def rows(
    steps: Sequence[tuple[Sizes, int]], counts: Sequence[int], seconds: float, variables: Mapping[str, str], how: str
) -> Iterator[dict[str, Any]]:
    """The steps a second of each size with each count, or the error."""
    for sizes, batch in steps:
        workers = Workers(sizes, batch, seconds, variables)
        try:
            for count in counts:
                row: dict[str, Any] = {"how": how, "config": "/".join(map(str, sizes)), "trials": count}
                try:
                    row["steps_per_s"] = workers.steps_per_second(count)
                except (WorkerError, OSError, ValueError) as error:
                    row["error"] = f"{type(error).__name__}: {error}"
                    workers.end()  # the next count begins with new ones
                yield row
        finally:
            workers.end()


def under_mps(steps: Sequence[tuple[Sizes, int]], counts: Sequence[int], seconds: float) -> Generator[dict[str, Any]]:
    """The same under NVIDIA's Multi-Process Service; where there is none, why."""
    daemon = shutil.which(MPS_DAEMON)
    if daemon is None or not torch.cuda.is_available():
        yield {"how": "MPS", "note": f"no {MPS_DAEMON} here" if daemon is None else "no GPU here"}
        return
    with _served(daemon) as places:
        yield from rows(steps, counts, seconds, places, "MPS")


@contextmanager
def _served(daemon: str) -> Generator[dict[str, str]]:
    """A daemon of MPS, which needs no root and is ended again; the variables that lead to it."""
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        with_places = os.environ | places
        try:
            subprocess.run([daemon, "-d"], check=True, env=with_places)
            yield places
        finally:
            subprocess.run([daemon], input="quit\n", text=True, check=False, env=with_places, timeout=_QUIT_SECONDS)


def work(asked: str) -> None:
    """Be one of the trials: say when ready, and, as often as the word comes, how many steps a second it took."""
    given = json.loads(asked)
    with trial(tuple(given["sizes"]), given["batch"]) as run:
        chosen = torch.arange(given["batch"], device=run.device)
        for _ in range(3):
            run.optimize(chosen)
        run.wait()
        print("ready", flush=True)
        for _ in sys.stdin:
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < given["seconds"]:
                run.optimize(chosen)
                done += 1
            run.wait()
            print(done / (time.perf_counter() - started), flush=True)
