"""`python -m tests.support.windows MODULE ARGUMENTS ...`: a module run as far as Linux can play Windows.

What others wrote is imported first, since it chooses by the system that it finds. For our own code there are then no
modules and no functions of POSIX alone; folders cannot be opened; a file that is open is neither replaced nor deleted;
names with signs that Windows forbids are refused; text without an encoding is an error. Several commands are divided by
`--then`.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import os
import runpy
import select
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil

THEN = "--then"

_OURS = ("cpcnn_core", "orchestrator", "search_spaces", "cluster")
_OTHERS = (
    *("accelerate", "filelock", "fsspec.implementations.local", "jinja2", "joblib", "numpy", "optuna"),
    *(
        "pandas",
        "plotly.io",
        "psutil",
        "pyarrow.parquet",
        "pyarrow.dataset",
        "pydantic",
        "rich.live",
        "safetensors.torch",
    ),
    *(
        "scipy.linalg",
        "sklearn.datasets",
        "torch",
        "torch.distributed",
        "typer.testing",
        "PIL.Image",
        "huggingface_hub",
    ),
    *("multiprocessing.synchronize", "concurrent.futures.process", "http.server", "zoneinfo", "torch._dynamo"),
)
_MODULES = frozenset({"fcntl", "grp", "posix_ipc", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"})
_MISSING: Mapping[ModuleType, Sequence[str]] = {
    os: (
        *("chown", "confstr", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getgroups", "getloadavg"),
        *("getpgid", "getpgrp", "getpriority", "getsid", "getuid", "killpg", "lchown", "mkfifo", "mknod", "nice"),
        *("openpty", "pread", "pwrite", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "setpgid"),
        *("setsid", "setuid", "sync", "sysconf", "ttyname", "uname", "wait", "waitid", "O_CLOEXEC"),
        *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"),
    ),
    signal: (
        *("SIGALRM", "SIGCHLD", "SIGHUP", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2"),
        *("alarm", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"),
    ),
    select: ("PIPE_BUF", "POLLERR", "POLLHUP", "POLLIN", "POLLOUT", "epoll", "poll"),
    time: ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "clock_gettime", "tzset"),
}
_FORBIDDEN = frozenset('<>:"|?*')
_RESERVED = frozenset({"aux", "con", "nul", "prn"})


def play() -> None:
    """From here on this process is on Windows, as far as our own code can tell."""
    for name in _OTHERS:
        importlib.import_module(name)
    for module, names in _MISSING.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    builtins.__import__ = _lacking(builtins.__import__)
    warnings.filterwarnings("error", category=EncodingWarning, module=rf"({'|'.join(_OURS)})(\.|$)")
    kill = os.kill

    def killed(pid: int, number: int) -> None:
        if number == 0:
            raise AssertionError("on Windows signal 0 is Ctrl-C, and does not ask whether a process is there")
        kill(pid, number)

    os.kill = killed
    psutil.Process.memory_info = lambda _: SimpleNamespace(peak_wset=2**30)
    sys.addaudithook(_heard)


def _lacking(usual: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
    """An import for our own modules, which find none of POSIX alone. Others have chosen already, or may choose so."""

    def imported(name: str, given: Mapping[str, object] | None = None, *others: object, **named: object) -> ModuleType:
        importer = str((given or {}).get("__name__", ""))
        if name.partition(".")[0] in _MODULES and importer.partition(".")[0] in _OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, given, *others, **named)

    return imported


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse what Windows refuses, among what Python is about to do to files."""
    paths = [Path(os.fsdecode(each)) for each in arguments[:2] if isinstance(each, str | bytes)]
    if event == "open" and isinstance(arguments[0], str | bytes):
        path, flags = paths[0], arguments[2]
        if path.is_dir() and arguments[1] is None:  # by `os.open`; `tempfile` names its folder to `open`, for an opener
            raise PermissionError(errno.EACCES, "a folder cannot be opened", str(path))
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _check_name(path)
    elif event in {"os.mkdir", "os.rename", "os.link", "os.symlink"}:
        _check_name(paths[-1] if event != "os.mkdir" else paths[0])
        if event == "os.rename":
            _check_closed(paths)
    elif event == "os.remove":
        _check_closed(paths)


def _check_name(path: Path) -> None:
    name = path.name
    if set(name) & _FORBIDDEN or name.endswith((".", " ")) or name.partition(".")[0].lower() in _RESERVED:
        raise OSError(errno.EINVAL, "no name for a file", str(path))


def _check_closed(paths: Sequence[Path]) -> None:
    wanted = {path.resolve() for path in paths if path.is_file()}
    for number in Path("/proc/self/fd").iterdir() if wanted else ():
        held = None
        with contextlib.suppress(OSError):  # the descriptor of this very listing is closed by then
            held = number.readlink()
        if held in wanted:
            raise _InUseError(errno.EACCES, "the file is open, so that it is neither replaced nor deleted", str(held))


class _InUseError(PermissionError):
    """As Windows has it."""

    winerror = 32


def main(arguments: Sequence[str]) -> int:
    """Run the commands one after the other; the first exit code that is not 0."""
    play()
    commands: list[list[str]] = [[]]
    for argument in arguments:
        if argument == THEN:
            commands.append([])
        else:
            commands[-1].append(argument)
    for module, *rest in commands:
        sys.argv = [module, *rest]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                print(f"{module} {rest}: exit code {end.code}", file=sys.stderr)  # noqa: T201
                return int(end.code) if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
