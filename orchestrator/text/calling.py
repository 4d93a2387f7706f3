"""How our own commands are typed: what a message tells the user to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

ENTRY = "cpcnn"  # the one command that has all others
_MODULE = f"orchestrator.{ENTRY}"


def again(command: str, *arguments: str) -> str:
    """How to type one of our commands from where the user is, in the way in which they typed the running one.

    `cpcnn best ...` or `python -m orchestrator.best ...`, behind `uv run` where that is in front.
    """
    uv = ["uv", "run"] if "UV_RUN_RECURSION_DEPTH" in os.environ else []
    if (script := _script()) is not None:
        return shlex.join([*uv, script, command, *arguments])
    if _module() == _MODULE:
        return shlex.join([*_python(uv), "-m", _MODULE, command, *arguments])
    return shlex.join([*_python(uv), "-m", f"orchestrator.{command.replace('-', '_')}", *arguments])


def same() -> str:
    """How to type the running command once more."""
    uv = ["uv", "run"] if "UV_RUN_RECURSION_DEPTH" in os.environ else []
    script = _script()
    typed = [*uv, script] if script is not None else [*_python(uv), "-m", _module()]
    return shlex.join([*typed, *sys.argv[1:]])


def _script() -> str | None:
    """How the script is called that runs; None where a module does."""
    path = Path(sys.argv[0])
    if path.stem != ENTRY or path.suffix == ".py":
        return None
    found = shutil.which(ENTRY)
    return ENTRY if found is not None and Path(found).resolve() == path.resolve() else str(path)


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else "orchestrator"


def _python(uv: list[str]) -> list[str]:
    if uv:
        return [*uv, "python"]
    return ["python"] if Path(sys.executable).name.startswith("python") else [sys.executable]


def without_environment(missing: str) -> str:
    """What to tell who typed a command where a package of the project's environment is missing."""
    command = shlex.join(["uv", "run", "python", "-m", _module(), *sys.argv[1:]])
    activate = Path(__file__).parents[2] / ".venv" / "bin" / "activate"
    way = f"type {command}"
    if activate.is_file():
        way += f", or activate the environment first: source {shlex.quote(os.path.relpath(activate))}"
    return f"{sys.executable} lacks the package {missing}, so it is not the project's environment; {way}"
