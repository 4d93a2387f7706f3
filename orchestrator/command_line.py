"""What all commands share: options, errors as one message and an exit code, and how to spell the next command.

Imported for every `--help`: what takes long to import is imported where it is used.
"""

from __future__ import annotations

import bdb
import io
import os
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cpcnn_core import places
from cpcnn_core.errors import CpcnnError, RunError, UserError
from orchestrator.process import debugging, signals, streams
from orchestrator.records.errors import StoreError
from orchestrator.text import calling, names

if TYPE_CHECKING:
    from orchestrator.records.location import Folder


def _results(text: str | Path) -> Folder:
    from orchestrator.records.location import located

    try:
        return located(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def local(text: str | Path) -> Path:
    """Parse an argument or option that names a file or folder on this machine."""
    try:
        return text if isinstance(text, Path) else places.path(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def data_root(text: str) -> str:
    """Parse an option that says where a data set lies."""
    return text if places.is_url(text) else str(local(text).absolute())


def space_file(text: str | Path) -> Path:
    """Parse an argument that names a space file: its path, or the name of one that ships."""
    from orchestrator.search import shipped

    return shipped.asked(text, local(text))


def space_names(incomplete: str) -> list[str]:
    """What a shell completes a space file to: the names of those that ship, and the Python files here."""
    from orchestrator.search import shipped

    folder = Path(incomplete).parent
    files = [str(file) for file in folder.glob("*.py")] if folder.is_dir() else []
    return [name for name in (*shipped.names(), *sorted(files)) if name.startswith(incomplete)]


BAD_INPUT = UserError.exit_code
FAILED = RunError.exit_code
STOPPED = 130  # as a shell reports a program that Ctrl-C ended

# What the help's options are grouped by.
SPACE_PANEL = "What is asked"
SEARCH_PANEL = "How it is searched"
LIMITS_PANEL = "Limits"
AGAIN_PANEL = "Going on"
CLUSTER_PANEL = "Clusters"
RESULTS_PANEL = "Results"
SHOWN_PANEL = "What is shown"
CHOICE_PANEL = "Which trials"
OUT_PANEL = "What is written"
HERE_PANEL = "This machine"
LIVE_PANEL = "Live"

SpaceFile = Annotated[
    Path,
    typer.Argument(
        parser=space_file,
        metavar="SPACE",
        autocompletion=space_names,
        help="A space that ships, as digits, or a space file, as my/space.py. `cpcnn spaces` lists the former.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=SPACE_PANEL,
        show_default="the space file's, else docs/settings.md's",
        help="Fix a configuration field. May be repeated.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        rich_help_panel=SPACE_PANEL,
        show_default="none",
        help="What SPACE says otherwise under this name, as cpu; before --set.",
    ),
]
_RESULTS = typer.Option(
    parser=_results,
    metavar="FOLDER|URL",
    rich_help_panel=RESULTS_PANEL,
    show_default="the folder results",
    help="What holds a folder per sweep: a folder, or as s3://bucket/results.",
)
if TYPE_CHECKING:
    Results = Annotated[Folder, _RESULTS]
else:
    Results = Annotated[Path, _RESULTS]  # typer takes no union
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        rich_help_panel=SPACE_PANEL,
        help="Seeds the search, and each trial unless the space says otherwise.",
    ),
]
Sweeps = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        rich_help_panel=CHOICE_PANEL,
        show_default="those of the latest question",
        help="A sweep to choose from; may be repeated.",
    ),
]
Mode = Annotated[
    Literal["max", "min"] | None,
    typer.Option(rich_help_panel=CHOICE_PANEL, show_default="the metric's own", help="Which way is better."),
]
DataRoot = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="data.root=PATH",
        rich_help_panel=HERE_PANEL,
        show_default="where it lay",
        help="Where the data lies now.",
    ),
]
WandbOption = Annotated[
    Literal["online", "offline"] | None,
    typer.Option(
        "--wandb",
        rich_help_panel=SHOWN_PANEL,
        show_default="no runs there",
        help="A run of Weights & Biases per trial; offline keeps them on disk.",
    ),
]
TensorBoardOption = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        rich_help_panel=SHOWN_PANEL,
        show_default="no event files",
        help="Event files for TensorBoard in the sweep's folder.",
    ),
]
TrackerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME[=MODE]",
        rich_help_panel=SHOWN_PANEL,
        show_default="none",
        help="Show trials in another tool, as mlflow or wandb=offline,course-names; repeatable.",
    ),
]
PlainOption = Annotated[
    bool,
    typer.Option(
        "--plain",
        rich_help_panel=SHOWN_PANEL,
        show_default="a live display on a terminal",
        help="Plain lines instead of a display that is drawn over itself.",
    ),
]
WideOption = Annotated[
    bool,
    typer.Option(
        "--wide",
        rich_help_panel=SHOWN_PANEL,
        show_default="as many columns as fit, the rest below",
        help="Every column of a table in its line, however narrow the terminal is.",
    ),
]
TRIAL_HELP = "A trial's id, or as much of its beginning as no other trial has."


class _Plain(Console):
    """Prints what it is given and nothing else: no markup, no codes of emoji, no control characters."""

    def __init__(self, *, stderr: bool, width: int | None = None) -> None:
        super().__init__(markup=False, emoji=False, stderr=stderr, width=width)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=segment.text.translate(_VISIBLE))


_UNBOUNDED = 10_000  # columns
_VISIBLE = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def console(*, stderr: bool = False) -> Console:
    """Stdout, or stderr. Where it is no terminal and COLUMNS is not set, it is as wide as any table."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # what its encoding lacks ends no command
    here = _Plain(stderr=stderr)
    given = os.environ.get("COLUMNS", "").isdigit()
    return here if here.is_terminal or given else _Plain(stderr=stderr, width=_UNBOUNDED)


def command() -> typer.Typer:
    """An application without shell completion, whose errors are messages and not tracebacks."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def examples(*typed: str) -> str:
    """What stands below a command's help: lines to type, without `cpcnn` in front."""
    return "\n\n".join(["Examples:", *(f"  cpcnn {line}" for line in typed)])


@contextmanager
def doing(here: Console, what: str, *, plain: bool = False) -> Generator[None]:
    """Say what takes a while: on a terminal until it is done, elsewhere and with `plain` in a line."""
    if os.environ.get("RANK", "0") not in {"", "0"}:  # one of several processes; the first one says it
        yield
        return
    if plain or not here.is_interactive or debugging.is_debugged():
        here.print(f"{what} ...", highlight=False, soft_wrap=True)
        yield
        return
    from rich.live import Live

    # Drawn once, by no thread: what waits for somebody to type is not drawn over.
    shown = Live(Text(f"{what} ..."), console=here, auto_refresh=False, transient=True)
    with debugging.leaving(shown.stop), shown:
        yield


def run(app: Callable[[], object]) -> None:
    """Run a command as the process that it is. Its work and exit code do not depend on whether anybody reads it."""
    streams.outlast()
    try:
        app()
    finally:
        if told := streams.lost():
            warn(told)


def folder_name(name: str) -> str:
    """A new sweep's name as it was given. Raise StoreError where no sweep can have it."""
    if (problem := names.problem(name)) is not None:
        raise StoreError(f"--name {name if name.isprintable() else repr(name)}: {problem}")
    return name


def known_name(name: str) -> str:
    """The name of a sweep that is there, whatever else it may be called. Raise StoreError for a path."""
    if not names.is_plain(name):
        raise StoreError(f"--sweep {name}: {names.PLAIN}")
    return name


@contextmanager
def plain_errors() -> Generator[None]:
    """Turn an error that is ours into one message on stderr and the exit code of its class.

    Under a debugger it stays what it is: pdb looks into what was raised, and at an exit it only begins anew.
    """
    try:
        yield
    except CpcnnError as error:
        if debugging.is_run_by_debugger():
            raise
        fail(str(error), error.exit_code)
    except FileNotFoundError as error:
        if error.filename is not None or "temporary directory" not in str(error):
            raise
        where = os.environ.get("TMPDIR") or "not set"
        fail(f"TMPDIR ({where}): {error.strerror}; let it name a folder that can be written and has room", BAD_INPUT)


@contextmanager
def stoppable() -> Generator[None]:
    """End at SIGTERM and SIGHUP, and where a debugger is left, as at Ctrl-C, with exit code 130."""
    with signals.as_interrupts():
        try:
            yield
        except KeyboardInterrupt as error:
            stopped(console(), f"Stopped by {signals.why(error)}. The same command goes on, or begins anew:")
        except bdb.BdbQuit as error:
            stopped(console(), "Stopped, as the debugger was left. The same command goes on, or begins anew:", error)


def stopped(here: Console, what: str, why: BaseException | None = None) -> NoReturn:
    """Print what was stopped, and below it the command to type once more; exit as after Ctrl-C.

    Where the debugger was left that runs this program, it gets the exception by which it leaves, and is left itself.
    """
    if isinstance(why, bdb.BdbQuit) and debugging.is_run_by_debugger():
        raise why
    here.print(f"{what}\n  {calling.same()}", soft_wrap=True, highlight=False)
    raise typer.Exit(STOPPED) from None


def fail(message: str, code: int) -> None:
    """Print the message on stderr and exit."""
    _say(f"error: {message}", "red")
    raise typer.Exit(code)


def warn(message: str) -> None:
    """Print the message on stderr and go on."""
    _say(f"warning: {message}", "yellow")


def _say(message: str, style: str) -> None:
    console(stderr=True).print(Text(message, style=style), soft_wrap=True)
