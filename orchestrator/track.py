"""`python -m orchestrator.track --sweep NAME --wandb online`: show a sweep, running or ended, in other tools."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import command_line as cli
from orchestrator.records import alone
from orchestrator.records.store import Store, StoreError, sweeps
from orchestrator.views import tracking
from orchestrator.views.tracking import WandbMode

app = cli.command()

_POLL_SECONDS = 2.0


@app.command()
def main(
    sweep: Annotated[str, typer.Option(help="The sweep to show.")],
    results: cli.Results = Path("results"),
    wandb: cli.WandbOption = None,
    tensorboard: cli.TensorBoardOption = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until stdin ends, rather than once.")] = False,
) -> None:
    """Show what has not been shown yet of a sweep's trials."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    _warn_plainly()
    with cli.plain_errors():
        if wandb is None and not tensorboard:
            raise StoreError("nothing to do: say --wandb online, --wandb offline or --tensorboard")
        store = Store((results / cli.known_name(sweep)).absolute())
        if not follow and sweep not in {found.folder.name for found in sweeps(results)}:
            raise StoreError(f"{results}: holds no sweep {sweep}")
        try:
            with alone.alone(store.near / "tracking.lock"):
                _track(store, wandb, tensorboard, follow)
        except alone.BusyError:
            raise StoreError(f"{store.folder}: another process tracks this sweep already") from None


def _track(store: Store, wandb: WandbMode | None, tensorboard: bool, follow: bool) -> None:
    over = threading.Event()
    if follow:

        def wait_for_the_end() -> None:
            sys.stdin.read()
            over.set()

        threading.Thread(target=wait_for_the_end, daemon=True).start()
    else:
        over.set()
    follower = tracking.Follower(store, tracking.trackers(store, wandb=wandb, tensorboard=tensorboard))
    while not over.wait(_POLL_SECONDS):
        follower.step()
    follower.close()


def _warn_plainly() -> None:
    """Warnings without a time, so that whoever started this process can tell them from the rest."""
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{tracking.WARNING}%(message)s"))
    handler.addFilter(lambda record: record.levelno == logging.WARNING and record.name.startswith("orchestrator"))
    for other in root.handlers:
        other.addFilter(lambda record: record.levelno != logging.WARNING or not record.name.startswith("orchestrator"))
    root.addHandler(handler)


if __name__ == "__main__":
    cli.run(app)
