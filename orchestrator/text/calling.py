"""How our own commands are typed: what a message tells the user to type next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def again(*arguments: str) -> str:
    """How to call one of our modules from where the user is: `uv run python -m orchestrator.best ...`."""
    python = ["python"] if Path(sys.executable).name.startswith("python") else [sys.executable]
    prefix = ["uv", "run", "python"] if "UV_RUN_RECURSION_DEPTH" in os.environ else python
    return shlex.join([*prefix, "-m", *arguments])


def same() -> str:
    """How to type the running command once more."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return again(spec.name if spec is not None else "orchestrator", *sys.argv[1:])


def without_environment(missing: str) -> str:
    """What to tell who typed a command where a package of the project's environment is missing."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    command = shlex.join(
        ["uv", "run", "python", "-m", spec.name if spec is not None else "orchestrator", *sys.argv[1:]]
    )
    activate = Path(__file__).parents[2] / ".venv" / "bin" / "activate"
    way = f"type {command}"
    if activate.is_file():
        way += f", or activate the environment first: source {shlex.quote(os.path.relpath(activate))}"
    return f"{sys.executable} lacks the package {missing}, so it is not the project's environment; {way}"
