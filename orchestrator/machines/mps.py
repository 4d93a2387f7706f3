"""NVIDIA's MPS: processes that share a GPU use it at the same time, instead of in turns.

It needs a daemon on the machine, which anybody may start for himself. Ours belongs to the processes that use it: each
holds a shared lock for as long as it lives. A *keeper*, the child of nobody, waits for the exclusive one, which it gets
when the last of them is gone, however that ended; then it ends the daemon. So two sweeps share one, a sweep that is
killed leaves none, and a machine that joins a cluster later gets one when the first trial comes. A daemon whose keeper
was killed too is found by the next process, which gives it a keeper again.

Everything lies in a folder of this user's own; another user's daemon is never spoken to.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cpcnn_core import files
from cpcnn_core.errors import RunError

with suppress(ImportError):  # Windows, which has no MPS either
    import fcntl

PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
"""The environment variables by which daemon and CUDA find each other, read when CUDA begins."""

DAEMON = "nvidia-cuda-mps-control"

_USE_GPU = "import torch; torch.ones(8, device='cuda').sum().item()"

_PATH_BYTES = 80  # of a folder with sockets, whose whole path may have 107
_START_SECONDS = 180.0  # for whoever starts the daemon and tries it, importing torch
_ANSWER_SECONDS = 60.0
_LINGER_SECONDS = 3.0  # between the last process that uses the daemon, and its end
_FAILED_SECONDS = 600.0  # for which a failure is remembered: each of many processes would try for seconds


def use_gpu(environment: Mapping[str, str]) -> str | None:
    """Use the GPU for a moment, in a process with this environment; what went wrong, None where nothing did."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _USE_GPU],
            env=dict(environment),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_START_SECONDS / 2,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "a process that uses the GPU does not come to an end"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it says nothing"])[-1]


@dataclass(frozen=True)
class _Daemon:
    """A daemon by the folder of its pipes, whether it runs or not."""

    pipes: Path

    @property
    def variables(self) -> dict[str, str]:
        return {PIPES: str(self.pipes), LOGS: str(self.pipes / "log")}

    def start(self) -> None:
        """Start it. Raise _UnavailableError."""
        (self.pipes / "log").mkdir(parents=True)
        # It serves every GPU of the machine. With some of them hidden it would number the others anew, and a process
        # that Ray has given number 2 would find another one, or none.
        self._run(["-d"], without={"CUDA_VISIBLE_DEVICES"})

    def serves(self) -> bool:
        """Whether it runs, and has come to serve a process."""
        return bool(self._ask("get_server_list"))

    def runs(self) -> bool:
        """Whether it answers."""
        return self._ask("get_server_list") is not None

    def quit(self) -> None:
        """End it, and remove its folder."""
        self._ask("quit")
        shutil.rmtree(self.pipes, ignore_errors=True)

    def _ask(self, command: str) -> str | None:
        """What it answers, None where it does not."""
        try:
            answer = self._run([], said=f"{command}\n")
        except _UnavailableError:
            return None
        return None if "cannot find" in answer.lower() else answer.strip()

    def _run(self, arguments: list[str], *, said: str = "", without: set[str] | None = None) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in (without or set())}
        # Not a pipe, which the daemon would hold open, so that its end never came.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as answer:
            try:
                done = subprocess.run(
                    [DAEMON, *arguments],
                    input=said,
                    env=environment | self.variables,
                    stdout=answer,
                    stderr=subprocess.STDOUT,
                    encoding="utf-8",
                    errors="replace",
                    timeout=_ANSWER_SECONDS,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise _UnavailableError(f"{DAEMON}: {error}") from None
            answer.seek(0)
            text = answer.read()
        if done.returncode != 0:
            raise _UnavailableError(f"{DAEMON} ended with {done.returncode}: {' '.join(text.split()) or 'no word'}")
        return text


class _UnavailableError(RunError):
    """Why there is no MPS here, in words."""


_joined: list[int] = []  # the descriptor of the lock, for as long as this process lives


def join(*, check: Callable[[Mapping[str, str]], str | None] | None = None) -> str | None:
    """Have CUDA in this process, where it has not begun yet, share the GPU by MPS; None, or the reason why it does not.

    A daemon that the environment names already is used as it is. `check` is `use_gpu`, or a stand-in for it.
    """
    if _joined or os.environ.get(PIPES):
        return None
    if shutil.which(DAEMON) is None:
        return f"{DAEMON} is not installed on {platform.node()}"
    try:
        folder = _folder()
        with FileLock(folder / "start.lock", timeout=2 * _START_SECONDS, fallback_to_soft=False):
            users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(users, fcntl.LOCK_SH)  # a keeper that ends a daemon has it, for a moment
                variables = _ensured(folder, check or use_gpu)
            except BaseException:
                os.close(users)
                raise
    except (_UnavailableError, OSError, Timeout) as error:
        return f"{platform.node()}: {error}"
    _joined.append(users)
    os.environ.update(variables)
    return None


def leave() -> None:
    """Let go of the daemon; CUDA must not be used in this process any more."""
    while _joined:
        os.close(_joined.pop())
        for name in (PIPES, LOGS):
            os.environ.pop(name, None)


def _folder() -> Path:
    own = files.temporary_cache()
    if own is None:
        raise _UnavailableError("there is no temporary folder of this user's own")
    folder = own / "mps"
    folder.mkdir(mode=0o700, exist_ok=True)
    if len(os.fsencode(folder)) > _PATH_BYTES:
        raise _UnavailableError(f"{folder} is too long for the path of a socket; TMPDIR names another place")
    return folder


def _ensured(folder: Path, check: Callable[[Mapping[str, str]], str | None]) -> dict[str, str]:
    """The variables of a daemon that runs and has a keeper. Raise _UnavailableError."""
    failed = folder / "failed"
    with suppress(FileNotFoundError):
        if time.time() - failed.stat().st_mtime < _FAILED_SECONDS:
            raise _UnavailableError(failed.read_text(encoding="utf-8"))
    daemon = _current(folder)
    if daemon is None or not daemon.runs():
        if daemon is not None:
            shutil.rmtree(daemon.pipes, ignore_errors=True)  # of one that was killed
        # Named and kept before it is started: whoever starts it may be killed at any moment.
        daemon = _Daemon(Path(tempfile.mkdtemp(prefix="p-", dir=folder)))
        name = daemon.pipes.name.encode()
        files.write_atomically(folder / "current", lambda stream: stream.write(name))
        _provide_keeper(folder)
        try:
            daemon.start()
            _try(daemon, check)
        except _UnavailableError as error:
            failed.write_text(str(error), encoding="utf-8")
            daemon.quit()
            raise
        failed.unlink(missing_ok=True)
    else:
        _provide_keeper(folder)
    return daemon.variables


def _current(folder: Path) -> _Daemon | None:
    with suppress(FileNotFoundError):
        return _Daemon(folder / (folder / "current").read_text(encoding="utf-8"))
    return None


def _try(daemon: _Daemon, check: Callable[[Mapping[str, str]], str | None]) -> None:
    """Raise _UnavailableError where a process does not get to the GPU by this daemon.

    The compute mode may forbid it, the GPU be too old, or a container keep the two apart.
    """
    problem = check(os.environ | daemon.variables)
    if problem is not None:
        raise _UnavailableError(f"a process under MPS cannot use the GPU: {problem}")
    if not daemon.serves():
        raise _UnavailableError("a process that used the GPU did not reach MPS's daemon")


def _provide_keeper(folder: Path) -> None:
    """Start a keeper where there is none. It holds a lock from the start, so that there is never a second one."""
    held = os.open(folder / "keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # Of its own, it makes itself nobody's child: Ray ends the children of a worker with it.
        subprocess.run(
            [sys.executable, "-m", "orchestrator.machines.mps", str(folder), str(held)],
            pass_fds=[held],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=_ANSWER_SECONDS,
        )
    finally:
        os.close(held)


def _keep(folder: Path, held: int) -> None:
    """Be the keeper, in a child that outlives whoever started it."""
    if os.fork():
        return
    os.setsid()
    users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    _wait_until_alone(users)
    daemon = _current(folder)
    if daemon is not None:
        daemon.quit()
        (folder / "current").unlink(missing_ok=True)
    os.close(held)  # before the users' lock: whoever gets that next finds no keeper, and starts one


def _wait_until_alone(users: int) -> None:
    """Have the exclusive lock, once nobody has used the daemon for a moment: the next trial's process may be coming."""
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_UN)
        time.sleep(_LINGER_SECONDS)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
