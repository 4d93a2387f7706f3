"""What averaging the predictions of several checkpoints (an ensemble) would gain, on images that had no part in it."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from orchestrator.choosing.candidates import Candidates, ChoiceError
from orchestrator.choosing.judge import LEVEL
from orchestrator.records.store import StoreError
from orchestrator.text.formatting import gained, measured

SPLITS = 400


class Gain(TypedDict):
    """What an ensemble of `count` trials would gain over one of them, as JSON."""

    count: int
    trials: list[str]
    single: float
    ensemble: float
    gain: float
    interval: list[float]  # of the gain, 95%
    sentence: str


def gain(epochs: Candidates, smoothed: NDArray[np.float64], count: int, *, seed: int = 0) -> Gain:
    """Compare the mean posterior of `count` trials with the best trial's; picked on one half, read on the other.

    Raise ChoiceError where fewer trials have predictions. An ensemble is reported, never exported: what is handed in is
    one network.
    """
    trials = list(dict.fromkeys(epochs.trial.tolist()))
    if len(trials) < count:
        raise ChoiceError(f"--ensemble {count}: only {len(trials)} trials can be judged; give a smaller number")
    # A trial stands with its best epoch; more trials than are averaged, so that the halves have a choice.
    rows = [max(np.flatnonzero(epochs.trial == trial), key=lambda row: smoothed[row]) for trial in trials]
    rows = sorted(rows, key=lambda row: -smoothed[row])[: 4 * count]
    posteriors, labels = zip(*(_posterior(epochs, int(row)) for row in rows), strict=True)
    stacked, label = np.stack(posteriors), labels[0]
    rng = np.random.default_rng(seed)
    N = len(label)
    hits = (stacked.argmax(axis=2) == label).astype(float)  # (K, N)
    single, several = np.empty(SPLITS), np.empty(SPLITS)
    for split in range(SPLITS):
        order = rng.permutation(N)
        first, second = order[: N // 2], order[N // 2 :]
        best = np.argsort(-hits[:, first].mean(axis=1), kind="stable")[:count]
        single[split] = hits[best[0], second].mean()
        several[split] = (stacked[best][:, second].mean(axis=0).argmax(axis=1) == label[second]).mean()
    top = np.argsort(-hits.mean(axis=1), kind="stable")[:count]
    difference = (stacked[top].mean(axis=0).argmax(axis=1) == label).astype(float) - hits[top[0]]
    redrawn = rng.multinomial(N, np.full(N, 1 / N), size=2000) @ difference / N
    low, high = np.quantile(redrawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    one, many, gain_of_many = float(single.mean()), float(several.mean()), float((several - single).mean())
    return {
        "count": count,
        "trials": [str(epochs.trials[epochs.trial[rows[index]]][1]["trial_id"]) for index in top],
        "single": one,
        "ensemble": many,
        "gain": gain_of_many,
        "interval": [float(low), float(high)],
        "sentence": (
            f"Averaging the posteriors of {count} trials would give val_acc {measured(many)} where one gives "
            f"{measured(one)} (picked on one half of the images, read on the other): a gain of {gained(gain_of_many)} "
            f"({gained(float(low))} to {gained(float(high))}); the export holds one network all the same."
        ),
    }


def _posterior(epochs: Candidates, row: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    store, trial = epochs.trials[epochs.trial[row]]
    try:
        table = store.predictions_table(str(trial["trial_id"]), int(epochs.epoch[row]))
    except StoreError as error:
        raise ChoiceError(f"--ensemble: {error}") from None
    classes = sum(name.startswith("log_p_") for name in table.column_names)
    log_p = np.stack([table[f"log_p_{label}"].to_numpy() for label in range(classes)], axis=1)
    raised = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True), table["label"].to_numpy()
