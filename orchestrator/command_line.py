"""What all commands share: errors as one message and an exit code, and how to spell the next command."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from cpcnn_core.config import ConfigError
from cpcnn_core.errors import CheckpointError, DataError
from orchestrator import streams
from orchestrator.space import SpaceError
from orchestrator.storage import Folder, RemoteError, located
from orchestrator.store import StoreError


def _results(text: str | Path) -> Folder:
    try:
        return located(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


BAD_INPUT = 2
FAILED = 1
STOPPED = 130  # as a shell reports a program that Ctrl-C ended

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="A space file, as search_spaces/digits.py.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Fix a configuration field. May be repeated.")
]
_RESULTS = typer.Option(
    parser=_results, metavar="FOLDER|URL", help="What holds a folder per sweep: a folder, or as s3://bucket/results."
)
if TYPE_CHECKING:
    Results = Annotated[Folder, _RESULTS]
else:
    Results = Annotated[Path, _RESULTS]  # typer takes no union
Seed = Annotated[int, typer.Option(min=0, help="Seeds the search, and each trial unless the space says otherwise.")]


def console() -> Console:
    """Stdout; where it is no terminal, wide enough that no table loses columns."""
    here = Console()
    return here if here.is_terminal else Console(width=160)


def command() -> typer.Typer:
    """An application without shell completion, whose errors are messages and not tracebacks."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer) -> None:
    """Run a command as the process that it is. Its work and exit code do not depend on whether anybody reads it."""
    streams.outlast()
    try:
        app()
    finally:
        if told := streams.lost():
            _say(f"warning: {told}", "yellow")


def folder_name(name: str) -> str:
    """A sweep's name as it was given. Raise StoreError where it is no plain name of one folder."""
    if name in {"", ".", ".."} or Path(name).name != name:
        raise StoreError(f"--name {name}: must be the plain name of a folder, without a path; --results says where")
    return name


@contextmanager
def plain_errors(*more: type[Exception]) -> Generator[None]:
    """Turn what a user can mend into one message on stderr and exit code 2."""
    ours = (SpaceError, StoreError, RemoteError, ConfigError, DataError, CheckpointError)
    kinds: tuple[type[Exception], ...] = (*ours, *more)
    try:
        yield
    except kinds as error:
        fail(str(error), BAD_INPUT)
    except FileNotFoundError as error:
        if error.filename is not None or "temporary directory" not in str(error):
            raise
        where = os.environ.get("TMPDIR") or "not set"
        fail(f"TMPDIR ({where}): {error.strerror}; let it name a folder that can be written and has room", BAD_INPUT)


def fail(message: str, code: int) -> None:
    """Print the message on stderr and exit."""
    _say(f"error: {message}", "red")
    raise typer.Exit(code)


def _say(message: str, style: str) -> None:
    Console(stderr=True).print(Text(message, style=style), soft_wrap=True)


def again(*arguments: str) -> str:
    """How to call one of our modules from where the user is: `uv run python -m orchestrator.best ...`."""
    python = ["python"] if Path(sys.executable).name.startswith("python") else [sys.executable]
    prefix = ["uv", "run", "python"] if "UV_RUN_RECURSION_DEPTH" in os.environ else python
    return shlex.join([*prefix, "-m", *arguments])


def same() -> str:
    """How to type the running command once more."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return again(spec.name if spec is not None else "orchestrator", *sys.argv[1:])
