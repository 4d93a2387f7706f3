"""A sweep whose first trials all fail for one cause ends; failed trials run again; the study follows the rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cpcnn_core.config import TrialConfig
from cpcnn_core.fusion import FUSIONS
from orchestrator.objectives.objective import Objective
from orchestrator.records.ranking import read
from orchestrator.records.recording import Place
from orchestrator.records.store import Store
from orchestrator.search.failures import FailuresInARow, cause_of
from orchestrator.search.ledger import Ledger
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study
from orchestrator.tune import driver as driving
from orchestrator.tune.plan import FailingError, Plan
from orchestrator.views.progress import Progress
from search_spaces import choice
from tests.support.fakes import metrics

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
        self.ledger.recall(read([store])[0], retrying=retry_failed)

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
    assert (cause_of(one, {}) == cause_of(other, {})) == same
    counted = FailuresInARow()
    for error in (one, other, one):
        counted.failed("0", error, {})
    assert counted.are_enough == same


# One cause each, though no two texts of it are alike; a class alone tells no cause.
CAUSES = (
    "RuntimeError: {path}: cannot be compiled",
    "RuntimeError: '{path}' has no room for {number} bytes",
    "RuntimeError: the compiler left no {temporary}.cpp",
    "RuntimeError: {trial_id} does not fit fusion {fusion}",
    "RuntimeError: does not fit fusion '{fusion}': missing: fusion.{part}.e.weight ({number}, 3)",
    "RuntimeError: {part} takes no label_encoding {label_encoding}",
    "RuntimeError: train.lr {number} is too large for train.optimizer={optimizer}",
    "RuntimeError: train.batch_size {number} is too large for train.optimizer={optimizer}",
    "RuntimeError: the train split of {path} is empty",
    "RuntimeError: the test split of {path} is empty",
    "ValueError: {path}: cannot be compiled",
    "KeyError: 'lr'",
    "KeyError: 'momentum'",
)
FUSIONS_TRIED = st.lists(st.sampled_from(sorted(FUSIONS)), min_size=1, max_size=3, unique=True)
TEMPORARY = st.text("abcdefghijklmnopqrstuvwxyz0123456789_", min_size=8, max_size=8).map("tmp{}".format)
NUMBERS = st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False))


@st.composite
def occasions(draw: st.DrawFn) -> tuple[dict[str, object], dict[str, object]]:
    """A trial's settings, and what is put into an error's text."""
    trial: dict[str, object] = {
        "model.fusion": "+".join(fusions := draw(FUSIONS_TRIED)),
        "model.label_encoding": draw(st.sampled_from(["one_hot", "embedding", "sinusoidal"])),
        "train.optimizer": draw(st.sampled_from(["adam", "adamw"])),
        "model.dropout": draw(NUMBERS),
        "train.ema_decay": None,
        "train.flip": draw(st.booleans()),
    }
    temporary, number = draw(TEMPORARY), draw(NUMBERS)
    path = draw(st.sampled_from(["/tmp/{}/main.cpp", "/var/tmp/{}", "{}/a.so", "s3://bucket/{}/x"])).format(temporary)
    varying = {"path": path, "temporary": temporary, "number": number, "part": draw(st.sampled_from(fusions))}
    varying["trial_id"] = TrialConfig().with_settings({"seed": draw(st.integers(0, 2**32 - 1))}).trial_id
    return trial, varying | {key.rpartition(".")[2]: value for key, value in trial.items()}


@settings(max_examples=60)
@given(occasions(), occasions(), st.sampled_from(["train", "validation", "test"]))
def test_a_cause_is_the_same_whatever_the_trial_and_no_two_causes_are_alike(
    one: tuple[dict[str, object], dict[str, object]],
    other: tuple[dict[str, object], dict[str, object]],
    reference: str,  # a word that texts have by themselves; the same in all trials of a sweep
) -> None:
    found = [
        [cause_of(text.format(**varying), trial | {"eval.fid_reference": reference}) for text in CAUSES]
        for trial, varying in (one, other)
    ]
    assert found[0] == found[1]
    assert len(set(found[0])) == len(CAUSES)


# --------------------------------------------------------------------------------------------- the same command again


def test_a_second_run_says_at_once_that_all_failed_and_tries_nothing_new(store: Store) -> None:
    first = Driver(store)
    for number in range(3):
        assert first.run(CAUSE.format(number, number)) is not None
    said = first.ledger.hopeless
    first.close()
    for _ in range(2):
        again = Driver(store)
        assert again.ledger.hopeless == said
        assert again.run() is None
        again.close()
    assert len(store.latest_attempts().rows()) == 3

    retried = Driver(store, retry_failed=True)
    assert retried.ledger.hopeless is None
    assert len(retried.run_all()) == 5
    retried.close()
    assert Driver(store).ledger.hopeless is None


def test_what_failed_in_earlier_runs_is_counted_on(store: Store) -> None:
    for number in range(3):
        driver = Driver(store)
        assert driver.ledger.hopeless is None
        assert driver.run(CAUSE.format(number, number)) is not None
        driver.close()
    assert driver.ledger.hopeless is not None


def test_a_retry_that_fails_again_ends_as_a_first_run_does(store: Store) -> None:
    first = Driver(store)
    for number in range(3):
        first.run(CAUSE.format(number, number))
    first.close()
    again = Driver(store, retry_failed=True)
    failed = [again.run(CAUSE.format(number, number)) for number in range(3)]
    assert None not in failed
    assert again.run() is None
    assert again.ledger.hopeless is not None
    again.close()
    assert len(store.latest_attempts().rows()) == 3


def test_the_driver_says_it_before_anything_is_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(store.folder.name, SPACE, store.folder.parent, trials=5, trainer="tests.support.fakes:train")
    driving._agree(plan, store)
    first = Driver(store)
    for number in range(3):
        first.run(CAUSE.format(number, number))
    first.close()

    def tune(*_: object) -> None:
        raise AssertionError("it went on")

    monkeypatch.setattr(driving, "_tune", tune)
    before = store.read_sweep()
    with (
        Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=5) as view,
        pytest.raises(FailingError, match=r"3 trials in a row failed for one cause.*--retry-failed runs them"),
    ):
        driving.run(plan, view)
    assert store.read_sweep() == before
    assert len(store.trials().rows()) == 3


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
