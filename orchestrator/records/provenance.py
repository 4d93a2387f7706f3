"""Where results come from: the commit, the versions and the machine, recorded beside every number."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("cpcnn-sweeps", "torch", "ray", "optuna", "accelerate", "numpy", "pyarrow", "safetensors")

COMMIT = "CPCNN_COMMIT"  # environment: the commit of code that was sent here without its repository


def cores() -> int:
    """The cores that this process may use: fewer than the machine has under taskset, or in a container with a limit."""
    import joblib  # takes a moment, and who only reads resources does without

    return int(joblib.cpu_count())


def moment() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def now() -> str:
    """The time in UTC, ISO 8601, whole milliseconds."""
    return moment().isoformat(timespec="milliseconds")


@cache
def git_commit() -> str | None:
    """The commit of this code, with `+changes` where the working tree differs from it; None outside a checkout."""
    if told := os.environ.get(COMMIT):
        return told
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(here, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changes else commit


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that decide a result."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, str | int]:
    """The machine, as far as it can be told without waking an accelerator; its cores are those that we may use."""
    return {"host": platform.node(), "platform": platform.platform(), "cpus": cores()}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, encoding="utf-8", check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
