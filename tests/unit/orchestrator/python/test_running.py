"""`run_sweep` before Ray: what it refuses, what it asks the driver for, and who hears of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import orchestrator
from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.exporting import pictures
from orchestrator.python import running
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search import space
from orchestrator.search.ledger import Ledger, View, WatcherError
from orchestrator.search.study import Study
from orchestrator.tune import driver
from orchestrator.tune.plan import Outcome, Plan
from search_spaces import choice, ints
from tests.support import fakes

FIELDS = {"model.nr_filters": ints(8, 40)}


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ("digit", {}, "did you mean digits"),
        ("digits", {"preset": "large"}, "large: there is no such preset"),
        ("digits", {"sampler": "tp"}, "did you mean tpe"),
        ("digits", {"scheduler": "ash"}, "did you mean asha"),
        ("digits", {"objective": "val_ac"}, "did you mean val_acc"),
        ("digits", {"settings": {"train.epoch": 1}}, "settings: train.epoch: no such field; did you mean train.epochs"),
        ("digits", {"settings": {"train.epochs": 0}}, "train.epochs: 0 is not allowed"),
        ("digits", {"name": "a/b"}, "name 'a/b': must be the plain name"),
        ("digits", {"trials": 0}, "trials: 0: expected"),
        ("digits", {"hours": 0}, "hours: 0: expected"),
        ("digits", {"hours": float("nan")}, "hours: nan: expected"),
        ("digits", {"seed": -1}, "seed: -1 is not allowed"),
        ("digits", {"results": "s3://me:secret@bucket/results"}, "without user, password"),
        (FIELDS, {}, "a space without a file has none"),
        (FIELDS, {"name": "x", "preset": "large"}, "only a space file has presets"),
        ({"model.fusio": choice("none", "stem_add")}, {"name": "x"}, "did you mean model.fusion"),
        ({"model.fusion": choice("none", "stem_ad")}, {"name": "x"}, "did you mean stem_add"),
    ],
)
def test_what_cannot_run_is_an_error_of_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any, options: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(orchestrator.UserError, match=said):
        orchestrator.run_sweep(asked, **options)
    assert not list(tmp_path.iterdir())


def test_half_a_trial_is_no_number() -> None:
    with pytest.raises(TypeError):
        orchestrator.run_sweep("digits", trials=2.5)


def test_the_driver_is_asked_for_what_the_command_would_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []

    def run(plan: Plan, _view: View) -> Outcome:
        plans.append(plan)
        plan.store.create()
        plan.store.write_sweep(SweepRecord(name=plan.name))
        return Outcome(2, ran=True, interrupted=False)

    monkeypatch.setattr(driver, "run", run)
    monkeypatch.setattr(pictures, "draw_missing", lambda *_: None)
    settings = {"data.name": "digits", "train.epochs": 3}
    results = orchestrator.run_sweep(
        FIELDS,
        name="mine",
        results=tmp_path,
        trials=2,
        settings=settings,
        seed=7,
        hours=1,
        objective="val_bpd",
        sampler="random",
        scheduler="median",
        extend=True,
        retry_failed=True,
        quiet=True,
    )
    [plan] = plans
    file = tmp_path / "mine.py"
    file.write_text('from search_spaces import ints\nspace = {"model.nr_filters": ints(8, 40)}\n')
    typed = space.read(
        file,
        ["data.name=digits", "train.epochs=3"],
        seed=7,
        sampler="random",
        objective=plan.space.objective,
    ).scheduled("median")
    assert plan.space.describe() == typed.describe()
    assert plan.space.schedule == typed.schedule
    assert plan.space.objective.metric == "val_bpd"
    assert (plan.name, plan.trials, plan.seed, plan.budget.hours) == ("mine", 2, 7, 1)
    assert plan.extend
    assert plan.retry_failed
    assert (results.folder, results.sweeps) == (tmp_path, ("mine",))
    assert plan.store.folder == tmp_path / "mine"


def test_ctrl_c_is_keyboard_interrupt_which_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run", lambda *_: Outcome(1, ran=True, interrupted=True))
    with pytest.raises(KeyboardInterrupt, match="1 of 3 trials; the same call goes on"):
        orchestrator.run_sweep("digits", results=tmp_path, trials=3, quiet=True)


def test_an_epoch_is_recorded_before_it_is_told_and_an_error_of_who_hears_it_ends_the_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.create()
    said = space.of_fields(FIELDS, {})
    recorded: list[int] = []

    def on_epoch(config: TrialConfig, told: EpochMetrics) -> None:
        recorded.extend(int(row["epoch"]) for row in store.epochs_of(config.trial_id))
        if told.epoch == 2:
            raise ValueError("full")

    study = Study(said, store, seed=0, trials=1)
    ledger = Ledger(study, store, said.objective, running._Telling(fakes.NoView(), on_epoch))
    suggestion = ledger.suggest()
    assert suggestion is not None
    ledger.started(suggestion.number)
    here = Place("here", "cpu", 1)
    ledger.epoch(suggestion.number, fakes.metrics(1), here)
    assert ledger.fatal is None
    ledger.epoch(suggestion.number, fakes.metrics(2), here)
    assert ledger.suggest() is None
    ledger.interrupt("on_epoch: full")
    study.close()
    assert recorded == [1, 1, 2]
    [row] = store.trials().rows()
    assert (row["state"], row["stopped"], row["epochs"]) == ("INTERRUPTED", "on_epoch: full", 2)
    assert isinstance(ledger.fatal, WatcherError)
    assert isinstance(ledger.fatal.__cause__, ValueError)


def test_what_on_epoch_raises_comes_out_as_it_was_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_plan: Plan, view: View) -> Outcome:
        view.epoch(0, TrialConfig(), fakes.metrics(1), None)
        raise AssertionError("the view raised nothing")

    def on_epoch(*_: object) -> None:
        raise LookupError("mine")

    monkeypatch.setattr(driver, "run", run)
    with pytest.raises(LookupError, match="mine"):
        orchestrator.run_sweep("digits", results=tmp_path, on_epoch=on_epoch, quiet=True)
