"""Which of a sweep's trials go on, as which children, and that this follows from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from cpcnn_core.config import Scalar, TrialConfig
from orchestrator.choosing.asked import asks_for
from orchestrator.objectives.objective import Objective
from orchestrator.records import ranking
from orchestrator.records.ranking import Entry
from orchestrator.records.recording import KILLED, Place, Recording
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import Asked, SweepRecord
from orchestrator.search import growth
from orchestrator.search.ledger import Ledger
from orchestrator.search.space import SearchSpace
from orchestrator.training import by_hand, continuing
from orchestrator.tune.continuation import Continuation, _of_any_length
from orchestrator.tune.plan import Plan, SweepError
from orchestrator.views.progress import Progress
from search_spaces import choice
from tests.support.fakes import metrics
from tests.support.stores import tiny_store
from tests.support.training import SETTINGS

EPOCHS = 1
HERE = Place("here", "cpu", 1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return tiny_store(tmp_path / "one", monkeypatch)


def plan(store: Store, more: int = 2, schedules: Sequence[str] = ("constant",), *, retry: bool = False) -> Plan:
    space = SearchSpace(
        "a test",
        "",
        {"train.lr": choice([0.01, 0.02]), "train.schedule": choice(list(schedules))},
        {name: value for name, value in SETTINGS.items() if name != "train.lr"} | {"train.epochs": EPOCHS, "seed": 0},
        4,
        Objective("val_acc", "max"),
    )
    results = store.folder.parent
    return Plan(store.folder.name, space, results, trials=4, more_epochs=more, retry_failed=retry)


def trained(store: Store, **settings: Scalar) -> TrialConfig:
    config = TrialConfig.from_flat(SETTINGS | {"train.epochs": EPOCHS} | settings)
    run(store, config)
    return config


def run(store: Store, config: TrialConfig) -> None:
    start = continuing.recorded(store, config) if config.continues else None
    by_hand.train(config, store, None, on_epoch=lambda _row: None, on_progress=lambda *_: None, start=start)


def continuation(store: Store, asked: Plan, said: list[str] | None = None) -> Continuation:
    entries: list[Entry] = [entry for entry in ranking.read([store])[0] if entry.trial.get("lineage.parent") is None]
    return Continuation(asked, store, entries, (said if said is not None else []).append)


def test_each_complete_trial_goes_on_and_a_new_driver_comes_to_the_same(store: Store) -> None:
    roots = [trained(store, **{"train.lr": lr}) for lr in (0.01, 0.02)]
    stopped = TrialConfig.from_flat(SETTINGS | {"train.epochs": EPOCHS, "train.lr": 0.03})
    Recording(store, stopped, 2).finish("PRUNED", stopped="after epoch 1")
    first = continuation(store, plan(store))
    suggestions = [first.next(), first.next()]
    assert first.next() is None
    children = [suggestion.config for suggestion in suggestions if suggestion is not None]
    assert {child.lineage.parent for child in children} == {root.trial_id for root in roots}
    assert {child.train.epochs for child in children} == {EPOCHS + 2}
    run(store, children[0])
    second = continuation(store, plan(store))
    assert (second.finished, second.total, second.is_over) == (1, 2, False)
    assert [suggestion.config for suggestion in second.waiting] == children[1:]
    run(store, children[1])
    assert continuation(store, plan(store)).is_over


def test_a_larger_number_goes_on_from_the_longest_one(store: Store) -> None:
    root = trained(store)
    [child] = [suggestion.config for suggestion in continuation(store, plan(store, 1)).waiting]
    run(store, child)
    [longer] = [suggestion.config for suggestion in continuation(store, plan(store, 3)).waiting]
    assert (longer.lineage.parent, longer.lineage.root) == (child.trial_id, root.trial_id)
    assert (longer.lineage.epochs_before, longer.train.epochs) == (2, 4)


@pytest.mark.parametrize(("retry", "waits"), [(False, 0), (True, 1)])
def test_a_child_that_failed_is_run_again_where_that_is_asked(store: Store, retry: bool, waits: int) -> None:
    trained(store)
    [child] = [suggestion.config for suggestion in continuation(store, plan(store)).waiting]
    Recording(store, child, 0).finish("FAILED", "it broke")
    assert len(continuation(store, plan(store, retry=retry)).waiting) == waits


def test_a_killed_driver_s_child_is_the_first_to_go_on(store: Store) -> None:
    for lr in (0.01, 0.02):
        trained(store, **{"train.lr": lr})
    asked = plan(store)
    with Progress(Console(quiet=True), asked.space.objective, (), total=2) as view:
        ledger = Ledger(continuation(store, asked), store, asked.space.objective, view)
        suggestion = ledger.suggest()
        assert suggestion is not None
        ledger.started(suggestion.number)
        ledger.epoch(suggestion.number, metrics(2), HERE)  # and here the driver is killed
        again = continuation(store, asked)
        assert again.left_behind == 1
        assert suggestion.config in [each.config for each in again.waiting]
        ledger = Ledger(again, store, asked.space.objective, view)
        ledger.interrupt("Ctrl-C")
        [attempt] = store.attempts_of(suggestion.config.trial_id)
        assert (attempt["state"], attempt["stopped"], attempt["epochs"]) == ("INTERRUPTED", KILLED, 2)
        ledger = Ledger(again := continuation(store, asked), store, asked.space.objective, view)
        while (each := ledger.suggest()) is not None:
            ledger.started(each.number)
            for epoch in (2, 3):
                ledger.epoch(each.number, metrics(epoch), HERE)
            ledger.ended(each.number, None)
        assert ledger.fatal is None
        assert (again.finished, ledger.is_over) == (2, True)
    assert {row["state"] for row in store.latest_attempts().rows()} == {"COMPLETE"}


def test_a_schedule_over_all_epochs_is_left_with_a_sentence_or_refused(store: Store) -> None:
    trained(store)
    said: list[str] = []
    trained(store, **{"train.schedule": "cosine"})
    assert len(continuation(store, plan(store, 2, ("constant", "cosine")), said).waiting) == 1
    [sentence] = said
    assert sentence.startswith("1 of 2 COMPLETE trials do not go on: train.schedule=cosine lowers the learning rate")
    only = Store(store.folder.parent / "only")
    only.create()
    trained(only, **{"train.schedule": "linear"})
    with pytest.raises(SweepError, match=r"train\.schedule=linear .* --set train\.epochs=TOTAL .* --more-epochs N"):
        continuation(only, plan(only, 2, ("linear",)))


def test_data_that_needs_a_place_needs_none_to_tell_lengths_apart() -> None:
    """`cpen455` is refused without `data.root`, which is no part of what trials have in common."""
    there = {"data.name": "cpen455", "data.root": "/somewhere", "train.epochs": 3}
    short, long = TrialConfig.from_flat(there), TrialConfig.from_flat(there | {"train.epochs": 9, "data.root": "/else"})
    other = TrialConfig.from_flat(there | {"train.lr": 0.5})
    assert _of_any_length(short) == _of_any_length(long) != _of_any_length(other)


def test_without_a_complete_trial_there_is_nothing_to_continue(store: Store) -> None:
    with pytest.raises(SweepError, match=r"no trial of .* is COMPLETE"):
        continuation(store, plan(store))


def test_a_trial_whose_weights_are_gone_is_named_and_the_others_go_on(store: Store) -> None:
    lost, _ = (trained(store, **{"train.lr": lr}) for lr in (0.01, 0.02))
    for file in store.training_folder(lost.trial_id).glob("weights-*"):
        file.unlink()
    said: list[str] = []
    assert len(continuation(store, plan(store), said).waiting) == 1
    assert said[0].startswith(f"trial {lost.trial_id} is not continued: ")


def test_a_sweep_asks_for_the_trials_that_continue_it_and_for_no_others(store: Store) -> None:
    trained(store)
    asked = plan(store)
    record = SweepRecord(
        asked=Asked.model_validate({**asked.space.describe(), "seed": 0}), fields=growth.recorded(asked.space.fields)
    )
    [child] = [suggestion.config for suggestion in continuation(store, asked).waiting]
    run(store, child)
    row = store.attempts_of(child.trial_id)[-1]
    assert not asks_for(record, row), "it was run by hand"
    assert asks_for(record.model_copy(update={"continued": [5, 2]}), row)
    assert not asks_for(record.model_copy(update={"continued": [3]}), row)
    changed = {**row, "train.batch_size": 8}
    assert not asks_for(record.model_copy(update={"continued": [2]}), changed)
