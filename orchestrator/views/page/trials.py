"""Trials that run, trials that failed, what was not measured, and the table of all trials."""

from __future__ import annotations

from collections import Counter

from orchestrator.records.states import reason_of
from orchestrator.records.store import as_int, as_number, as_time
from orchestrator.text.formatting import measured, measured_apart, probability
from orchestrator.views import leaderboard
from orchestrator.views.page import naming
from orchestrator.views.page.blocks import Block, Cell, Fold, Line, Paragraph, Running, RunningTrial, Table
from orchestrator.views.page.subject import Subject
from orchestrator.views.progress import duration


def running(subject: Subject) -> list[Block]:
    """The trials that run."""
    found = [entry for entry in subject.entries if entry.meaning.runs]
    if not found:
        return [Paragraph("No trial runs now.")]
    return [
        Running(
            [
                RunningTrial(
                    entry.trial_id,
                    entry.store.folder.name,
                    as_int(entry.epochs[-1]["epoch"]) if entry.epochs else 0,
                    as_int(entry.trial["train.epochs"]),
                    naming.in_words(subject.varied_settings(entry), subject.varied),
                    f"{subject.objective.metric} {measured(subject.value(entry))}",
                )
                for entry in found
            ]
        )
    ]


def failures(subject: Subject) -> list[Block]:
    """Which trials failed and why, and what was due and could not be measured."""
    failed = [entry for entry in subject.entries if entry.meaning.failed]
    lines = [
        Line(
            [
                Cell(entry.trial_id, link=f"trial-{entry.trial_id}", code=True, head=True),
                Cell(entry.store.folder.name),
                Cell(str(len(entry.epochs))),
                Cell(reason_of(entry.trial) or ""),
            ]
        )
        for entry in failed
    ]
    unmeasured = Counter(
        f"{name.removesuffix('_error')}: {reason}"
        for entry in subject.entries
        for row in entry.epochs
        for name, reason in row.items()
        if name.endswith("_error") and isinstance(reason, str) and reason
    )
    blocks: list[Block] = [Paragraph("No trial failed.")]
    if lines:
        blocks = [Table("failed-trials", "The trials that failed", ["trial", "sweep", "epochs", "reason"], lines)]
    if unmeasured:
        title = f"Not measured although due ({len(unmeasured)})"
        blocks.append(Fold(title, [f"{reason} ({count} epochs)" for reason, count in unmeasured.items()]))
    return blocks


def everything(subject: Subject) -> list[Block]:
    """Every trial, in a table that sorts and filters."""
    entries, metric = subject.entries, subject.objective.metric
    several = len({entry.store.folder.name for entry in entries}) > 1
    found = [subject.value(entry) for entry in entries]
    values = measured_apart(found)
    settings = leaderboard.setting_cells([entry.settings() for entry in entries], subject.varied)
    told = {(one.sweep, one.trial_id): one for one in subject.standings}
    whys = [reason_of(entry.trial) or "" for entry in entries]
    heads = ["trial", *(["sweep"] if several else []), "state", f"best {metric}", "P(best)", "in epoch", "epochs"]
    heads += ["time", "started", *(naming.short(field) for field in subject.varied), *(["why"] if any(whys) else [])]
    lines = []
    for at, entry in enumerate(entries):
        best = entry.best(subject.objective)
        standing = told.get((entry.store.folder.name, entry.trial_id))
        chance = None if standing is None else standing.probability_best
        seconds = as_number(entry.trial["seconds"])
        started = as_time(entry.trial["started"])
        cells = [
            Cell(entry.trial_id, code=True, head=True),
            *([Cell(entry.store.folder.name)] if several else []),
            Cell(str(entry.trial["state"])),
            Cell(values[at], found[at]),
            Cell("" if chance is None else probability(chance), chance),
            Cell("" if best is None else str(best["epoch"])),
            Cell(str(len(entry.epochs))),
            Cell("" if seconds is None else duration(seconds), seconds),
            Cell(f"{started:%Y-%m-%d %H:%M}", started.timestamp()),
            *(Cell(text) for text in settings[at]),
            *([Cell(whys[at])] if any(whys) else []),
        ]
        chosen = standing is not None and standing.chosen
        lines.append(Line(cells, f"trial-{entry.trial_id}", chosen))
    caption = (
        "A button in a head sorts; the field filters by any text of a row, as PRUNED or block_film. The chosen trial "
        "is marked by its colour."
    )
    return [Table("all-trials", caption, heads, lines, sorts=True)]
