"""`cpcnn status`: where the sweeps stand, from their files alone, from any shell or machine."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group

from orchestrator import command_line as cli
from orchestrator.process import streams

if TYPE_CHECKING:
    from orchestrator.records.store import Store

app = cli.command()

_WATCH_SECONDS = 2.0


@app.command(epilog=cli.examples("status", "status --sweep digits --watch"))
@cli.plain_errors()
def main(
    results: cli.Results = Path("results"),
    sweep: Annotated[
        str | None,
        typer.Option(rich_help_panel=cli.CHOICE_PANEL, show_default="all of them", help="The sweep to show."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            rich_help_panel=cli.SHOWN_PANEL,
            show_default="text",
            help="One JSON object, for programs; docs/sweeps.md has its keys.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            rich_help_panel=cli.SHOWN_PANEL,
            show_default="once",
            help="Look again every two seconds, until Ctrl-C.",
        ),
    ] = False,
) -> None:
    """Show states, the best trial so far, the rate, the time left, failures with their reasons, and the driver."""
    console = cli.console()
    from orchestrator.records.store import StoreError, sweeps
    from orchestrator.views.overview import render

    found = [store for store in sweeps(results) if sweep in {None, store.folder.name}]
    if not found:
        there = ", ".join(store.folder.name for store in sweeps(results))
        wanted = f"no sweep {sweep}" if sweep else "no sweep"
        raise StoreError(f"{results}: holds {wanted}" + (f"; there are {there}" if there else ""))
    if as_json:
        from orchestrator.views.state import described, state_of

        typer.echo(json.dumps(described(map(state_of, found)), indent=2))
        return
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(console, found)
        return
    console.print(Group(*map(render, found)))
    if sweep is not None:
        _print_dashboard(console, found)


def _watch(console: Console, found: Sequence[Store]) -> None:
    """Show it again and again, until nobody looks any more; where it is no terminal, when it has changed."""
    from rich.live import Live

    from orchestrator.views.overview import render

    shown = None
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while not streams.is_gone(sys.stdout):
            state = Group(*map(render, found))
            if live is not None:
                live.update(state, refresh=True)
            else:
                with console.capture() as text:
                    console.print(state)
                if text.get() != shown:
                    shown = text.get()
                    console.file.write(shown)
                    console.file.flush()
            time.sleep(_WATCH_SECONDS)


def _print_dashboard(console: Console, stores: Iterable[Store]) -> None:
    """How to look at the study in Optuna's own view, where this machine has it."""
    from orchestrator.search import study_file  # Optuna takes a second to import

    for store in stores:
        if store.study_file.exists():
            artifacts = store.artifacts_folder.absolute()
            pictures = ["--artifact-dir", str(artifacts)] if artifacts.is_dir() else []
            command = ["uv", "run", "optuna-dashboard", study_file.url(store.study_file.absolute()), *pictures]
            console.print("Optuna's own view of the search:")
            console.print(f"  {shlex.join(command)}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
