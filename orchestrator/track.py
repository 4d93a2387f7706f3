"""`cpcnn track --sweep NAME --wandb online`: show a sweep, running or ended, in other tools."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import command_line as cli

app = cli.command()


@app.command(epilog=cli.examples("track --sweep digits --tensorboard", "track --sweep digits --wandb offline"))
@cli.plain_errors()
def main(
    sweep: Annotated[str, typer.Option(rich_help_panel=cli.CHOICE_PANEL, help="The sweep to show.")],
    results: cli.Results = Path("results"),
    wandb: cli.WandbOption = None,
    tensorboard: cli.TensorBoardOption = False,
    tracker: cli.TrackerOption = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            rich_help_panel=cli.SHOWN_PANEL,
            show_default="once",
            help="Go on until stdin ends.",
        ),
    ] = False,
) -> None:
    """Show what has not been shown yet of a sweep's trials."""
    from orchestrator.records.store import Store, StoreError, sweeps
    from orchestrator.views import tracking

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    _warn_plainly()
    asked = tracking.asked(tracker or (), wandb=wandb, tensorboard=tensorboard)
    if not asked:
        raise StoreError("nothing to do: say --wandb online, --wandb offline, --tensorboard or --tracker NAME")
    store = Store((results / cli.known_name(sweep)).absolute())
    if not follow and sweep not in {found.folder.name for found in sweeps(results)}:
        raise StoreError(f"{results}: holds no sweep {sweep}")
    tracking.track(store, asked, until=_end_of_stdin() if follow else None)
    if not follow:  # whoever follows has said it
        for line in (*tracking.to_look(store, asked), *tracking.to_send(store, asked)):
            typer.echo(line)


def _end_of_stdin() -> threading.Event:
    """Set once nobody can write to this process any more."""
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    return over


def _warn_plainly() -> None:
    """Warnings without a time, so that whoever started this process can tell them from the rest."""
    from orchestrator.views import tracking

    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{tracking.WARNING}%(message)s"))
    handler.addFilter(lambda record: record.levelno == logging.WARNING and record.name.startswith("orchestrator"))
    for other in root.handlers:
        other.addFilter(lambda record: record.levelno != logging.WARNING or not record.name.startswith("orchestrator"))
    root.addHandler(handler)


if __name__ == "__main__":
    cli.run(app)
