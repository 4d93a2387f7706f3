"""`cpcnn COMMAND`: every command under one name. One is imported where it is asked for, so that help comes at once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from orchestrator import command_line as cli
from orchestrator.text import calling

_SEARCH, _RESULTS, _FILES, _HERE = "Search", "Results", "Space files", "This machine"


class _Listed(NamedTuple):
    """A command as the list has it, which imports none."""

    name: str
    panel: str
    help: str

    @property
    def module(self) -> str:
        return f"orchestrator.{self.name.replace('-', '_')}"

    def imported(self) -> Any:  # Any: a class that typer does not publish
        return typer.main.get_command(importlib.import_module(self.module).app)


COMMANDS = (
    _Listed("sweep", _SEARCH, "Search a space; the same command again resumes it."),
    _Listed("trial", _SEARCH, "Train one trial here; import, replay, sample, look."),
    _Listed("status", _SEARCH, "Say where the sweeps stand."),
    _Listed("stop", _SEARCH, "End one trial of a running sweep."),
    _Listed("best", _RESULTS, "Choose a checkpoint, say how sure that is, export it."),
    _Listed("report", _RESULTS, "Write the results as one HTML page."),
    _Listed("track", _RESULTS, "Show a sweep in Weights & Biases or TensorBoard."),
    _Listed("export", _RESULTS, "Check a folder that best exported."),
    _Listed("fid", _RESULTS, "Measure FID and KID between two folders of images."),
    _Listed("spaces", _FILES, "List the spaces that ship, with question and cost."),
    _Listed("new-space", _FILES, "Write a space file to change, with comments."),
    _Listed("doctor", _HERE, "Say whether this machine will do, and its GPU."),
)
_BY_NAME = {one.name: one for one in COMMANDS if importlib.util.find_spec(one.module) is not None}


def listed() -> list[str]:
    """The names of the commands that there are."""
    return list(_BY_NAME)


class _Lazy(TyperGroup):
    """Imports a command once it is called, or completed by a shell, and not to list it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # Any: classes that typer does not publish
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, None if placeholder is None else _BY_NAME[str(name)].imported(), rest


app = typer.Typer(cls=_Lazy, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        cli.console().print(f"{calling.ENTRY} {version('cpcnn-sweeps')}", highlight=False)
        raise typer.Exit


@app.callback(epilog=cli.examples("sweep digits", "best --metric val_acc --sweep digits"))
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Experiment sweeps for class-conditional PixelCNN++: search, train, evaluate, choose, export."""


def _listed() -> None:
    """Never called: `_Lazy` puts the command itself in its place."""


for one in _BY_NAME.values():
    app.command(one.name, help=one.help, rich_help_panel=one.panel)(_listed)


def main() -> None:
    """Run the command that was typed."""
    if len(sys.argv) < 2 or sys.argv[1] not in _BY_NAME:
        cli.run(app)
        return
    # Straight to the command: for the options in front of it, typer would import pydantic, which doubles its time.
    typed = sys.argv[1:]
    names = [typed.pop(0)]
    command = _BY_NAME[names[0]].imported()
    while isinstance(command, TyperGroup) and typed and typed[0] in command.commands:
        names.append(typed.pop(0))
        command = command.commands[names[-1]]
    cli.run(lambda: command(typed, prog_name=" ".join([calling.ENTRY, *names])))


if __name__ == "__main__":
    main()
