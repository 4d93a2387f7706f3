"""`cpcnn stop TRIAL_ID`: end one trial of a running sweep; the sweep goes on with its others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator.text import calling

if TYPE_CHECKING:
    from orchestrator.records.location import Folder
    from orchestrator.records.store import Row, Store

app = cli.command()

_LOOK_SECONDS = 1.0


@app.command(epilog=cli.examples("stop 1a2b3c", "stop 1a2b3c --sweep digits --results s3://bucket/results"))
@cli.plain_errors()
def main(
    trial_id: Annotated[str, typer.Argument(metavar="TRIAL_ID", help=cli.TRIAL_HELP)],
    sweep: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=cli.CHOICE_PANEL,
            show_default="the one that runs it",
            help="The sweep that runs the trial.",
        ),
    ] = None,
    results: cli.Results = Path("results"),
    wait: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", rich_help_panel=cli.SHOWN_PANEL, help="How long to wait until it has ended."
        ),
    ] = 60.0,
) -> None:
    """End one trial of a running sweep, from any machine that sees its results.

    Its epochs and weights stay, and its state is STOPPED: no command takes it up by itself. The epoch that it is in is
    lost.
    """
    console = cli.console()
    from orchestrator.records import stop_requests, trial_ids

    chosen = None if sweep is None else cli.known_name(sweep)
    trial_id = trial_ids.whole(results, trial_id, chosen)
    store = _running(results, trial_id, chosen)
    stop_requests.ask(store, trial_id)
    _wait(console, store, trial_id, wait)


def _running(results: Folder, trial_id: str, sweep: str | None) -> Store:
    """The sweep whose driver runs the trial, or will. Raise StoreError where nobody does."""
    from orchestrator.records.processes import driver_of
    from orchestrator.records.states import meaning_of
    from orchestrator.records.store import Store, StoreError, sweeps

    searched = sweeps(results) if sweep is None else [Store(results / sweep)]
    held = {store: row for store in searched if (row := _last(store, trial_id)) is not None}
    if not held:
        where = results if sweep is None else results / sweep
        raise StoreError(f"{where}: no trial {trial_id}; `{calling.again('status')}` shows those that run")
    going = {store: row for store, row in held.items() if not meaning_of(row["state"]).ended}
    if not going:
        ends = ", ".join(f"{row['state']} in {store.folder.name}" for store, row in held.items())
        raise StoreError(f"trial {trial_id}: is {ends}; only a trial that runs can be stopped")
    if len(going) > 1:
        names = ", ".join(store.folder.name for store in going)
        raise StoreError(f"trial {trial_id}: runs in {names}; say which with --sweep")
    [(store, row)] = going.items()
    if row["number"] is None:
        raise StoreError(
            f"trial {trial_id}: was begun by hand, so that no driver could end it; type Ctrl-C where it runs, "
            f"pid {row['pid']} on {row['host']}"
        )
    driver = driver_of(store)
    if driver is None or not driver.alive:
        who = "" if driver is None else f": its driver, {driver.who}, is gone"
        raise StoreError(
            f"trial {trial_id}: is {row['state']} in {store.folder}, which nothing runs now{who}. The command of the "
            "sweep would go on with it"
        )
    return store


def _last(store: Store, trial_id: str) -> Row | None:
    """The row of the trial's last attempt."""
    attempts = store.attempts_of(trial_id)
    return attempts[-1] if attempts else None


def _wait(console: Console, store: Store, trial_id: str, seconds: float) -> None:
    """Wait until the driver has ended the trial, and say how it ended. Exit where nothing has happened in this time."""
    from orchestrator.records import stop_requests
    from orchestrator.records.states import meaning_of

    until = time.monotonic() + seconds
    with cli.doing(console, f"The driver of {store.folder.name} is asked to end trial {trial_id}"):
        while not meaning_of((row := _last(store, trial_id) or {})["state"]).ended and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
    if not meaning_of(row["state"]).ended:
        cli.fail(
            f"trial {trial_id}: has not ended within {seconds:g} s. The request stays, and the driver follows it "
            f"when it looks; `{calling.again('status', '--sweep', store.folder.name)}` shows when",
            cli.FAILED,
        )
    stop_requests.withdraw(store, trial_id)  # where the trial had ended by itself
    told = f"Trial {trial_id} is {row['state']} after {row['epochs']} epochs; the sweep goes on without it."
    console.print(told, soft_wrap=True, highlight=False)
    console.print("To go on with it as a trial of its own:", highlight=False)
    again = calling.again("trial", "--from", trial_id, "--more-epochs", "1")
    console.print(f"  {again}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
