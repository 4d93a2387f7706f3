"""The benchmark of what a sweep costs beside the training."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks import overhead
from cpcnn_core.config import TrialConfig
from orchestrator.records.store import Store


def test_every_trial_but_the_first_two_has_a_gap_before_it(tmp_path: Path) -> None:
    config = TrialConfig.from_flat({"train.epochs": 1})
    for _ in range(5):
        epochs = overhead.train(config, Store(tmp_path), reported=0)
        next(epochs)  # as a trial's process does, which knows that this was the last one
    found = overhead.gaps(tmp_path)
    assert len(found) == 3
    assert min(found) >= 0


def test_the_costs_of_a_simulated_sweep_are_counted_per_trial(tmp_path: Path) -> None:
    *_, costs = overhead.simulated(tmp_path / "sweep", 3, known=2)
    assert len(costs.ended) == len(costs.suggestions) == 3
    assert len(costs.epochs) == len(costs.epochs_by_clock) <= 3 * overhead.EPOCHS
    trials, epochs, *times, grown = costs.row(0)
    assert (trials, epochs) == ("3", str(len(costs.epochs)))
    assert all(int(value) >= 0 for value in (*times, grown))


def test_a_suggestions_writes_are_timed_under_each_journal(tmp_path: Path) -> None:
    found = overhead.of_journals(tmp_path, 2)
    assert {name: len(seconds) for name, seconds in found.items()} == dict.fromkeys(overhead.JOURNALS, 2)
    modes = {}
    for name in overhead.JOURNALS:
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as held:
            modes[name] = held.execute("pragma journal_mode").fetchone()[0]
    assert [mode == "wal" for mode in modes.values()] == [True, False, False, False]
