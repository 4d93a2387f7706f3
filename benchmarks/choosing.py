"""How well each rule of `best` chooses, and how often its intervals hold, against a truth that is known.

    python -m benchmarks.choosing [--sweeps 200]

Each simulated sweep has trials with learning curves, and 519 images. Candidate c (an epoch of trial t) classifies image
i rightly where theta_c + d_i + g_ti + h_ci > 0: d is how easy the image is for everyone, g for this trial, h for
this epoch and, half as much with each epoch, those after it. They are normal with variances .55, .1 and .35, about what
trials on the digits show: rightly classified images correlate by .44 over trials, .55 within and .81 with the epoch
before where weights are averaged. theta_c is such that the share over all images there could be is the true accuracy,
so that the truth is known exactly. Regret is how much true accuracy a choice gave away, in points of a hundred.

"set holds best" is how often the set that `best` prints holds the truly best trial, "set size" how many trials it has,
"sure" how often a trial has a P(best) of 95 % or more, and "sure and wrong" how often that is not the best one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.figure import Asked, Figure
from orchestrator.choosing.judge import LEVEL, Contenders, Images, Judge
from orchestrator.choosing.rules import DEFAULT_RULE, RULES

IMAGES = 519
_SHARES = {"image": 0.55, "trial": 0.1, "epoch": 0.35}  # of the variance
_FROM_BEFORE = 0.5  # the correlation of h with that of the epoch before
_TABLE = np.linspace(-4, 4, 4001)
_PHI = np.array([NormalDist().cdf(x) for x in _TABLE])
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Scenario:
    """What a sweep is like. Accuracies as shares."""

    name: str
    trials: int = 20
    epochs: int = 20
    best: float = 0.80  # of a typical trial, at the height of its curve
    spread: float = 0.015  # standard deviation over trials
    jitter: float = 0.001  # standard deviation over epochs, in truth; averaged weights hardly jump


SCENARIOS = (
    Scenario("20 trials x 20 epochs"),
    Scenario("100 trials x 10 epochs", trials=100, epochs=10),
    Scenario("10 trials x 60 epochs", trials=10, epochs=60),
    Scenario("trials far apart", spread=0.05),
    Scenario("curves that jump a little", jitter=0.003),
    Scenario("curves that jump", jitter=0.01),
    Scenario("4 trials x 5 epochs", trials=4, epochs=5),
    Scenario("20 trials x 5 epochs, all alike", epochs=5, spread=0.0, jitter=0.0),
)


def sweep(scenario: Scenario, rng: np.random.Generator) -> tuple[Contenders, NDArray[np.float64]]:
    """A sweep as `best` would see it, and the true accuracies (M,)."""
    T, E = scenario.trials, scenario.epochs
    heights = scenario.best + scenario.spread * rng.standard_normal(T)
    time = np.arange(1, E + 1) / E
    speed = rng.uniform(4, 12, T)[:, None]
    decline = rng.uniform(0, 0.04, T)[:, None]  # overfitting
    curves = heights[:, None] - 0.4 * np.exp(-speed * time) - decline * np.maximum(0, time - 0.5)
    truth = np.clip(curves + scenario.jitter * rng.standard_normal((T, E)), 0.05, 0.97)
    theta = np.interp(truth, _PHI, _TABLE)
    own = rng.standard_normal((IMAGES, T, E))
    for epoch in range(1, E):
        own[..., epoch] = _FROM_BEFORE * own[..., epoch - 1] + np.sqrt(1 - _FROM_BEFORE**2) * own[..., epoch]
    latent = (
        np.sqrt(_SHARES["image"]) * rng.standard_normal((IMAGES, 1, 1))
        + np.sqrt(_SHARES["trial"]) * rng.standard_normal((IMAGES, T, 1))
        + np.sqrt(_SHARES["epoch"]) * own
    )
    correct = (theta + latent > 0).reshape(IMAGES, T * E, 1)
    candidates = Contenders(
        Images(correct.astype(np.float64), lambda mean: mean[..., 0]),
        trial=np.repeat(np.arange(T), E),
        epoch=np.tile(np.arange(1, E + 1), T),
        size=np.repeat(rng.permutation(T), E).astype(np.float64),
    )
    return candidates, truth.ravel()


def measure(scenario: Scenario, sweeps: int, seed: int) -> dict[str, float]:
    """Regrets by rule, and the shares of intervals and sets that hold the truth."""
    rng = np.random.default_rng(seed)
    regret: dict[str, list[float]] = {rule: [] for rule in RULES}
    held, of_choice, errors, luck = [], [], [], []
    of_best, sizes, sure, wrong = [], [], [], []
    for _ in range(sweeps):
        candidates, truth = sweep(scenario, rng)
        judge = Judge(candidates, redraws=400, splits=100, seed=int(rng.integers(2**32)))
        for rule in RULES:
            regret[rule].append(truth.max() - truth[judge.choose(rule)])
        verdict = judge.verdict()
        chosen = truth[verdict.chosen]
        held.append(np.mean((verdict.low <= truth) & (truth <= verdict.high)))
        best, trials = candidates.trial[truth.argmax()], np.bincount(candidates.trial, verdict.probability)
        of_best.append(verdict.indistinguishable[truth.argmax()])
        sizes.append(len(np.unique(candidates.trial[verdict.indistinguishable])))
        sure.append(trials.max() >= LEVEL)
        wrong.append(trials.max() >= LEVEL and trials.argmax() != best)
        of_choice.append(verdict.corrected_low <= chosen <= verdict.corrected_high)
        errors.append(verdict.corrected - chosen)
        luck.append(verdict.values.max() - truth[verdict.values.argmax()])
    measured = {f"regret {rule}": 100 * float(np.mean(values)) for rule, values in regret.items()}
    return measured | {
        "regret ratio": measured[f"regret {DEFAULT_RULE}"] / measured["regret max"],
        "coverage": float(np.mean(held)),
        "coverage corrected": float(np.mean(of_choice)),
        "set holds best": float(np.mean(of_best)),
        "set size": float(np.mean(sizes)),
        "sure": float(np.mean(sure)),
        "sure and wrong": float(np.mean(wrong)),
        "error corrected": 100 * float(np.mean(errors)),
        "error naive": 100 * float(np.mean(luck)),
    }


def figures(asked: Asked) -> list[Figure]:
    """The regret of the default rule, and how often what is said of it is right."""
    scenarios, sweeps = (SCENARIOS[:1], 10) if asked.short else (SCENARIOS, 100)
    measured = [measure(scenario, sweeps, seed=0) for scenario in scenarios]
    regret = {rule: sum(row[f"regret {rule}"] for row in measured) for rule in (DEFAULT_RULE, "max")}
    held = sum(row["set holds best"] for row in measured) / len(measured)
    return [
        Figure("regret of `best`", regret[DEFAULT_RULE] / regret["max"], "choosing the highest value", "smaller"),
        Figure("sets that hold the best trial", held / LEVEL, f"what they promise: {LEVEL:g}"),
    ]


@app.command()
def main(
    sweeps: Annotated[int, typer.Option(min=1, help="Simulated sweeps per scenario.")] = 100,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/choosing.json"),
) -> None:
    """Simulate, and print regrets in points and coverages of nominal 95%."""
    measured = {scenario.name: measure(scenario, sweeps, seed) for scenario in SCENARIOS}
    table = Table("scenario", *next(iter(measured.values())), title=f"{sweeps} sweeps each, {IMAGES} images")
    for name, row in measured.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    Console(width=200).print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    app()
