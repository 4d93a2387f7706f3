"""Whole sweeps of chance: kills between any two writes, deaths, failures, promotions, a lost study; without Ray.

`CPCNN_SWEEPS=200 pytest tests/fault/test_killed_at_random.py` tries more of them; a sweep is made by its seed alone.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

import orchestrator.records.place
from cpcnn_core.metrics import EpochMetrics
from orchestrator.objectives.objective import Objective
from orchestrator.records import ranking
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.search.ledger import Ledger
from orchestrator.search.scheduling import Schedule
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study
from orchestrator.search.study_file import StudyFile
from orchestrator.training import trainer
from search_spaces import Distribution, choice, ints
from tests.fault.test_killed_anywhere import Killed, new_store
from tests.support import fakes
from tests.support.fakes import NoView

TRIALS, EPOCHS = 7, 4
FIELDS: dict[str, Distribution] = {
    "model.fusion": choice("none", "stem_add", "input_map"),
    "model.nr_filters": ints(16, 20),
}
SPACE = SearchSpace("a test", "", FIELDS, {"train.epochs": EPOCHS, "seed": 0}, TRIALS, Objective("val_acc", "max"))
MOST_WRITES = 160  # until a kill; most sweeps are over by then
STUDY_WRITES = (
    "create_new_trial", "set_trial_param", "set_trial_state_values", "set_trial_intermediate_value",
    "set_trial_user_attr", "set_trial_system_attr",
)  # fmt: skip
HERE = Place("here", "cpu", 1)


class Sweep:
    """One way that a sweep may go, drawn from a seed."""

    def __init__(self, seed: int, store: Store) -> None:
        self.rng = random.Random(seed)
        self.store = store
        self.schedule = Schedule(name=self.rng.choice(["promote", "promote", "asha", "none"]), grace_epochs=1)
        self.at_once = self.rng.choice([1, 2, 3])
        self.kills = self.rng.choice([1, 2, 4])
        self.failed: set[str] = set()  # trials that may end so
        self.interrupts = True  # whether Ctrl-C, or the budget, may end a driver

    def happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def drive(self) -> int:
        """One run of a driver; return how many trials it started."""
        study = Study(SPACE, self.store, seed=0, trials=TRIALS)
        running: list[tuple[int, str, Iterator[EpochMetrics]]] = []
        begun: set[int] = set()
        started = 0
        try:
            ledger = Ledger(study, self.store, SPACE.objective, NoView(), self.schedule.scheduler(EPOCHS))
            ledger.recall(ranking.read([self.store])[0])
            while not ledger.is_over or running:
                while len(running) < self.at_once and (suggestion := ledger.suggest()) is not None:
                    started += 1
                    number, config = suggestion.number, suggestion.config
                    assert config.trial_id not in [trial for _, trial, _ in running], "the same trial twice at once"
                    begun.discard(number)
                    running.append((number, config.trial_id, trainer.run(config, self.store, fakes.train)))
                    if self.happens(0.9):  # else it waits for a place
                        ledger.started(number)
                        begun.add(number)
                if ledger.fatal is not None:
                    raise ledger.fatal
                if not running:
                    break
                if self.interrupts and self.happens(0.05):
                    ledger.interrupt("Ctrl-C")
                    assert not ledger.is_over
                    assert not ledger.is_busy
                    states = {row["state"] for row in self.store.trials().rows()}
                    assert "INTERRUPTED" in states or not begun
                    assert "RUNNING" not in states
                    break
                self._step(ledger, running, begun)
        finally:
            for _, _, epochs in running:
                epochs.close()  # type: ignore[attr-defined]
            study.close()
        return started

    def _step(self, ledger: Ledger, running: list[tuple[int, str, Iterator[EpochMetrics]]], begun: set[int]) -> None:
        number, trial, epochs = running.pop(self.rng.randrange(len(running)))
        if self.happens(0.1):
            epochs.close()  # type: ignore[attr-defined]
            ledger.died(number, "its node is gone", its_fault=False)
            return
        if number not in begun:
            ledger.started(number)
            begun.add(number)
        error = "ValueError: a bad configuration" if self.happens(0.02) else None
        if error:
            self.failed.add(trial)
        metrics = None if error else next(epochs, None)
        stops = metrics is not None and ledger.epoch(number, metrics, HERE)
        if metrics is None or stops or metrics.epoch == EPOCHS:
            epochs.close()  # type: ignore[attr-defined]
            ledger.ended(number, error)
        else:
            running.append((number, trial, epochs))


@contextmanager
def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise Killed before or after one of the writes of rows, checkpoints and the study."""
    left = steps

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        def call(*arguments: Any, **options: Any) -> Any:
            step()
            result = function(*arguments, **options)
            step()
            return result

        return call

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for where in (orchestrator.records.place, fakes):
            patch.setattr(where, "write_atomically", counted(vars(where)["write_atomically"]))
        for name in STUDY_WRITES:
            patch.setattr(StudyFile, name, counted(getattr(StudyFile, name)))
        yield


def check_whole(store: Store, failed: set[str]) -> None:
    """Every trial has ended, every epoch has one row, and the study says of each what the rows say."""
    latest = store.latest_attempts().rows()
    assert len(latest) == TRIALS
    assert {row["state"] for row in latest} <= {"COMPLETE", "PRUNED", "FAILED"}
    assert {row["trial_id"] for row in latest if row["state"] == "FAILED"} <= failed
    assert {row["trial_id"] for row in store.trials().rows() if row["error"] is not None} <= failed
    assert "RUNNING" not in {row["state"] for row in store.trials().rows()}
    epochs = Counter((row["trial_id"], row["epoch"]) for row in store.epochs().rows())
    assert epochs == {(row["trial_id"], epoch): 1 for row in latest for epoch in range(1, row["epochs"] + 1)}
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{store.study_file}")
    told = [trial for trial in study.trials if "duplicate_of" not in trial.user_attrs]
    assert all(trial.state.is_finished() for trial in study.trials)
    for row in latest:
        states = [trial.state.name for trial in told if trial.user_attrs.get("trial_id") == row["trial_id"]]
        assert row["state"].replace("FAILED", "FAIL") in states
        assert states.count("COMPLETE") == (row["state"] == "COMPLETE")


@pytest.mark.parametrize("seed", range(int(os.environ.get("CPCNN_SWEEPS", "16"))))
def test_a_sweep_to_which_anything_happens_ends_whole(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(seed, new_store(tmp_path / "one"))
    for _ in range(sweep.kills):
        with killed_after(sweep.rng.randrange(1, MOST_WRITES), monkeypatch):
            sweep.drive()
        if sweep.happens(0.15):
            sweep.store.set_study_aside()
    sweep.interrupts = False
    sweep.drive()
    assert sweep.drive() == 0  # a further run has nothing to do
    check_whole(sweep.store, sweep.failed)
