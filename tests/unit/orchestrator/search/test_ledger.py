"""Trials that are stopped, promoted and cut short, as the ledger writes them; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.records import ranking
from orchestrator.records.recording import KILLED, Place
from orchestrator.records.store import Store
from orchestrator.search.budget import Budget, BudgetMeter, Spent, spent
from orchestrator.search.ledger import MAX_RESTARTS, Ledger
from orchestrator.search.scheduling import Schedule
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study
from orchestrator.views.progress import Progress
from search_spaces import ints
from tests.support.fakes import metrics
from tests.support.times import at

HERE = Place("here", "cpu", 1)
EPOCHS = 4
SPACE = SearchSpace(
    "a test",
    "",
    {"model.nr_filters": ints(8, 40)},
    {"train.epochs": EPOCHS, "seed": 0},
    3,
    Objective("val_acc", "max"),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "one")
    made.create()
    return made


@contextmanager
def opened(store: Store, schedule: str, *, trials: int = 3) -> Iterator[Ledger]:
    """The ledger of a new driver."""
    study = Study(SPACE, store, seed=0, trials=trials)
    view = Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=trials)
    ledger = Ledger(study, store, SPACE.objective, view, Schedule(name=schedule, grace_epochs=2).scheduler(EPOCHS))
    ledger.recall(ranking.read([store])[0])
    yield ledger
    assert ledger.fatal is None
    study.close()


def begin(ledger: Ledger) -> tuple[int, TrialConfig]:
    suggestion = ledger.suggest()
    assert suggestion is not None
    ledger.started(suggestion.number)
    return suggestion.number, suggestion.config


def train(ledger: Ledger, number: int, accuracy: float, *, first: int = 1, last: int = EPOCHS) -> int:
    """Report epochs until the trial is stopped or through; return the last one."""
    for epoch in range(first, last + 1):
        if ledger.epoch(number, metrics(epoch, val_acc=accuracy), HERE):
            break
    ledger.ended(number, None)
    return epoch


def states(store: Store) -> dict[str, tuple[str, int, str | None]]:
    return {row["trial_id"]: (row["state"], row["epochs"], row["stopped"]) for row in store.latest_attempts().rows()}


def test_asha_stops_the_worse_of_two_and_says_why(store: Store) -> None:
    with opened(store, "asha", trials=2) as ledger:
        one, first = begin(ledger)
        assert train(ledger, one, 0.6) == EPOCHS
        two, second = begin(ledger)
        assert train(ledger, two, 0.5) == 2
        assert ledger.suggest() is None
        assert ledger.is_over
    assert states(store) == {
        first.trial_id: ("COMPLETE", 4, None),
        second.trial_id: ("PRUNED", 2, "after epoch 2 behind 1 of 1 others"),
    }


def test_the_next_driver_judges_by_the_rows_of_the_one_before(store: Store) -> None:
    with opened(store, "asha") as ledger:
        train(ledger, begin(ledger)[0], 0.6)
    with opened(store, "asha") as ledger:
        assert train(ledger, begin(ledger)[0], 0.5) == 2


def test_a_trial_whose_driver_was_killed_at_a_rung_is_judged_before_it_trains_on(store: Store) -> None:
    with opened(store, "asha") as ledger:
        train(ledger, begin(ledger)[0], 0.6)
        number, left = begin(ledger)
        for epoch in (1, 2):
            ledger.epoch(number, metrics(epoch, val_acc=0.5), HERE)  # the verdict dies with the driver
    with opened(store, "asha") as ledger:
        assert begin(ledger)[1].trial_id != left.trial_id
    assert states(store)[left.trial_id] == ("PRUNED", 2, "after epoch 2 behind 1 of 1 others")


def test_a_promoted_trial_goes_on_where_it_paused_and_ends_complete(store: Store) -> None:
    accuracies: dict[str, float] = {}
    with opened(store, "promote") as ledger:
        for accuracy in (0.3, 0.6, 0.5):
            number, config = begin(ledger)
            accuracies[config.trial_id] = accuracy
            assert train(ledger, number, accuracy) == 2
        number, config = begin(ledger)
        assert accuracies[config.trial_id] == 0.6
        assert train(ledger, number, 0.6, first=3) == EPOCHS
        assert ledger.suggest() is None
        assert ledger.is_over
    held = states(store)
    assert sorted((accuracies[trial], *state[:2]) for trial, state in held.items()) == [
        (0.3, "PRUNED", 2),
        (0.5, "PRUNED", 2),
        (0.6, "COMPLETE", 4),
    ]
    with opened(store, "promote") as ledger:
        assert ledger.is_over  # a further run has nothing to do


@pytest.mark.parametrize("begun", [False, True])
def test_a_promotion_survives_the_driver(store: Store, begun: bool) -> None:
    with opened(store, "promote") as ledger:
        for accuracy in (0.3, 0.6, 0.5):
            train(ledger, begin(ledger)[0], accuracy)
        suggestion = ledger.suggest()
        assert suggestion is not None
        if begun:
            ledger.started(suggestion.number)
            ledger.epoch(suggestion.number, metrics(3, val_acc=0.6), HERE)
    with opened(store, "promote") as ledger:
        number, config = begin(ledger)
        assert config == suggestion.config
        train(ledger, number, 0.6, first=4 if begun else 3)
        assert ledger.is_over
    assert [state for state, *_ in states(store).values()].count("COMPLETE") == 1
    assert len(store.epochs().rows()) == 2 + 2 + 4


def test_a_promoted_trial_that_fails_leaves_its_place_to_the_next_one(store: Store) -> None:
    with opened(store, "promote") as ledger:
        for accuracy in (0.3, 0.6, 0.5):
            train(ledger, begin(ledger)[0], accuracy)
        best, _ = begin(ledger)
        ledger.ended(best, "ValueError: a bad configuration")
        assert not ledger.is_over
    with opened(store, "promote") as ledger:  # nor does it hold its place in the next driver
        assert train(ledger, begin(ledger)[0], 0.5, first=3) == EPOCHS
        assert ledger.is_over
    held = sorted((state, epochs) for state, epochs, _ in states(store).values())
    assert held == [("COMPLETE", 4), ("FAILED", 2), ("PRUNED", 2)]


def test_a_promotion_is_of_one_trial_though_others_wait_to_go_on(store: Store) -> None:
    with opened(store, "promote", trials=7) as ledger:
        left = [begin(ledger) for _ in range(2)]
        for accuracy in (0.3, 0.6, 0.5):
            train(ledger, begin(ledger)[0], accuracy)
    store.set_study_aside()  # as --extend does, or the loss of the file
    with opened(store, "promote", trials=7) as ledger:
        suggested = [begin(ledger)[1].trial_id for _ in range(5)]
        assert len(set(suggested)) == 5  # none runs twice at once
        assert {config.trial_id for _, config in left} < set(suggested)
        assert ledger.suggest() is None
    assert [row["state"] for row in store.latest_attempts().rows()].count("PRUNED") == 2


def test_without_a_scheduler_what_was_stopped_goes_on(store: Store) -> None:
    with opened(store, "asha", trials=2) as ledger:
        train(ledger, begin(ledger)[0], 0.6)
        train(ledger, begin(ledger)[0], 0.5)
    with opened(store, "none", trials=2) as ledger:
        number, _ = begin(ledger)
        assert train(ledger, number, 0.5, first=3) == EPOCHS
        assert ledger.is_over
    assert [state for state, *_ in states(store).values()] == ["COMPLETE"] * 2


def test_a_trial_that_waits_for_a_place_does_not_run(store: Store) -> None:
    with opened(store, "none") as ledger:
        suggestion = ledger.suggest()
        assert suggestion is not None
        assert (ledger.is_busy, ledger.running) == (True, 0)
        ledger.started(suggestion.number)
        assert ledger.running == 1


@pytest.mark.parametrize("schedule", ["asha", "none"])
def test_a_trial_whose_time_was_up_is_the_first_to_go_on(store: Store, schedule: str) -> None:
    with opened(store, schedule) as ledger:
        number, config = begin(ledger)
        ledger.epoch(number, metrics(1), HERE)
        ledger.interrupt("the sweep's budget was spent: --hours 1")
        assert not ledger.is_busy
        assert not ledger.is_over
    assert states(store)[config.trial_id] == ("INTERRUPTED", 1, "the sweep's budget was spent: --hours 1")
    with opened(store, schedule) as ledger:
        number, again = begin(ledger)
        assert again == config
        assert train(ledger, number, 0.5, first=2) == EPOCHS
        assert begin(ledger)[1] != config


def test_a_spent_budget_ends_what_was_left_behind_too_at_what_it_had_reached(store: Store) -> None:
    with opened(store, "none") as ledger:
        for accuracy in (0.5, 0.6):
            number, _ = begin(ledger)
            ledger.epoch(number, metrics(1, val_acc=accuracy), HERE)
    with opened(
        store, "none"
    ) as ledger:  # the driver was killed; now one trial waits for its process, one is not asked
        suggestion = ledger.suggest()
        assert suggestion is not None
        ledger.interrupt("the sweep's budget was spent: --hours 1")
        assert not ledger.is_over
    assert list(states(store).values()) == [("INTERRUPTED", 1, KILLED)] * 2
    study = Study(SPACE, store, seed=0, trials=3)
    assert [trial.state.name for trial in study._study.trials] == ["RUNNING"] * 2  # Optuna has no state of its own
    assert (study.finished, study.left_behind) == (0, 2)
    study.close()


def test_trials_that_are_all_interrupted_are_not_over(store: Store) -> None:
    with opened(store, "none", trials=2) as ledger:
        for _ in range(2):
            begin(ledger)
        ledger.interrupt("Ctrl-C")
        assert not ledger.is_over
    with opened(store, "none", trials=2) as ledger:
        assert not ledger.is_over
        for accuracy in (0.5, 0.6):
            train(ledger, begin(ledger)[0], accuracy)
        assert ledger.is_over
    assert [state for state, *_ in states(store).values()] == ["COMPLETE"] * 2


def test_a_trial_that_is_interrupted_twice_at_a_rung_is_judged_like_any_other(store: Store) -> None:
    with opened(store, "asha") as ledger:
        train(ledger, begin(ledger)[0], 0.6)
        number, left = begin(ledger)
        ledger.epoch(number, metrics(1, val_acc=0.5), HERE)
        ledger.interrupt("Ctrl-C")
    with opened(store, "asha") as ledger:
        number, again = begin(ledger)
        assert again == left
        assert ledger.epoch(number, metrics(2, val_acc=0.5), HERE)
        ledger.interrupt("Ctrl-C")  # before the verdict is written
    with opened(store, "asha") as ledger:
        assert begin(ledger)[1] != left
    assert states(store)[left.trial_id] == ("PRUNED", 2, "after epoch 2 behind 1 of 1 others")


def as_version_2(store: Store, **changes: object) -> None:
    """Let the only trial's last row be as an earlier version wrote it."""
    [file] = store.trials_folder.iterdir()
    rows = pq.read_table(file).to_pylist()
    rows[-1] |= changes
    table = pa.Table.from_pylist(rows, schema=pq.read_schema(file))
    pq.write_table(table.replace_schema_metadata({b"schema_version": b"2"}), file)


@pytest.mark.parametrize("schedule", ["asha", "promote", "none"])
def test_what_an_earlier_version_called_pruned_by_the_budget_is_taken_up_too(store: Store, schedule: str) -> None:
    with opened(store, schedule) as ledger:
        number, config = begin(ledger)
        ledger.epoch(number, metrics(1, val_acc=0.5), HERE)
        ledger.ended(number, None)  # so the study was told, too
    as_version_2(store, state="PRUNED", stopped="the sweep's budget was spent: --hours 1")
    assert states(store)[config.trial_id] == ("INTERRUPTED", 1, "the sweep's budget was spent: --hours 1")
    for _ in range(2):  # a driver that is killed before the trial is asked for loses nothing
        with opened(store, schedule) as ledger:
            assert not ledger.is_over
    with opened(store, schedule) as ledger:
        number, again = begin(ledger)
        assert again == config
        train(ledger, number, 0.5, first=2)
        assert begin(ledger)[1] != config
    study = Study(SPACE, store, seed=0, trials=3)
    told = [trial.state.name for trial in study._study.trials if trial.user_attrs["trial_id"] == config.trial_id]
    assert told == ["PRUNED", "PRUNED" if schedule == "promote" else "COMPLETE"]
    study.close()


def test_a_machine_that_was_taken_away_is_not_the_trials_fault(store: Store) -> None:
    with opened(store, "asha") as ledger:
        number, config = begin(ledger)
        for _ in range(MAX_RESTARTS + 2):
            ledger.died(number, "its node has died", its_fault=False)
            assert begin(ledger) == (number, config)
        for _ in range(MAX_RESTARTS):
            ledger.died(number, "it died")
            assert begin(ledger) == (number, config)
        ledger.died(number, "it died")
        assert begin(ledger)[1] != config


def test_a_signal_that_comes_again_and_again_fails_a_trial_that_comes_no_further(store: Store) -> None:
    def preempted(where: str) -> None:
        ledger.preempted(number, f"SIGTERM: {where}", where=where)

    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        for step in range(2 * MAX_RESTARTS):  # each attempt gains one: it goes on as often as that happens
            preempted(f"after step {step}")
            assert begin(ledger) == (number, config)
        for _ in range(2 * MAX_RESTARTS):  # its machines are taken away one after another
            ledger.preempted(number, "AWS: after step 3")
            assert begin(ledger) == (number, config)
        for _ in range(MAX_RESTARTS):
            preempted("after step 3")
            assert states(store)[config.trial_id] == ("PREEMPTED", 0, "SIGTERM: after step 3")
            assert begin(ledger) == (number, config)
        preempted("after step 3")
        assert states(store)[config.trial_id][0] == "FAILED"
        [row] = [row for row in store.latest_attempts().rows() if row["trial_id"] == config.trial_id]
        assert str(row["error"]).startswith("SIGTERM: after step 3, and no attempt comes further")
        assert begin(ledger)[1] != config


def test_those_that_saved_their_state_before_the_sweep_s_machine_went_stay_preempted(store: Store) -> None:
    why = "the sweep ends: SIGUSR1: after step 3"
    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        _, other = begin(ledger)
        ledger.preempted(number, why, goes_on=False)
        ledger.interrupt("SIGUSR1")
        assert not ledger.is_over
    assert states(store) == {
        config.trial_id: ("PREEMPTED", 0, why),
        other.trial_id: ("INTERRUPTED", 0, "SIGUSR1"),
    }
    with opened(store, "none") as again:
        assert {begin(again)[1].trial_id, begin(again)[1].trial_id} == {config.trial_id, other.trial_id}


def row(
    trial: str, started: str, seconds: float | None, gpus: float | None = 1.0, attempt: int = 1
) -> dict[str, object]:
    begun = at(f"2025-01-01T{started}")
    return {"trial_id": trial, "attempt": attempt, "started": begun, "seconds": seconds, "gpus": gpus}


def test_hours_are_those_in_which_anything_ran_and_gpu_hours_are_added_up() -> None:
    attempts = [
        row("a", "00:00", 3600, 2.0),
        row("b", "00:30", 3600),  # half of it beside a
        row("c", "09:00", None),  # its driver was killed: as long as its epochs
        row("c", "10:00", 1800, None, attempt=2),  # of an earlier version, which did not say
    ]
    epochs = [{"trial_id": "c", "attempt": 1, "seconds": 900.0}, {"trial_id": "c", "attempt": 1, "seconds": 900.0}]
    assert spent(attempts, epochs) == Spent(hours=1.5 + 0.5 + 0.5, gpu_hours=2 + 1 + 0.5)
    assert spent([], []) == Spent()


def test_a_meter_counts_on_and_names_the_limit_that_comes_first() -> None:
    now = [0.0]

    def tick(meter: BudgetMeter, seconds: float, trials: int) -> str | None:
        now[0] += seconds
        return meter.tick(trials, gpus=trials)

    meter = BudgetMeter(Budget(hours=2, gpu_hours=3), Spent(0.5, 1), lambda: now[0])
    assert tick(meter, 1000, 4) is None  # nothing ran before the first look
    assert tick(meter, 1800, 1) is None
    assert tick(meter, 1e9, 0) is None  # while the trials wait for machines
    assert tick(meter, 1799, 3) is None
    assert tick(meter, 2, 3) == "--gpu-hours 3"
    assert BudgetMeter(Budget(), Spent(1e9, 1e9)).exhausted() is None
    assert BudgetMeter(Budget(hours=1), Spent(1, 0)).exhausted() == "--hours 1"
