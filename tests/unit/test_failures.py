"""A sweep whose first trials all fail for one cause ends; failed trials run again; the study follows the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator.failures import FailuresInARow, cause_of
from orchestrator.leaderboard import read
from orchestrator.ledger import Ledger
from orchestrator.objective import Objective
from orchestrator.progress import Progress
from orchestrator.recording import Place
from orchestrator.space import SearchSpace
from orchestrator.store import Store
from orchestrator.study import Study
from search_spaces import choice
from tests.fakes import metrics

HERE = Place("here", "cpu", 1)
EPOCHS = 2
SPACE = SearchSpace(
    "a test",
    "",
    {"model.nr_filters": choice(*range(8, 16))},
    {"train.epochs": EPOCHS, "seed": 0},
    5,
    Objective("val_acc", "max"),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "one")
    made.create()
    return made


class Driver:
    """A driver that runs trials by hand."""

    def __init__(self, store: Store, *, retry_failed: bool = False) -> None:
        self.study = Study(SPACE, store, seed=0, trials=5, retry_failed=retry_failed)
        view = Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=5)
        self.ledger = Ledger(self.study, store, SPACE.objective, view)
        self.ledger.recall(read([store])[0])

    def run(self, error: str | None = None) -> TrialConfig | None:
        """Run the next trial to its end, or until it fails."""
        suggestion = self.ledger.suggest()
        if suggestion is None:
            return None
        self.ledger.started(suggestion.number)
        for epoch in range(1, EPOCHS + 1) if error is None else ():
            self.ledger.epoch(suggestion.number, metrics(epoch), HERE)
        self.ledger.ended(suggestion.number, error)
        assert self.ledger.fatal is None
        return suggestion.config

    def run_all(self) -> list[str]:
        """Run what is left. Return the trials' ids."""
        ran = []
        while (config := self.run()) is not None:
            ran.append(config.trial_id)
        return ran

    def close(self) -> None:
        self.study.close()


CAUSE = "DataError: row {}: images/{}.png does not exist"


def test_three_failures_for_one_cause_end_the_sweep_naming_cause_log_and_way_out(store: Store) -> None:
    driver = Driver(store)
    for number in range(3):
        assert driver.ledger.hopeless is None
        last = driver.run(CAUSE.format(number, 10 * number))
    assert last is not None
    assert driver.run() is None
    said = driver.ledger.hopeless or ""
    assert "3 trials in a row failed for one cause, before any had succeeded: DataError: row 2" in said
    assert str(store.log_file(last.trial_id)) in said
    assert "--retry-failed" in said
    driver.close()


@pytest.mark.parametrize(
    "errors",
    [
        [CAUSE.format(1, 1), CAUSE.format(2, 2), "OSError: [Errno 5] Input/output error", CAUSE.format(3, 3)],
        [CAUSE.format(1, 1), None, CAUSE.format(2, 2), CAUSE.format(3, 3), CAUSE.format(4, 4)],
        ["TrainingError: the loss or its gradient is not finite at epoch 1, step 2 of 9; lower train.lr"] * 4,
        ["LikelihoodError: bpd is 0, as if every pixel of every image were certain"] * 4,
    ],
    ids=["another cause", "one succeeded", "diverged", "no likelihood"],
)
def test_other_failures_do_not_end_it(store: Store, errors: list[str | None]) -> None:
    driver = Driver(store)
    for error in errors:
        assert driver.run(error) is not None
    assert driver.ledger.hopeless is None
    driver.close()


def test_a_success_of_an_earlier_run_counts(store: Store) -> None:
    first = Driver(store)
    first.run()
    first.close()
    second = Driver(store)
    for number in range(3):
        assert second.run(CAUSE.format(number, number)) is not None
    assert second.ledger.hopeless is None
    second.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("the process died: pid 123, 0x7fab", "the process died: pid 99, 0x1", True),
        ("CUDA out of memory. Tried 1.50 GiB", "CUDA out of memory. Tried 12 GiB", True),
        ("trial 71a511c4e3cc broke", "trial e70f652de265 broke", True),
        ("ValueError: a", "ValueError: b", False),
    ],
)
def test_a_cause_is_the_error_without_its_numbers(one: str, other: str, same: bool) -> None:
    assert (cause_of(one) == cause_of(other)) == same
    counted = FailuresInARow()
    for error in (one, other, one):
        counted.failed("0", error)
    assert counted.are_enough == same


# ------------------------------------------------------------------------------------------------------ --retry-failed


def test_failed_trials_run_again_only_where_asked(store: Store) -> None:
    first = Driver(store)
    failed = [first.run("OSError: a bad disk"), first.run("ValueError: a bug")]
    first.run_all()
    assert first.ledger.is_over
    first.close()

    second = Driver(store)
    assert second.ledger.is_over
    assert second.run_all() == []
    second.close()

    third = Driver(store, retry_failed=True)
    assert not third.ledger.is_over
    assert sorted(third.run_all()) == sorted(config.trial_id for config in failed if config is not None)
    assert third.study.finished == 5
    third.close()
    rows = store.latest_attempts().rows()
    assert [row["state"] for row in rows] == ["COMPLETE"] * 5
    assert sorted(row["attempt"] for row in rows) == [1, 1, 1, 2, 2]

    fourth = Driver(store, retry_failed=True)
    assert fourth.run_all() == []
    fourth.close()


def test_a_killed_retry_goes_on_without_being_asked_again(store: Store) -> None:
    first = Driver(store)
    failed = first.run("OSError: a bad disk")
    first.run_all()
    first.close()
    second = Driver(store, retry_failed=True)
    suggestion = second.ledger.suggest()
    assert suggestion is not None
    second.ledger.started(suggestion.number)
    second.close()  # killed
    third = Driver(store)
    assert third.run_all() == [failed.trial_id if failed else None]
    third.close()


# ------------------------------------------------------------------------------------------- the study follows the rows


def delete_trial(store: Store, trial_id: str) -> None:
    (store.trials_folder / f"{trial_id}.parquet").unlink()


def cut_trial(store: Store, trial_id: str) -> None:
    file = store.trials_folder / f"{trial_id}.parquet"
    file.write_bytes(file.read_bytes()[:100])


def delete_epochs(store: Store, trial_id: str) -> None:
    (store.epochs_folder / f"{trial_id}.parquet").unlink()


def cut_epochs(store: Store, trial_id: str) -> None:
    file = store.epochs_folder / f"{trial_id}.parquet"
    file.write_bytes(b"")


def delete_both(store: Store, trial_id: str) -> None:
    delete_trial(store, trial_id)
    delete_epochs(store, trial_id)


LOSSES = [delete_trial, cut_trial, delete_epochs, cut_epochs, delete_both]


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("study", ["kept", "lost"])
def test_a_finished_trial_whose_rows_are_gone_runs_again(
    store: Store, lose: Callable[[Store, str], None], study: str
) -> None:
    first = Driver(store)
    ids = first.run_all()
    first.close()
    lose(store, ids[2])
    if study == "lost":
        store.set_study_aside()
    second = Driver(store)
    assert not second.ledger.is_over
    assert ids[2] in second.run_all()
    second.close()
    rows = store.latest_attempts().rows()
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert len({(row["trial_id"], row["epoch"]) for row in store.epochs().rows()}) == EPOCHS * len(rows)
    assert len(rows) == 5
    third = Driver(store)
    assert third.run_all() == []
    third.close()
