"""The first screen: the question, the answer in a sentence with its certainty, the leaderboard, cost, code and data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cpcnn_core import sources
from orchestrator.choosing.decision import Decision, TrialStanding, corrected_interval, sentences
from orchestrator.objectives.objective import Objective
from orchestrator.records.space_record import RecordedChoice
from orchestrator.records.store import Row, as_number
from orchestrator.text.formatting import interval, measured, measured_apart, probability, short
from orchestrator.views import leaderboard, overview
from orchestrator.views.page import naming
from orchestrator.views.page.blocks import Block, Cell, Facts, Fold, Line, Paragraph, Table
from orchestrator.views.page.subject import Subject
from orchestrator.views.progress import duration
from orchestrator.views.standings import sure_cells, sure_heads

_SHOWN = 5  # trials of the leaderboard
_NAMED = 3  # fusions, or settings of a trial, that a sentence names


def first_screen(subject: Subject) -> list[Block]:
    """Everything that is seen at once."""
    blocks: list[Block] = [*_question(subject), Paragraph(answer(subject), strong=True)]
    if (left := hardly_tried(subject)) is not None:
        blocks.append(Paragraph(left))
    if subject.decision is not None:
        blocks += [_leaderboard(subject, subject.decision)]
        blocks += [Fold("How this was chosen, and what the columns mean", [*sentences(subject.decision), *_COLUMNS])]
    blocks += [Facts(_facts(subject))]
    if subject.selected.sentence is not None and subject.selected.left_out:
        blocks.append(Paragraph(subject.selected.sentence))
    blocks += [Paragraph(f"Warning: {problem}") for problem in subject.problems]
    return blocks


_COLUMNS = (
    "95% interval: where the value would lie on other validation images of the same kind, for this trial's weights.",
    "P(best): how probable it is that the trial is truly the best one of those that were tried.",
    "set: * marks the trials that cannot be told from the best one.",
    (
        "All three are about the networks as they were trained. Whether a configuration would win again on other "
        "seeds, `best --confirm` finds out."
    ),
)


def _question(subject: Subject) -> list[Block]:
    """What the space files ask: the first sentence, and the rest on request."""
    asked = dict.fromkeys(record.question for _, record in subject.records if record.question)
    blocks: list[Block] = []
    for question in asked:
        first, _, rest = question.strip().partition("\n\n")
        blocks.append(Paragraph(" ".join(first.split())))
        if rest.strip():
            blocks.append(Fold("The whole question", [" ".join(part.split()) for part in rest.split("\n\n")]))
    return blocks


# --------------------------------------------------------------------------------------------------------- the answer


def answer(subject: Subject) -> str:
    """Which one is best, and how sure that is; while trials run or wait, so far."""
    text = _answer(subject)
    unfinished = any(not entry.meaning.ended for entry in subject.entries)
    return f"So far: {text[0].lower()}{text[1:]}" if unfinished and subject.decision is not None else text


def _answer(subject: Subject) -> str:
    decision = subject.decision
    if decision is None:
        return f"There is no answer yet: {subject.why_none or 'no epoch has been measured'}."
    best, others = subject.standings[0], subject.standings[1:]
    if not others:
        return f"Only one trial can be chosen: {_value(decision, best)}."
    varied = [field for field in subject.varied if field in best.settings]
    of_fusions = {str(one.settings.get(naming.FUSION)) for one in subject.standings}
    if naming.FUSION in varied and len(of_fusions) > 1:
        return _of_fusions(decision, best, subject.standings)
    told = naming.in_words(best.settings, varied[:_NAMED]) or f"trial {best.trial_id}"
    return _of_trials(decision, best, told)


def _of_fusions(decision: Decision, best: TrialStanding, standings: Sequence[TrialStanding]) -> str:
    fusion = str(best.settings[naming.FUSION])
    reached = f"The best trial with {fusion} reaches {_value(decision, best)}"
    by = f"By {decision.epochs.objective.metric}, "
    if decision.verdict is None:
        return f"{by}the fusion {fusion} has the best trial; how sure that is cannot be said. {reached}."
    chance: dict[str, float] = {}
    for one in standings:
        name = str(one.settings[naming.FUSION])
        chance[name] = chance.get(name, 0.0) + (one.probability_best or 0.0)
    may_be = dict.fromkeys(str(one.settings[naming.FUSION]) for one in standings if one.indistinguishable)
    rivals = [name for name in may_be if name != fusion]
    sure = f"P(the best trial uses {fusion}) = {probability(min(1.0, chance[fusion]))}"
    if not rivals:
        return f"{by}the fusion {fusion} has the best trial, with 95% confidence. {reached}; {sure}."
    rivals.sort(key=lambda name: -chance[name])
    return f"{by}the fusion {fusion} is ahead, but {_listed(rivals)} may be as good. {reached}; {sure}."


def hardly_tried(subject: Subject) -> str | None:
    """Which fusions of the spaces no trial or only one has, so that nobody takes the answer to be about them."""
    offered: dict[str, None] = {}
    for _, record in subject.records:
        field = (record.fields or {}).get(naming.FUSION)
        if isinstance(field, RecordedChoice):
            offered |= dict.fromkeys(str(option) for option, _ in field.options)
    counts = Counter(str(entry.trial.get(naming.FUSION)) for entry in subject.ranked)
    untried = [name for name in offered if not counts[name]]
    once = [name for name in offered if counts[name] == 1]
    if len(offered) < 2 or not (untried or once):
        return None
    said = [
        f"{words}: {', '.join(names)}" for words, names in (("Not tried", untried), ("One trial only", once)) if names
    ]
    return f"{'. '.join(said)}."


def _of_trials(decision: Decision, best: TrialStanding, told: str) -> str:
    value = _value(decision, best)
    if decision.verdict is None or best.probability_best is None:
        return f"The best trial has {told}: {value}. How sure that is cannot be said."
    count = len(np.unique(decision.epochs.trial[decision.verdict.indistinguishable]))
    sure = f"P(it is the best) = {probability(best.probability_best)}"
    if count == 1 and best.indistinguishable:
        return f"The best trial has {told}, with 95% confidence: {value}; {sure}."
    return f"Ahead is the trial with {told}: {value}; {sure}. {count} trials may be as good."


def _value(decision: Decision, best: TrialStanding) -> str:
    metric = decision.epochs.objective.metric
    if decision.verdict is None:
        return f"{metric} {measured(best.value)}"
    value, bounds = corrected_interval(decision, decision.verdict)
    return (
        f"{metric} {measured(best.value)}; corrected for having been picked as the best, {measured(value)} is to be "
        f"expected of new images (95%: {interval(*bounds)})"
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# -------------------------------------------------------------------------------------------------------- leaderboard


def _leaderboard(subject: Subject, decision: Decision) -> Table:
    shown = subject.standings[:_SHOWN]
    varied = subject.varied
    several = len({one.sweep for one in shown}) > 1
    heads = ["", *(["sweep"] if several else []), decision.epochs.objective.metric, *sure_heads(decision)]
    heads += [naming.short(field) for field in varied] + ["epoch", "trial"]
    values = measured_apart([one.value for one in shown])
    settings = leaderboard.setting_cells([one.settings for one in shown], varied)
    lines = []
    for at, one in enumerate(shown):
        cells = [Cell(str(at + 1), head=True), *([Cell(one.sweep)] if several else []), Cell(values[at])]
        cells += [Cell(text) for text in (*sure_cells(one), *settings[at])]
        cells += [Cell(leaderboard.epoch_of(one.epoch, one.settings))]
        cells += [Cell(one.trial_id, link=f"trial-{one.trial_id}", code=True)]
        lines.append(Line(cells, chosen=one.chosen))
    caption = f"The best {len(shown)} of {decision.total_trials} trials by {decision.epochs.objective.metric}"
    return Table("leaderboard", caption, heads, lines)


# ------------------------------------------------------------------------------------------------ cost, code and data


def _facts(subject: Subject) -> list[tuple[str, str]]:
    entries = subject.entries
    states = Counter(str(entry.trial["state"]) for entry in entries)
    epochs = sum(len(entry.epochs) for entry in entries)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none began"
    facts = [("Judged by", _metric(subject)), ("Trials", f"{counted}; {epochs} epochs"), ("Cost", _cost(subject))]
    commits = dict.fromkeys(str(entry.trial.get("git_commit") or "unknown") for entry in entries)
    facts.append(("Code", ", ".join(_commit(one) for one in commits) + _versions(subject)))
    data = dict.fromkeys(
        f"{_title(entry.trial)}, digest {short(str(entry.trial.get('data.digest') or 'unknown'))}" for entry in entries
    )
    facts.append(("Data", "; ".join(data)))
    return [(name, text) for name, text in facts if text]


def _title(trial: Row) -> str:
    dataset, root = (trial.get(name) for name in ("data.dataset", "data.root"))
    return sources.title(str(trial["data.name"]), str(dataset) if dataset else None, str(root) if root else None)


def _metric(subject: Subject) -> str:
    """The metric of this page, and what the sweeps optimised, where that is another."""
    asked = [record.objective for _, record in subject.records if record.objective is not None]
    optimised = {Objective.from_description(each).column for each in asked} - {subject.objective.metric}
    told = metric_in_words(subject.objective)
    return told + (f"; the sweep optimised {', '.join(sorted(optimised))}" if optimised else "")


def _cost(subject: Subject) -> str:
    attempts: list[Row] = [row for store in subject.selected.stores for row in store.trials().rows()]
    times = [(as_number(row["seconds"]) or 0.0, as_number(row.get("gpus")) or 0.0) for row in attempts]
    seconds, gpus = math.fsum(each for each, _ in times), math.fsum(each * held for each, held in times)
    devices = dict.fromkeys(str(row["device"]) for row in attempts if row.get("device"))
    told = f"{duration(seconds)} of trials on {', '.join(devices) or 'an unknown device'}"
    if gpus > 0:
        told += f", {gpus / 3600:.2f} GPU hours"
    bills = [overview.cost(record.runs, running=False) for _, record in subject.records if record.runs]
    return "; ".join([told, *(bill for bill in bills if bill)])


def _commit(text: str) -> str:
    commit, plus, rest = text.partition("+")
    return f"commit {short(commit)}{' with changes' if plus and rest else ''}" if commit != "unknown" else "no commit"


def _versions(subject: Subject) -> str:
    runs = [record.runs[-1] for _, record in subject.records if record.runs]
    found = runs[-1].versions if runs else {}
    shown = [f"{name} {found[name]}" for name in ("torch", "python") if found.get(name)]
    protocols = sorted({str(entry.trial.get("protocol") or 1) for entry in subject.entries})
    return "".join(f"; {each}" for each in [*shown, f"protocol {', '.join(protocols)}"])


def metric_in_words(objective: Objective) -> str:
    """The metric and which way it is better, as an axis says it."""
    return f"{objective.metric} ({'more' if objective.direction == 'max' else 'less'} is better)"
