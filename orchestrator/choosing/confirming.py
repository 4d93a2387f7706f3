"""Confirming a choice: the finalists are trained again on new seeds, and those runs alone decide.

What led to the finalists, their old values, has no part in it: they are the best of many, and so the luckiest. The runs
are a sweep of their own, a grid of finalists and seeds; its sweep.json holds the question, the seeds and the rule
before the first of them starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue
from scipy import stats

from cpcnn_core.config import Scalar, TrialConfig, not_identifying
from orchestrator.choosing import candidates
from orchestrator.choosing.candidates import Candidates, ChoiceError
from orchestrator.choosing.decision import TrialStanding
from orchestrator.choosing.evidence import Evidence, scored_on
from orchestrator.choosing.evidence import evidence as evidence_of
from orchestrator.choosing.judge import LEVEL, REDRAWS, probability_of_best
from orchestrator.objectives.objective import SCORE, Direction, Objective
from orchestrator.records import lineage
from orchestrator.records.states import reason_of
from orchestrator.records.store import Row, Store, as_int
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search.scheduling import Schedule
from orchestrator.search.space import SearchSpace
from search_spaces import Choice, Distribution

RULE = (
    "of the finalists the one with the best mean over the new seeds, each run read after its last epoch; "
    "of its runs the best one is handed in"
)

_SEED = "seed"


@dataclass(frozen=True)
class Finalist:
    """A configuration that is trained again, and the trial that made it one."""

    sweep: str
    trial_id: str
    value: float  # of that trial: what it was chosen by, and what no longer counts
    settings: Mapping[str, Scalar]  # flat, the seed apart

    def run(self, seed: int) -> TrialConfig:
        """Its configuration on another seed. Raise ConfigError where it cannot be trained."""
        config = TrialConfig.from_record({**self.settings, _SEED: seed})
        config.check_protocol()
        return config


@dataclass(frozen=True)
class Question:
    """Which finalist is best over these seeds?"""

    metric: str
    direction: Direction
    objective: Objective  # of the sweep that they come from, which makes `score`
    source: str | None  # the space file of that sweep
    finalists: tuple[Finalist, ...]
    seeds: tuple[int, ...]
    rule: str = RULE

    def describe(self) -> dict[str, JsonValue]:
        """As JSON."""
        return {
            "metric": self.metric,
            "direction": self.direction,
            "objective": self.objective.describe(),
            "source": self.source,
            "finalists": [
                {"sweep": each.sweep, "trial_id": each.trial_id, "value": each.value, "settings": dict(each.settings)}
                for each in self.finalists
            ],
            "seeds": list(self.seeds),
            "rule": self.rule,
        }

    @classmethod
    def from_description(cls, described: Mapping[str, JsonValue]) -> Question:
        """From what `describe` gave."""
        asked = _Description.model_validate(described)
        return cls(
            asked.metric,
            asked.direction,
            Objective.from_description(asked.objective),
            asked.source,
            tuple(asked.finalists),
            tuple(asked.seeds),
            asked.rule,
        )

    def space(self) -> SearchSpace:
        """The grid of finalists and seeds."""
        flats = [finalist.settings for finalist in self.finalists]
        shared = {key: value for key, value in flats[0].items() if all(_has(flat, key, value) for flat in flats)}
        shared |= {key: flats[0][key] for key in not_identifying(flats[0]) if key in flats[0]}  # any of theirs will do
        varied = [key for key in dict.fromkeys(key for flat in flats for key in flat) if key not in shared]
        return SearchSpace(
            source=self.source or "best --confirm",
            question=f"Which of {len(flats)} finalists by {self.metric} is the best over {len(self.seeds)} new seeds?",
            fields={_SEED: Choice(self.seeds), **_branches(flats, varied)},
            settings=shared,
            trials=len(flats) * len(self.seeds),
            objective=self.objective,
            sampler="grid",
            schedule=Schedule(name="none"),
        )


class _Description(BaseModel):
    """What `Question.describe` gives, as it comes back from sweep.json."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    metric: str
    direction: Direction
    objective: dict[str, JsonValue]
    source: str | None
    finalists: list[Finalist]
    seeds: list[int]
    rule: str


def name_of(sweeps: Sequence[str], **asked: Scalar) -> str:
    """The name of the sweep that confirms what was chosen among `sweeps` in the way that was asked."""
    text = json.dumps([sorted(sweeps), asked], sort_keys=True)
    prefix = f"{sweeps[0]}-" if len(sweeps) == 1 else ""
    return f"{prefix}confirm-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def recorded(store: Store) -> Question | None:
    """The question that the sweep in the folder was begun with, if it was."""
    described = (store.read_sweep() or SweepRecord()).confirmation
    return None if described is None else Question.from_description(described)


def ask(epochs: Candidates, standings: Sequence[TrialStanding], *, finalists: int, seeds: int) -> Question:
    """Which of the first so many configurations of `standings` (as `best` ranks trials) is best over so many new seeds.

    The seeds are the first ones above all that any trial had. Raise ChoiceError where there are not so many different
    configurations, ConfigError where one of them cannot be trained.
    """
    found: dict[str, Finalist] = {}
    for one in standings:
        settings = {key: value for key, value in one.settings.items() if key != _SEED}
        finalist = Finalist(one.sweep, one.trial_id, one.value, settings)
        if settings.get("source") is not None:
            raise ChoiceError(
                f"--confirm: {one.trial_id} is an imported checkpoint, which cannot be trained again; leave it out "
                "with --where or --sweep, or give no --sweep"
            )
        if settings.get("lineage.weights") is not None:
            finalist = _from_the_start(finalist, epochs)
        found.setdefault(finalist.run(0).trial_id, finalist)
    if len(found) < finalists:
        raise ChoiceError(
            f"--confirm {finalists}: there are {len(found)} different configurations to choose from, seeds apart"
        )
    above = 1 + int(epochs.trials.column(_SEED).max())
    first = list(found.values())[:finalists]
    [store] = [store for store in epochs.stores if store.folder.name == first[0].sweep]
    sweep = store.read_sweep() or SweepRecord()
    objective = epochs.objective
    if objective.metric == SCORE and sweep.objective is not None:
        objective = Objective.from_description(sweep.objective)
    return Question(
        epochs.objective.metric,
        epochs.objective.direction,
        objective,
        sweep.source,
        tuple(first),
        tuple(range(above, above + seeds)),
    )


def _from_the_start(finalist: Finalist, epochs: Candidates) -> Finalist:
    """A trial that continues another one, as one that is as long from the start. Raise ChoiceError where none is."""
    [store] = [store for store in epochs.stores if store.folder.name == finalist.sweep]
    config = lineage.from_the_start(store, finalist.run(0))
    if config is None:
        raise ChoiceError(
            f"--confirm: {finalist.trial_id} continues another trial, in another way than it began, which new seeds "
            'would not repeat; leave such trials out with --where "lineage.epochs_before == 0"'
        )
    return replace(finalist, settings={key: value for key, value in config.flat().items() if key != _SEED})


# --------------------------------------------------------------------------------------------------------- the decision


@dataclass(frozen=True)
class FinalistStanding:
    """What the new runs say of one finalist."""

    finalist: Finalist
    runs: tuple[tuple[int, float], ...]  # seed and value of each run that has one
    missing: tuple[str, ...]  # why the others have none
    mean: float | None
    interval: tuple[float, float] | None  # of the mean: other seeds, and other validation images
    probability_best: float | None


@dataclass(frozen=True)
class Confirmation:
    """The finalists, best first, and the run to hand in as a row of `epochs`."""

    question: Question
    standings: tuple[FinalistStanding, ...]
    epochs: Candidates
    row: int
    notes: tuple[str, ...]

    def describe(self) -> dict[str, object]:
        """As JSON."""
        finalists = [
            {
                "sweep": one.finalist.sweep,
                "trial_id": one.finalist.trial_id,
                "value_before": one.finalist.value,
                "mean": one.mean,
                "interval": one.interval,
                "probability_best": one.probability_best,
                "runs": [{"seed": seed, "value": value} for seed, value in one.runs],
                "missing": list(one.missing),
            }
            for one in self.standings
        ]
        question = self.question
        return {
            "metric": question.metric,
            "mode": question.direction,
            "confirmed": {
                "rule": question.rule,
                "seeds": list(question.seeds),
                "notes": list(self.notes),
                "finalists": finalists,
            },
        }


def decide(store: Store, question: Question) -> Confirmation:
    """Read the runs of the sweep in `store` by the question's rule. Raise ChoiceError where none has a value."""
    rows = {str(row["trial_id"]): row for row in store.latest_attempts().rows()}
    epochs = candidates.read([store], question.metric, mode=question.direction)
    with candidates.naming(epochs.problems):
        return _decide(store, question, rows, _last(epochs))


def _decide(store: Store, question: Question, rows: Mapping[str, Row], epochs: Candidates) -> Confirmation:
    row_of = {str(epochs.trials[trial][1]["trial_id"]): row for row, trial in enumerate(epochs.trial)}
    evidence = evidence_of(epochs)
    errors = _errors(evidence, len(epochs))
    runs = [_runs(finalist, question, row_of, rows) for finalist in question.finalists]
    if not any(found.rows for found in runs):
        raise ChoiceError(f"{store.folder}: no run has a {question.metric} after its last epoch; nothing to decide by")
    standings, winner = _compared(question, epochs, runs, errors)
    kept = [row for row in runs[winner].rows if epochs.kept[row]]
    if not kept:
        raise ChoiceError(f"{store.folder}: the weights of {question.finalists[winner].trial_id}'s runs are gone")
    row = max(kept, key=lambda at: float(epochs.scores[at]))
    notes = [*evidence.notes, *scored_on(epochs, row)]
    if len(question.seeds) == 1:
        notes.append("One seed does not tell how much seeds matter: the intervals are of the images alone")
    if errors is None:
        notes.append("The intervals are of the seeds alone")
    notes += [f"{one.finalist.trial_id}, {reason}" for one in standings for reason in one.missing]
    best_first = sorted(standings, key=lambda one: _order(one, question.direction), reverse=True)
    return Confirmation(question, tuple(best_first), epochs, row, tuple(notes))


def _errors(evidence: Evidence, count: int) -> NDArray[np.float64] | None:
    """(S, M) what other validation images would add to the scores of the `count` epochs; None where nobody knows."""
    if evidence.sample is None or len(evidence.epochs) != count:
        return None
    drawn = evidence.sample.redrawn(REDRAWS, np.random.default_rng(0))
    return drawn - evidence.sample.values  # evidence keeps the order of the epochs that it was given


@dataclass(frozen=True)
class _Runs:
    """A finalist's runs on the new seeds: the rows of those that have a value, and why the others have none."""

    rows: list[int]
    seeds: list[int]  # of the rows
    missing: list[str]


def _runs(finalist: Finalist, question: Question, row_of: Mapping[str, int], trials: Mapping[str, Row]) -> _Runs:
    """`row_of` and `trials` are by trial id: rows of the last epochs, and rows of the table."""
    found = _Runs([], [], [])
    for seed in question.seeds:
        trial_id = finalist.run(seed).trial_id
        if trial_id in row_of:
            found.rows.append(row_of[trial_id])
            found.seeds.append(seed)
        else:
            found.missing.append(f"seed {seed}: {_why(trials.get(trial_id), question.metric)}")
    return found


def _compared(
    question: Question, epochs: Candidates, runs: Sequence[_Runs], errors: NDArray[np.float64] | None
) -> tuple[list[FinalistStanding], int]:
    """The finalists' standings in their order, and the index of the winner."""
    errors = np.zeros((REDRAWS, len(epochs))) if errors is None else errors
    standings = []
    for finalist, found in zip(question.finalists, runs, strict=True):
        values = epochs.values[found.rows].tolist() if found.rows else []
        by_seed = tuple(zip(found.seeds, values, strict=True))
        standings.append(FinalistStanding(finalist, by_seed, tuple(found.missing), None, None, None))
    known = [index for index, found in enumerate(runs) if found.rows]
    means, halves, probabilities = compare(
        [epochs.scores[runs[index].rows] for index in known], [errors[:, runs[index].rows] for index in known]
    )
    sign = 1.0 if question.direction == "max" else -1.0
    for index, mean, half, share in zip(known, means, halves, probabilities, strict=True):
        value = sign * float(mean)
        interval = None if half is None else (value - half, value + half)
        standings[index] = replace(standings[index], mean=value, interval=interval, probability_best=float(share))
    return standings, known[int(np.argmax(means))]


def _order(standing: FinalistStanding, direction: Direction) -> float:
    """More for a better finalist."""
    if standing.mean is None:
        return -np.inf
    return standing.mean if direction == "max" else -standing.mean


def compare(
    runs: Sequence[NDArray[np.float64]], errors: Sequence[NDArray[np.float64]], *, seed: int = 0
) -> tuple[NDArray[np.float64], list[float | None], NDArray[np.float64]]:
    """Means (K,) of the finalists' runs, half the widths of their 95% intervals, and the probability of each as best.

    `runs[k]` (R_k,) are scores, more being better; `errors[k]` (S, R_k) what other validation images would have added
    to them, the same ones for all runs. How far runs of one configuration lie apart is taken to be the same for all
    finalists, and estimated from all of them together with sum(R_k - 1) degrees of freedom. It adds to what the images
    leave open, with degrees of freedom after Satterthwaite 1946. A width is None where neither is known.
    """
    means = np.array([values.mean() for values in runs])
    freedom = sum(len(values) - 1 for values in runs)
    within = sum(float(np.square(values - values.mean()).sum()) for values in runs) / freedom if freedom else 0.0
    of_images = np.stack([values.mean(axis=1) for values in errors], axis=1)
    halves: list[float | None] = []
    for index, values in enumerate(runs):
        of_seeds = within / len(values)
        variance = of_seeds + float(of_images[:, index].var())
        if not freedom and variance == 0:
            halves.append(None)
            continue
        degrees = freedom * (variance / of_seeds) ** 2 if of_seeds > 0 else np.inf
        halves.append(float(stats.t.ppf((1 + LEVEL) / 2, degrees) * np.sqrt(variance)))
    rng = np.random.default_rng(seed)
    shape = of_images.shape
    noise = rng.standard_t(freedom, shape) if freedom else np.zeros(shape)
    drawn = means + of_images + noise * np.sqrt(within / np.array([len(values) for values in runs]))
    return means, halves, probability_of_best(drawn)


def sentences(confirmation: Confirmation) -> list[str]:
    """What the table does not say."""
    return [
        *(f"{note}." for note in confirmation.notes),
        f"Decided by the rule that was recorded beforehand: {confirmation.question.rule}.",
        "`before` is what the search found, and had no part in this.",
    ]


def _last(epochs: Candidates) -> Candidates:
    """The last epoch of each trial that came to it."""
    last = np.array([as_int(epochs.trials[trial][1]["train.epochs"]) for trial in epochs.trial])
    return epochs.take(np.flatnonzero(epochs.epoch == last))


def _why(row: Row | None, metric: str) -> str:
    if row is None:
        return "was not run"
    if row["state"] == "COMPLETE":
        return f"its {metric} is null after the last epoch"
    return reason_of(row) or str(row["state"])


def _has(flat: Mapping[str, Scalar], key: str, value: Scalar) -> bool:
    return key in flat and flat[key] == value and isinstance(flat[key], bool) == isinstance(value, bool)


def _branches(flats: Sequence[Mapping[str, Scalar]], fields: Sequence[str]) -> dict[str, Distribution]:
    """A space of exactly these configurations: a choice of one field, and under each option one of the next.

    Only some fusions have an option; what tells fusions apart comes before it. Raise ChoiceError where nothing does.
    """
    relevant = [field for field in fields if any(field in flat for flat in flats)]
    if not relevant:
        return {}
    field = next((field for field in relevant if all(field in flat for flat in flats)), None)
    if field is None:
        raise ChoiceError(f"--confirm: some finalists say what {relevant[0]} is, and others of the same fusion do not")
    others = [name for name in relevant if name != field]
    options = tuple(dict.fromkeys(flat[field] for flat in flats))
    branches = {option: _branches([flat for flat in flats if flat[field] == option], others) for option in options}
    return {field: Choice(options, {option: branch for option, branch in branches.items() if branch})}
