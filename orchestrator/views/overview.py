"""Where one sweep stands, from its files alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from cpcnn_core import alarms
from orchestrator.choosing.asked import Parted, parted
from orchestrator.objectives.objective import Objective
from orchestrator.records import ranking
from orchestrator.records.kinds import Kind, kind_of
from orchestrator.records.processes import Driver, driver_of, is_alive
from orchestrator.records.ranking import Entry
from orchestrator.records.states import meaning_of, reason_of
from orchestrator.records.store import Row, Store, StoreError
from orchestrator.records.sweep_file import Run, SweepRecord
from orchestrator.search.budget import spent
from orchestrator.text.formatting import measured, plain
from orchestrator.views.progress import duration

_SHOWN = 5  # of the trials that failed, of those that wait, and of what alarms


def render(store: Store) -> RenderableType:
    """The state of one sweep."""
    every, problems = ranking.read([store])
    try:
        sweep = store.read_sweep() or SweepRecord()
    except StoreError as error:
        sweep = SweepRecord()
        problems.append(str(error))
    parts = parted(every, sweep)
    runs = sweep.runs
    total = (runs[-1].trials or 0 if runs else 0) or len(parts.own)
    driver = driver_of(store)
    gone = driver is None or driver.alive is False
    lines = [Text(f"{store.folder.name}: {_counts(parts, total)}", style="bold")]
    lines += map(Text, _progress(parts.own, total, driver))
    if (bill := cost(runs, running=not gone)) is not None:
        lines.append(Text(bill))
    objective = None if sweep.objective is None else Objective.from_description(sweep.objective)
    if objective is not None:
        lines.append(Text(_best(parts.own, objective, sweep.asked.space if sweep.asked else ())))
    lines += _running_trials(every, kind_of(store.folder.name, sweep or None), gone=gone)
    lines += _some([entry for entry in every if entry.meaning.waits], "yellow", "wait")
    lines += _some([entry for entry in every if entry.meaning.failed], "red", "failed")
    if failed := [entry for entry in parts.own if entry.meaning.failed]:
        lines.append(Text(f"  the same command with --retry-failed runs the {len(failed)} that failed again"))
    lines += _alarming(every)
    lines += [Text(f"warning: {problem}", style="yellow") for problem in problems]
    return Group(*lines)


def _counts(parts: Parted, total: int) -> str:
    """How many of the sweep's trials have ended, and in which states all of them are."""
    states = Counter(str(entry.trial["state"]) for entry in parts.own)
    by_state = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    others = f", and {parts.others_in_words}" if parts.others else ""
    return f"{_ended(parts.own)} of {total} trials have ended ({by_state or 'none began'}){others}"


def _progress(entries: Sequence[Entry], total: int, driver: Driver | None) -> list[str]:
    """Who runs the sweep; where it may go on, how fast, and how long it will take."""
    left = total - _ended(entries)
    lines = [_alive(driver, unfinished=left > 0)]
    rate = per_hour(entry.trial for entry in entries)
    if rate is not None and driver is not None and driver.alive is not False and left > 0:
        lines.append(f"{rate:.1f} trials an hour, about {duration(left / rate * 3600)} left")
    return lines


def _ended(entries: Iterable[Entry]) -> int:
    return sum(entry.meaning.ended for entry in entries)


def _running_trials(entries: Iterable[Entry], kind: Kind, *, gone: bool) -> list[Text]:
    """The trials that the driver runs, unless it is gone, and then those that were begun by hand."""
    running = [entry for entry in entries if entry.meaning.runs]
    by_driver = [] if gone else [Text(_running(entry)) for entry in running if not _is_by_hand(entry)]
    return by_driver + [_by_hand(entry, kind) for entry in running if _is_by_hand(entry)]


def per_hour(attempts: Iterable[Row]) -> float | None:
    """Trials that ended for each hour in which any of them ran; None where it cannot be told yet."""
    rows = [row for row in attempts if meaning_of(row["state"]).ended and row["ended"]]
    hours = spent(rows, ()).hours  # a night between two runs of the command is none of them
    return len(rows) / hours if hours > 0 else None


def cost(runs: Sequence[Run], *, running: bool) -> str | None:
    """What the nodes have cost in all runs together, as the driver wrote it down; None where nodes have no price."""
    billed = [run.cost for run in runs if run.cost is not None]
    if not billed:
        return None
    told = f"cost so far: {math.fsum(billed):.2f}"
    if (limit := runs[-1].max_cost) is not None:
        told += f" of the {limit:.2f} that --max-cost allows"
    if running and (price := runs[-1].price_per_hour):
        told += f"; an hour costs {price:.2f} now"
    return told


def _running(entry: Entry) -> str:
    at = f"epoch {len(entry.epochs)}/{entry.trial['train.epochs']} on {entry.trial['host'] or '?'}"
    return f"  {entry.trial_id} runs: {at}"


def _is_by_hand(entry: Entry) -> bool:
    """Whether no driver runs it, but a command of its own."""
    return entry.trial["number"] is None


def _by_hand(entry: Entry, kind: Kind) -> Text:
    """How a trial that was begun by hand stands, and how it goes on where its process is gone."""
    alive = is_alive(entry.trial)
    if alive:
        return Text(_running(entry))
    if alive is None:
        return Text(f"{_running(entry)}; whether it still runs can only be told there")
    way = {"imported": "the same import takes it in", "replays": f"`trial replay {entry.trial_id}` begins it anew"}
    after = f"the `trial` command that began it goes on after epoch {len(entry.epochs)}"
    process = f"its process, pid {entry.trial['pid']} on this machine, is gone"
    return Text(f"  {entry.trial_id} RUNNING: {process}; {way.get(kind, after)}", style="yellow")


def _alarming(entries: Sequence[Entry]) -> list[Text]:
    """What alarms in the last epochs of trials; of so many that this is read, and of the latest ones."""
    found = [
        (entry, entry.epochs[-1], sentence)
        for entry in entries
        if entry.epochs and not entry.meaning.failed
        for sentence in alarms.of_epoch(entry.epochs[-1])
    ]
    lines = [
        Text(f"  {entry.trial_id} epoch {epoch['epoch']}: {sentence}", style="yellow")
        for entry, epoch, sentence in found[-_SHOWN:]
    ]
    if len(found) > _SHOWN:
        lines.append(Text(f"  and {len(found) - _SHOWN} more like these", style="yellow"))
    return lines


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
