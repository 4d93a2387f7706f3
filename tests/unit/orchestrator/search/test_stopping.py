"""A trial that the user ends: STOPPED, whatever comes in between, and no resumption takes it up."""

from __future__ import annotations

import pytest

from orchestrator.records import stop_requests
from orchestrator.records.store import Store
from orchestrator.search.ledger import MAX_RESTARTS
from tests.support import remote
from tests.support.fakes import metrics
from tests.unit.orchestrator.search.test_ledger import HERE, begin, opened, store, train

__all__ = ["store"]  # a fixture


def states(store: Store) -> dict[str, tuple[str, str | None, int]]:
    return {row["trial_id"]: (row["state"], row["stopped"], row["epochs"]) for row in store.latest_attempts().rows()}


def requested(store: Store) -> list[str]:
    folder = store.folder / "stop"
    return sorted(file.stem for file in folder.glob("*.json"))


@pytest.mark.parametrize("end", ["killed", "at an epoch's end"])
def test_it_ends_with_the_epochs_it_has(store: Store, end: str) -> None:
    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        other, _ = begin(ledger)
        assert not ledger.epoch(number, metrics(1, val_acc=0.5), HERE)
        assert not ledger.asked_to_stop(number)
        stop_requests.ask(store, config.trial_id)
        ledger.requests._next = 0.0
        assert ledger.asked_to_stop(number)
        assert not ledger.asked_to_stop(other)
        if end == "killed":
            ledger.died(number, "the process was killed")
        else:
            assert ledger.epoch(number, metrics(2, val_acc=0.6), HERE)
            ledger.ended(number, None)
        epochs = 2 if end == "at an epoch's end" else 1
        assert states(store)[config.trial_id] == ("STOPPED", stop_requests.WHY, epochs)
        assert store.latest_attempts().rows()[0]["error"] is None
        assert requested(store) == []
        train(ledger, other, 0.7)
        third, _ = begin(ledger)  # of three: the stopped one is one of them
        train(ledger, third, 0.7)
        assert ledger.suggest() is None
    with opened(store, "none") as again:
        assert again.is_over
        assert again.suggest() is None


@pytest.mark.parametrize("epochs", [1, 4])
def test_one_that_fails_by_itself_meanwhile_is_failed_with_its_error(store: Store, epochs: int) -> None:
    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        stop_requests.ask(store, config.trial_id)
        ledger.requests._next = 0.0
        assert ledger.asked_to_stop(number)
        for epoch in range(1, epochs + 1):
            ledger.epoch(number, metrics(epoch, val_acc=0.5), HERE)
        ledger.ended(number, "ValueError: its loss is not finite")
        [row] = store.latest_attempts().rows()
        assert (row["state"], row["error"], row["stopped"]) == ("FAILED", "ValueError: its loss is not finite", None)
        assert requested(store) == []


def test_one_that_comes_to_its_end_first_is_complete(store: Store) -> None:
    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        stop_requests.ask(store, config.trial_id)
        ledger.requests._next = 0.0
        assert ledger.asked_to_stop(number)
        for epoch in range(1, 5):
            ledger.epoch(number, metrics(epoch, val_acc=0.5), HERE)
        ledger.ended(number, None)
        assert states(store)[config.trial_id][0] == "COMPLETE"
        assert requested(store) == []


def test_a_driver_that_is_killed_before_it_follows_leaves_the_request_to_the_next(store: Store) -> None:
    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        ledger.epoch(number, metrics(1, val_acc=0.5), HERE)
        stop_requests.ask(store, config.trial_id)
    assert states(store)[config.trial_id][0] == "RUNNING"
    with opened(store, "none") as again:
        another = again.suggest()
        assert another is not None
        assert another.config.trial_id != config.trial_id
        assert states(store)[config.trial_id] == ("STOPPED", stop_requests.WHY, 1)
        assert requested(store) == []


def test_one_that_was_interrupted_meanwhile_is_stopped_by_the_next_driver(store: Store) -> None:
    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        ledger.epoch(number, metrics(1, val_acc=0.5), HERE)
        stop_requests.ask(store, config.trial_id)
        ledger.requests._next = 0.0
        assert ledger.asked_to_stop(number)
        ledger.interrupt("Ctrl-C")
    assert states(store)[config.trial_id][0] == "INTERRUPTED"
    with opened(store, "none") as again:
        again.suggest()
        assert states(store)[config.trial_id][0] == "STOPPED"


def test_a_request_that_outlived_its_trial_is_forgotten(store: Store) -> None:
    with opened(store, "none") as ledger:
        number, config = begin(ledger)
        train(ledger, number, 0.5)
    stop_requests.ask(store, config.trial_id)
    with opened(store, "none"):
        assert requested(store) == []


def test_deaths_that_nobody_asked_for_start_a_trial_again(store: Store) -> None:
    with opened(store, "none") as ledger:
        for _ in range(MAX_RESTARTS):
            number, config = begin(ledger)
            ledger.died(number, "the process was killed")
            assert states(store)[config.trial_id][0] == "INTERRUPTED"


def test_a_request_goes_through_a_bucket() -> None:
    bucket = Store(remote.folder() / "one")
    asked = stop_requests.StopRequests(bucket)
    assert "0123456789ab" not in asked.look()
    stop_requests.ask(bucket, "0123456789ab")
    assert "0123456789ab" not in asked.look()  # for some seconds it looks no more
    asked._next = 0.0
    assert "0123456789ab" in asked.look()
    asked.done("0123456789ab")
    assert "0123456789ab" not in asked.look()
    assert not list((bucket.folder / "stop").iterdir())
