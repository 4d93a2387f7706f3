"""A choice among the epochs of sweeps: by which rule, how sure, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpcnn_core.config import Scalar
from orchestrator.choosing import candidates, where
from orchestrator.choosing.candidates import Candidates, ChoiceError
from orchestrator.choosing.evidence import contenders, scored_on
from orchestrator.choosing.evidence import evidence as evidence_of
from orchestrator.choosing.judge import Contenders, Judge, Verdict
from orchestrator.choosing.rules import DEFAULT_RULE, Rule
from orchestrator.choosing.selection import Selection
from orchestrator.objectives.objective import Direction
from orchestrator.records.ranking import Entry
from orchestrator.text.formatting import interval, measured, probability

if TYPE_CHECKING:
    from orchestrator.choosing.ensemble import Gain


@dataclass(frozen=True)
class TrialStanding:
    """A trial's place among those that were chosen from."""

    sweep: str
    trial_id: str
    epoch: int
    value: float  # of the metric
    interval: tuple[float, float] | None  # 95%; None, as all below, where nothing tells how sure the values are
    smoothed: float | None
    probability_best: float | None
    indistinguishable: bool | None  # from the best
    chosen: bool
    state: str
    settings: Mapping[str, Scalar]


@dataclass(frozen=True)
class Decision:
    """What was chosen among `epochs`, by which rule, and what is known of the contenders."""

    epochs: Candidates  # the contenders
    rule: Rule
    row: int  # of `epochs`
    verdict: Verdict | None  # None where nothing tells how sure the values are
    notes: tuple[str, ...]
    total_trials: int

    @property
    def sign(self) -> float:
        return 1.0 if self.epochs.objective.direction == "max" else -1.0

    @property
    def trial_id(self) -> str:
        return str(self.epochs.trials[self.epochs.trial[self.row]][1]["trial_id"])

    @property
    def epoch(self) -> int:
        return int(self.epochs.epoch[self.row])

    def standings(self) -> list[TrialStanding]:
        """`standings` of this choice."""
        return standings(self)


def read(
    selected: Selection,
    metric: str,
    *,
    mode: Direction | None = None,
    conditions: Sequence[where.Condition] = (),
) -> Candidates:
    """The epochs to choose from. Raise ChoiceError, WhereError."""
    return candidates.read(selected.stores, metric, mode=mode, conditions=conditions, imports=selected.imports)


def choose(epochs: Candidates, rule: Rule = DEFAULT_RULE) -> Decision:
    """The epoch to hand in, among those whose weights are on disk. Raise ChoiceError where there is none."""
    with candidates.naming(epochs.problems):
        return _choose(epochs, rule)


def _choose(epochs: Candidates, rule: Rule) -> Decision:
    objective = epochs.objective
    if not epochs.kept.any():
        raise ChoiceError(f"no epoch with a {objective.metric} has its weights on disk any more; nothing to export")
    evidence = evidence_of(epochs)
    among, notes = evidence.epochs, [*epochs.notes, *evidence.notes]
    total = len(np.unique(epochs.trial))
    if evidence.sample is None or not among.kept.any():
        if evidence.sample is not None:
            notes.append("No interval: of the epochs that can be judged no weights are on disk")
        if rule != "max":
            notes.append(f"So --rule {rule} has nothing to go by: chosen is the best value")
        row = int(np.where(epochs.kept, epochs.scores, -np.inf).argmax())
        notes += [*_not_kept(epochs, row), *scored_on(epochs, row)]
        shown = np.arange(len(contenders(epochs)))  # they come first
        if row not in shown:
            shown = np.append(shown, row)
        return Decision(epochs.take(shown), "max", int(np.flatnonzero(shown == row)[0]), None, tuple(notes), total)
    sizes = None
    if rule == "smallest":
        found = [
            candidates.folder_size(among.trials[trial], int(epoch)) if kept else None
            for trial, epoch, kept in zip(among.trial, among.epoch, among.kept, strict=True)
        ]
        sizes = np.array([np.inf if size is None else size for size in found])
        if not np.isfinite(sizes).any():
            raise ChoiceError("--rule smallest: none of the weights that the tables name is on disk; nothing to weigh")
    judge = Judge(Contenders(evidence.sample, among.trial, among.epoch, sizes, among.kept))
    verdict = judge.verdict(rule)
    notes += [*_not_kept(among, verdict.chosen), *scored_on(among, verdict.chosen)]
    return Decision(among, rule, verdict.chosen, verdict, tuple(notes), total)


def _not_kept(epochs: Candidates, row: int) -> list[str]:
    top = int(epochs.scores.argmax())
    if epochs.kept[top] or epochs.scores[top] <= epochs.scores[row]:
        return []
    trial = epochs.trials[epochs.trial[top]][1]
    return [
        (
            f"The best value, {epochs.objective.metric} {measured(epochs.values[top])} in epoch {epochs.epoch[top]} of "
            f"{trial['trial_id']}, cannot be chosen: its weights were not kept"
        )
    ]


def standings(decision: Decision) -> list[TrialStanding]:
    """One row per trial: the chosen one first, then by the value that the rule goes by.

    A trial stands with its best epoch of those whose weights are kept (else of all); its probability is that of any of
    its epochs.
    """
    epochs, verdict = decision.epochs, decision.verdict
    by = epochs.scores if verdict is None or decision.rule == "max" else verdict.smoothed
    shown: list[tuple[float, TrialStanding]] = []
    for trial in dict.fromkeys(epochs.trial.tolist()):
        rows = np.flatnonzero(epochs.trial == trial)
        allowed = rows[epochs.kept[rows]] if epochs.kept[rows].any() else rows
        row = decision.row if trial == epochs.trial[decision.row] else int(allowed[by[allowed].argmax()])
        shown.append((float(f"{by[row]:.9g}"), _standing(decision, row, rows)))  # equals but for rounding: earlier
    return [one for _, one in sorted(shown, key=lambda each: (not each[1].chosen, -each[0]))]


def _standing(decision: Decision, row: int, rows: NDArray[np.int64]) -> TrialStanding:
    """How the trial of these rows stands with its epoch `row`."""
    epochs, verdict = decision.epochs, decision.verdict
    store, trial = epochs.trials[epochs.trial[row]]
    return TrialStanding(
        sweep=store.folder.name,
        trial_id=str(trial["trial_id"]),
        epoch=int(epochs.epoch[row]),
        value=float(epochs.values[row]),
        interval=None if verdict is None else _turned(decision, verdict.low[row], verdict.high[row]),
        smoothed=None if verdict is None else decision.sign * float(verdict.smoothed[row]),
        probability_best=None if verdict is None else float(verdict.probability[rows].sum()),
        indistinguishable=None if verdict is None else bool(verdict.indistinguishable[rows].any()),
        chosen=row == decision.row,
        state=str(trial["state"]),
        settings=Entry(store, trial, ()).settings(),
    )


def _turned(decision: Decision, low: float, high: float) -> tuple[float, float]:
    """The bounds of a score as bounds of the metric."""
    return (float(low), float(high)) if decision.sign > 0 else (-float(high), -float(low))


def corrected_interval(decision: Decision, verdict: Verdict) -> tuple[float, tuple[float, float]]:
    """What the choice is worth without the estimated luck of having been chosen, and the 95% interval of that."""
    bounds = _turned(decision, verdict.corrected_low, verdict.corrected_high)
    return decision.sign * verdict.corrected, bounds


def describe(decision: Decision, *, top: int) -> dict[str, object]:
    """The decision for JSON."""
    verdict = decision.verdict
    corrected, together = None, None
    if verdict is not None:
        together = len(np.unique(decision.epochs.trial[verdict.indistinguishable]))
        value, bounds = corrected_interval(decision, verdict)
        corrected = {"value": value, "interval": bounds}
    extractor, images, reference = decision.epochs.drawn or (None, None, None)
    return {
        "metric": decision.epochs.objective.metric,
        "mode": decision.epochs.objective.direction,
        "rule": decision.rule,
        "trials": decision.total_trials,
        "drawn": None if decision.epochs.drawn is None else [extractor, images, reference],
        "corrected": corrected,
        "judged": None if verdict is None else len(np.unique(decision.epochs.trial)),
        "indistinguishable": together,
        "notes": list(decision.notes),
        "best": [asdict(standing) for standing in standings(decision)[:top]],
    }


def sentences(decision: Decision) -> list[str]:
    """What the table does not say."""
    lines = [f"{note}." for note in decision.notes]
    verdict, metric = decision.verdict, decision.epochs.objective.metric
    chosen = f"Chosen by --rule {decision.rule}: {_named(decision)}"
    if verdict is None:
        return [*lines, f"{chosen}."]
    value, bounds = corrected_interval(decision, verdict)
    return [
        *lines,
        f"{chosen}. Corrected for the choice its {metric} is {measured(value)} ({interval(*bounds)}).",
        *_of_the_set(decision, verdict),
    ]


def _named(decision: Decision) -> str:
    entry = Entry(*decision.epochs.trials[decision.epochs.trial[decision.row]], ())
    return (
        f"imported checkpoint {entry.trial_id}" if entry.is_imported else f"epoch {decision.epoch} of {entry.trial_id}"
    )


def _of_the_set(decision: Decision, verdict: Verdict) -> list[str]:
    """How many trials may be the best one, what P(best) has to do with it, and why the choice is none of them."""
    trial, together = decision.epochs.trial, verdict.indistinguishable
    count, judged = len(np.unique(trial[together])), len(np.unique(trial))
    share = probability(min(1.0, float(verdict.probability[together].sum())))
    known = "" if judged == decision.total_trials else f"; {decision.total_trials - judged} others are not judged"
    lines = [
        (
            f"{count} of {judged} trials cannot be told from the best (*){known}. With 95% confidence the truly best "
            f"trial is among them; their P(best) adds up to {share}."
        )
    ]
    if not together[decision.row]:
        why = f"--rule {decision.rule} goes by more than the best value of each trial, and the set by that alone"
        if decision.rule == "max" or not decision.epochs.kept[together].any():
            why = "the weights of their best epochs are not on disk"
        lines.append(f"The choice is not among them: {why}.")
    return lines


def ensemble_of(decision: Decision, count: int) -> Gain:
    """What the mean prediction of the best `count` trials would gain. Raise ChoiceError where it cannot be known."""
    from orchestrator.choosing.ensemble import gain

    if decision.epochs.objective.metric != "val_acc" or decision.verdict is None:
        raise ChoiceError("--ensemble: needs --metric val_acc and stored predictions")
    with candidates.naming(decision.epochs.problems):
        return gain(decision.epochs, decision.verdict.smoothed, count)
