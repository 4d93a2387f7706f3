"""`python -m orchestrator.status`: where the sweeps stand, from their files alone, from any shell or machine."""

from __future__ import annotations

import json
import math
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator import command_line as cli
from orchestrator.choosing.asked import parted
from orchestrator.objectives.objective import Objective
from orchestrator.process import streams
from orchestrator.records import lease, ranking
from orchestrator.records.kinds import Kind, kind_of
from orchestrator.records.ranking import Entry
from orchestrator.records.states import meaning_of, reason_of
from orchestrator.records.store import Store, StoreError, sweeps
from orchestrator.records.sweep_file import Run, SweepRecord
from orchestrator.search.budget import spent
from orchestrator.text.formatting import measured, plain
from orchestrator.views.progress import duration

app = cli.command()

_WATCH_SECONDS = 2.0
_CLOCKS_DIFFER_SECONDS = 60.0  # at most, that of the kernel and the one that rows go by
_SHOWN = 5  # of the trials that failed, and of those that wait


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
            if sweep is not None:
                _print_dashboard(console, found)
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


def _print_dashboard(console: Console, stores: Iterable[Store]) -> None:
    """How to look at the study in Optuna's own view, where this machine has it."""
    from orchestrator.search import study_file  # Optuna takes a second to import

    for store in stores:
        if store.study_file.exists():
            command = shlex.join(["uv", "run", "optuna-dashboard", study_file.url(store.study_file.absolute())])
            console.print("Optuna's own view of the search:")
            console.print(f"  {command}", soft_wrap=True, highlight=False)


def render(store: Store) -> RenderableType:
    """The state of one sweep."""
    every, problems = ranking.read([store])
    try:
        sweep = store.read_sweep() or SweepRecord()
    except StoreError as error:
        sweep = SweepRecord()
        problems.append(str(error))
    parts = parted(every, sweep)
    entries = parts.own
    runs = sweep.runs
    total = (runs[-1].trials or 0 if runs else 0) or len(entries)
    states = Counter(str(entry.trial["state"]) for entry in entries)
    ended = sum(entry.meaning.ended for entry in entries)
    driver = driver_of(store)
    said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    besides = f", and {parts.besides}" if parts.others else ""
    count = f"{ended} of {total} trials have ended ({said or 'none began'}){besides}"
    lines = [Text(f"{store.folder.name}: {count}", style="bold")]
    lines.append(Text(_alive(driver, unfinished=ended < total)))
    rate = per_hour(entry.trial for entry in entries)
    if rate is not None and driver is not None and driver.alive is not False and ended < total:
        left = duration((total - ended) / rate * 3600)
        lines.append(Text(f"{rate:.1f} trials an hour, about {left} left"))
    gone = driver is None or driver.alive is False
    if (bill := cost(runs, running=not gone)) is not None:
        lines.append(Text(bill))
    objective = None if sweep.objective is None else Objective.from_description(sweep.objective)
    if objective is not None:
        lines.append(Text(_best(entries, objective, sweep.asked.space if sweep.asked else ())))
    running = [entry for entry in every if entry.meaning.runs]
    lines += [Text(_running(entry)) for entry in running if not gone and not _is_by_hand(entry)]
    lines += [_by_hand(entry, kind_of(store.folder.name, sweep or None)) for entry in running if _is_by_hand(entry)]
    lines += _some([entry for entry in every if entry.meaning.waits], "yellow", "wait")
    lines += _some([entry for entry in every if entry.meaning.failed], "red", "failed")
    if failed := [entry for entry in entries if entry.meaning.failed]:
        lines.append(Text(f"  the same command with --retry-failed runs the {len(failed)} that failed again"))
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
    rows = [row for row in attempts if meaning_of(row["state"]).ended and row["ended"]]
    hours = spent(rows, ()).hours  # a night between two runs of the command is none of them
    return len(rows) / hours if hours > 0 else None


def cost(runs: Sequence[Run], *, running: bool) -> str | None:
    """What the nodes have cost in all runs together, as the driver wrote it down; None where nodes have no price."""
    billed = [run.cost for run in runs if run.cost is not None]
    if not billed:
        return None
    said = f"cost so far: {math.fsum(billed):.2f}"
    if (limit := runs[-1].max_cost) is not None:
        said += f" of the {limit:.2f} that --max-cost allows"
    if running and (price := runs[-1].price_per_hour):
        said += f"; an hour costs {price:.2f} now"
    return said


def _running(entry: Entry) -> str:
    at = f"epoch {len(entry.epochs)}/{entry.trial['train.epochs']} on {entry.trial['host'] or '?'}"
    return f"  {entry.trial_id} runs: {at}"


def _is_by_hand(entry: Entry) -> bool:
    """Whether no driver runs it, but a command of its own."""
    return entry.trial["number"] is None


def _by_hand(entry: Entry, kind: Kind) -> Text:
    """How a trial that was begun by hand stands, and how it goes on where its process is gone."""
    alive = _is_alive(entry.trial)
    if alive:
        return Text(_running(entry))
    if alive is None:
        return Text(f"{_running(entry)}; whether it still runs can only be told there")
    way = {"imported": "the same import takes it in", "replays": f"`trial replay {entry.trial_id}` begins it anew"}
    after = f"the `trial` command that began it goes on after epoch {len(entry.epochs)}"
    process = f"its process, pid {entry.trial['pid']} on this machine, is gone"
    return Text(f"  {entry.trial_id} RUNNING: {process}; {way.get(kind, after)}", style="yellow")


def _is_alive(trial: Mapping[str, Any]) -> bool | None:
    """Whether the trial's process runs; None where that cannot be told from here."""
    if trial["pid"] is None or trial["host"] != platform.node():
        return None
    try:
        process = psutil.Process(int(trial["pid"]))
        begun = datetime.fromisoformat(trial["started"]).timestamp()
        # One that was started later has the number of one that has ended.
        is_its = bool(process.create_time() < begun + _CLOCKS_DIFFER_SECONDS)
        return is_its and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # somebody else's


def _some(entries: Sequence[Entry], style: str, what: str) -> list[Text]:
    """The last few of them with their reasons, and how many more there are."""
    lines = []
    for entry in entries[-_SHOWN:]:
        why = reason_of(entry.trial)
        lines.append(Text(f"  {entry.trial_id} {entry.trial['state']}" + (f": {why}" if why else ""), style=style))
    if len(entries) > _SHOWN:
        lines.append(Text(f"  and {len(entries) - _SHOWN} more that {what}", style=style))
    return lines


def _best(entries: list[Entry], objective: Objective, fields: Iterable[str]) -> str:
    found = ranking.leader(entries, objective)
    if found is None:
        return "no epoch has been measured yet"
    entry, epoch, value = found
    searched = dict.fromkeys((*fields, *ranking.differing([each.settings() for each in entries])))
    settings = entry.settings()
    shown = ", ".join(f"{key.rpartition('.')[2]} {plain(settings[key])}" for key in searched if key in settings)
    return f"best so far: {objective.metric} {measured(value)} in epoch {epoch['epoch']} of {entry.trial_id}: {shown}"


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
