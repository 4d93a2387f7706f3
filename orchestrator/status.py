"""`python -m orchestrator.status`: where the sweeps stand, from their files alone, from any shell or machine."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator import command_line as cli
from orchestrator import leaderboard, lease, streams
from orchestrator.budget import spent
from orchestrator.leaderboard import Entry
from orchestrator.objective import Objective
from orchestrator.progress import duration, plain
from orchestrator.store import FINISHED, Store, StoreError, sweeps

app = cli.command()

_WATCH_SECONDS = 2.0
_FAILURES = 5  # shown of each sweep


@dataclass(frozen=True)
class Driver:
    """Who runs a sweep, or ran it last."""

    who: str
    alive: bool | None  # None: it runs, or ran, on another machine, which cannot be asked from here


@app.command()
def main(
    results: cli.Results = Path("results"),
    sweep: Annotated[str | None, typer.Option(help="The sweep to show; all of them.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show states, the best trial so far, the rate, the time left, failures with their reasons, and the driver."""
    console = cli.console()
    with cli.plain_errors():
        found = [store for store in sweeps(results) if sweep in {None, store.folder.name}]
        if not found:
            there = ", ".join(store.folder.name for store in sweeps(results))
            wanted = f"no sweep {sweep}" if sweep else "no sweep"
            raise StoreError(f"{results}: holds {wanted}" + (f"; there are {there}" if there else ""))
        if not watch:
            console.print(Group(*map(render, found)))
            return
        with suppress(KeyboardInterrupt):
            _watch(console, found)


def _watch(console: Console, found: Sequence[Store]) -> None:
    """Show it again and again, until nobody looks any more; where it is no terminal, when it has changed."""
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


def render(store: Store) -> RenderableType:
    """The state of one sweep."""
    entries, problems = leaderboard.read([store])
    try:
        held = store.read_sweep() or {}
    except StoreError as error:
        held = {}
        problems.append(str(error))
    asked, runs = held.get("asked", {}), held.get("runs", [])
    total = int(runs[-1].get("trials") or 0 if runs else 0) or len(entries)
    states = Counter(str(entry.trial["state"]) for entry in entries)
    ended = sum(states[state] for state in FINISHED)
    driver = driver_of(store)
    running = [entry for entry in entries if entry.trial["state"] == "RUNNING"]
    said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    lines = [Text(f"{store.folder.name}: {ended} of {total} trials have ended ({said or 'none began'})", style="bold")]
    lines.append(Text(_alive(driver, unfinished=ended < total)))
    rate = per_hour(entry.trial for entry in entries)
    if rate is not None and driver is not None and driver.alive is not False and ended < total:
        left = duration((total - ended) / rate * 3600)
        lines.append(Text(f"{rate:.1f} trials an hour, about {left} left"))
    gone = driver is None or driver.alive is False
    if (bill := cost(runs, running=not gone)) is not None:
        lines.append(Text(bill))
    objective = _objective(asked)
    if objective is not None:
        lines.append(Text(_best(entries, objective, asked.get("space", {}))))
    for entry in running if driver is not None and driver.alive is not False else []:
        of = entry.trial["train.epochs"]
        if entry.trial["error"]:
            lines.append(Text(f"  {entry.trial_id} waits to be started again: {entry.trial['error']}", style="yellow"))
            continue
        lines.append(Text(f"  {entry.trial_id} runs: epoch {len(entry.epochs)}/{of} on {entry.trial['host'] or '?'}"))
    failed = [entry for entry in entries if entry.trial["state"] == "FAILED"]
    lines += [Text(f"  {each.trial_id} FAILED: {each.trial['error']}", style="red") for each in failed[-_FAILURES:]]
    if len(failed) > _FAILURES:
        lines.append(Text(f"  and {len(failed) - _FAILURES} more that failed", style="red"))
    lines += [Text(f"warning: {problem}", style="yellow") for problem in problems]
    return Group(*lines)


def driver_of(store: Store) -> Driver | None:
    """Whoever holds the sweep, or held it last; None where nobody did."""
    found = lease.seen(store.folder, lease.DRIVER)
    if found is None:
        return _before_leases(store)
    if found.is_held:
        heard = "" if found.holder.is_of_this_machine else f", heard of {found.silent:.0f} s ago"
        return Driver(f"{found.holder}{heard}", True)
    return Driver(str(found.holder), False)


def _before_leases(store: Store) -> Driver | None:
    """The same of a sweep on a disk whose last driver was of a release that left another file."""
    try:
        held = json.loads((store.folder / "driver.json").read_text())
        who = f"pid {held['pid']} on {held['host']}, since {held['since']}"
        return Driver(who, None if held["host"] != platform.node() else psutil.pid_exists(int(held["pid"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def per_hour(attempts: Iterable[Mapping[str, Any]]) -> float | None:
    """Trials that ended for each hour in which any of them ran; None where it cannot be told yet."""
    rows = [row for row in attempts if row["state"] in FINISHED and row["ended"]]
    hours = spent(rows, ()).hours  # a night between two runs of the command is none of them
    return len(rows) / hours if hours > 0 else None


def cost(runs: Sequence[Mapping[str, Any]], *, running: bool) -> str | None:
    """What the nodes have cost in all runs together, as the driver wrote it down; None where nodes have no price."""
    billed = [run for run in runs if run.get("cost") is not None]
    if not billed:
        return None
    said = f"cost so far: {math.fsum(run['cost'] for run in billed):.2f}"
    if (limit := runs[-1].get("max_cost")) is not None:
        said += f" of the {limit:.2f} that --max-cost allows"
    if running and (price := runs[-1].get("price_per_hour")):
        said += f"; an hour costs {price:.2f} now"
    return said


def _best(entries: list[Entry], objective: Objective, fields: Iterable[str]) -> str:
    for entry in leaderboard.ranked(entries, objective)[:1]:
        epoch = entry.best(objective)
        value = None if epoch is None else objective.value(epoch)
        if epoch is not None and value is not None:
            searched = dict.fromkeys((*fields, *leaderboard.differing([each.settings() for each in entries])))
            settings = entry.settings()
            shown = ", ".join(f"{key.rpartition('.')[2]} {plain(settings[key])}" for key in searched if key in settings)
            worth = f"{objective.metric} {value:.4f} in epoch {epoch['epoch']}"
            return f"best so far: {worth} of {entry.trial_id}: {shown}"
    return "no epoch has been measured yet"


def _objective(asked: Mapping[str, Any]) -> Objective | None:
    held = asked.get("objective")
    return Objective.from_description(held) if isinstance(held, Mapping) else None


def _alive(driver: Driver | None, *, unfinished: bool) -> str:
    if driver is None:
        return "no driver has held it"
    if driver.alive is None:
        return f"driver: {driver.who}; whether it still runs can only be told there"
    if driver.alive:
        return f"driver: {driver.who}, running"
    return f"driver: {driver.who}, gone" + ("; the same command goes on where it stood" if unfinished else "")


if __name__ == "__main__":
    cli.run(app)
