"""A trial of several processes on one machine: each trains on its share of every batch (DDP through Accelerate).

The process that the trial belongs to starts them, passes on what the first one reports, and ends them when it ends,
however that happens. They wait for it before each epoch, so that a trial that is stopped has trained no further than
one process would have. It also passes on that it is to be taken away: they save their state after the same step. On
GPUs each takes one of those that its parent sees; elsewhere they share the trial's cores.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from cpcnn_core import environment
from cpcnn_core.errors import RunError
from orchestrator.process import notice, parent
from orchestrator.training import trainer

if TYPE_CHECKING:
    from cpcnn_core.config import TrialConfig
    from cpcnn_core.metrics import EpochMetrics
    from orchestrator.records.store import Store
    from orchestrator.training.trainer import OnProgress, Preempted, Score

_BEAT_SECONDS = 1.0  # no sign of life is passed on more often
_LOOK_SECONDS = 0.5  # between two looks at whether this process is to be taken away
_GO_ON, _TAKEN_AWAY = "go on", "taken away"


class ReplicaError(RunError, RuntimeError):
    """One of the processes of a trial died; the message says which, and how."""


@dataclass(frozen=True)
class Replicated:
    """A Trainer that has `processes` processes run the one that `trainer` names, with `threads` threads each."""

    trainer: str
    processes: int
    threads: int

    def __post_init__(self) -> None:
        """Raise NotHereError where processes cannot be started so."""
        parent.check_hands_down(f"a trial of {self.processes} processes")

    def __call__(
        self,
        config: TrialConfig,
        store: Store,
        *,
        reported: int,
        on_progress: OnProgress | None = None,
        score: Score | None = None,
        preempted: Preempted = lambda: False,
    ) -> Iterator[EpochMetrics]:
        """Yield what the first process yields. Raise what any of them raised, or ReplicaError where one died."""
        task = {
            "trainer": self.trainer,
            "threads": self.threads,
            "config": config.flat(),
            "folder": store.folder,
            "reported": reported,
            "score": score,
        }
        with store.log_file(config.trial_id).open("ab") as log, _free_port() as port:
            replicas = [_start(rank, self.processes, port, log) for rank in range(self.processes)]
        try:
            for _, connection in replicas:
                _tell(connection, task)
            while True:
                _tell(replicas[0][1], _GO_ON)
                metrics = _next(replicas, on_progress, preempted)
                if metrics is None:
                    for process, _ in replicas:
                        process.wait()
                    return
                yield metrics
        finally:
            for process, connection in replicas:
                process.kill()
                process.wait()
                connection.close()


_Channel: TypeAlias = "Connection[Any, Any]"  # Any: whatever is pickled goes through it, either way
_Replica: TypeAlias = tuple["subprocess.Popen[bytes]", _Channel]


def _tell(connection: _Channel, what: object) -> None:
    """Send it to a process. One that has ended gets nothing; what is read from it next says how it ended."""
    with contextlib.suppress(OSError):
        connection.send(what)


def _next(replicas: list[_Replica], on_progress: OnProgress | None, preempted: Preempted) -> EpochMetrics | None:
    """The next epoch's metrics, None after the last. Raise what a process raised, or ReplicaError."""
    ranks = {connection: rank for rank, (_, connection) in enumerate(replicas)}
    told = False
    while True:
        if preempted() and not told:
            told = True
            for connection in ranks:
                _tell(connection, _TAKEN_AWAY)
        for ready in wait(list(ranks), timeout=_LOOK_SECONDS):
            assert isinstance(ready, Connection)
            rank = ranks[ready]
            try:
                kind, content = ready.recv()
            except (EOFError, OSError):
                code = replicas[rank][0].wait()
                if code == 0 and rank > 0:  # done, a moment before the first one says so
                    del ranks[ready]
                    continue
                how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                raise ReplicaError(f"process {rank + 1} of {len(replicas)} of the trial ended {how}") from None
            if kind == "progress" and on_progress is not None:
                on_progress(*content)
            elif kind == "error":
                raise content
            elif kind == "epoch":
                found: EpochMetrics | None = content
                return found


def _start(rank: int, world: int, port: int, log: BinaryIO) -> _Replica:
    ours, theirs = socket.socketpair()
    variables = environment.without_launchers(os.environ) | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.training.replicas", str(theirs.fileno())],
            env=variables,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return process, Connection(ours.detach())


class _free_port:  # noqa: N801 - a context manager
    """A port that nobody listens on; held until the processes are started, so that two trials do not take the same."""

    def __enter__(self) -> int:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        port: int = self._socket.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class _Heard:
    """What the parent sends after the task; a thread reads it, since it may come at any step."""

    def __init__(self, connection: _Channel) -> None:
        self.taken = notice.Notice()
        self._connection = connection
        self._turns = threading.Semaphore(0)
        threading.Thread(target=self._read, name="parent", daemon=True).start()

    def wait_for_turn(self) -> None:
        """Wait until the next epoch may be trained."""
        self._turns.acquire()

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):  # the parent is gone, and this process with it
            while True:
                if self._connection.recv() == _GO_ON:
                    self._turns.release()
                else:
                    self.taken.give("the process that the trial belongs to is to be taken away")


def _work(connection: _Channel) -> None:
    """Be one of the processes."""
    import torch

    from cpcnn_core.config import TrialConfig
    from orchestrator.records.store import Store

    task = connection.recv()
    main = os.environ["RANK"] == "0"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # before anything takes memory on the first one
    trainer.set_threads(task["threads"])
    told, heard = 0.0, _Heard(connection)

    def on_progress(*done: object) -> None:
        nonlocal told
        if main and time.monotonic() - told >= _BEAT_SECONDS:
            told = time.monotonic()
            connection.send(("progress", done))

    config = TrialConfig.from_flat(task["config"])
    epochs = trainer.named(task["trainer"])(
        config,
        Store(task["folder"]),
        reported=task["reported"],
        on_progress=on_progress,
        score=task["score"],
        preempted=heard.taken,
    )
    while True:
        if main:
            heard.wait_for_turn()  # the others wait for the first one, in what they compute together
        metrics = next(epochs, None)
        if main:
            connection.send(("epoch", metrics))
        if metrics is None:
            break


def _main(descriptor: int) -> None:
    parent.die_with_parent()
    for number in notice.SIGNALS:  # one to the whole group is the parent's to pass on
        signal.signal(number, lambda *_: None)
    connection: _Channel = Connection(descriptor)
    try:
        _work(connection)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - what this very process made
        except Exception:  # noqa: BLE001 - whatever an exception's own pickling raises
            error = RuntimeError(trainer.describe(error))
        connection.send(("error", error))
        raise


if __name__ == "__main__":
    _main(int(sys.argv[1]))
