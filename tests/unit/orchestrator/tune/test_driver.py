from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from rich.console import Console

from cpcnn_core import features
from cpcnn_core.config import TrialConfig
from cpcnn_core.data import DataError
from orchestrator.machines.cluster import ClusterError
from orchestrator.machines.resources import Resources, ResourcesError, Share
from orchestrator.objectives.objective import Objective
from orchestrator.process import notice, spot
from orchestrator.records import location
from orchestrator.records.place import OnDisk
from orchestrator.records.recording import KILLED, Place, Recording, close_orphaned
from orchestrator.records.store import Store, StoreError
from orchestrator.records.tables import Tables
from orchestrator.search.budget import Budget, BudgetMeter
from orchestrator.search.ledger import MAX_RESTARTS, Ledger
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study, StudyError
from orchestrator.search.study_file import StudyFile
from orchestrator.text import calling
from orchestrator.training import stall, trainer
from orchestrator.tune import driver, local_ray, running
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import Outcome, Plan, SweepError
from orchestrator.views.progress import Progress
from search_spaces import ints
from tests.support import fakes
from tests.support.fakes import metrics

HERE = Place("here", "cpu", 1)
SPACE = SearchSpace(
    "a test", "", {"model.nr_filters": ints(8, 40)}, {"train.epochs": 3, "seed": 0}, 4, Objective("val_acc", "max")
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "one")
    made.create()
    return made


@pytest.fixture
def ledger(store: Store) -> Iterator[Ledger]:
    study = Study(SPACE, store, seed=0, trials=4)
    with Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=4) as view:
        yield Ledger(study, store, SPACE.objective, view)
    study.close()


def begin(ledger: Ledger) -> tuple[int, TrialConfig]:
    suggestion = ledger.suggest()
    assert suggestion is not None
    ledger.started(suggestion.number)
    return suggestion.number, suggestion.config


@pytest.mark.parametrize(
    ("epochs", "error", "state"),
    [(3, None, "COMPLETE"), (2, None, "PRUNED"), (0, None, "PRUNED"), (2, "it broke", "FAILED")],
)
def test_a_trial_ends_complete_pruned_or_failed(
    ledger: Ledger, store: Store, epochs: int, error: str | None, state: str
) -> None:
    number, _ = begin(ledger)
    for epoch in range(1, epochs + 1):
        ledger.epoch(number, metrics(epoch), HERE)
    ledger.ended(number, error)
    [row] = store.trials().rows()
    assert (row["state"], row["error"], row["epochs"], row["number"]) == (state, error, epochs, number)
    assert row["ended"] is not None
    assert row["peak_memory_bytes"] == (2**20 if epochs else None)
    assert ledger.fatal is None


def test_a_trial_whose_process_died_is_suggested_again_and_has_a_row_for_each_attempt(
    ledger: Ledger, store: Store
) -> None:
    number, config = begin(ledger)
    ledger.epoch(number, metrics(1), HERE)
    ledger.died(number, "the process died")
    assert not ledger.is_busy
    assert [row["state"] for row in store.latest_attempts().rows()] == ["INTERRUPTED"]
    assert begin(ledger) == (number, config)
    assert ledger.is_busy
    for epoch in (1, 2, 3):
        ledger.epoch(number, metrics(epoch), HERE)
    ledger.ended(number, None)
    rows = [(row["attempt"], row["state"], row["error"], row["stopped"]) for row in store.trials().rows()]
    assert rows == [
        (1, "INTERRUPTED", None, "the process died (the trial was started again)"),
        (2, "COMPLETE", None, None),
    ]
    assert [(row["epoch"], row["attempt"]) for row in store.epochs().rows()] == [(1, 2), (2, 2), (3, 2)]


@pytest.mark.parametrize("suggested", [False, True])
def test_a_trial_that_waits_to_be_started_again_outlives_its_driver(store: Store, suggested: bool) -> None:
    def opened() -> tuple[Study, Ledger]:
        study = Study(SPACE, store, seed=0, trials=4)
        view = Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=4)
        return study, Ledger(study, store, SPACE.objective, view)

    study, ledger = opened()
    number, config = begin(ledger)
    ledger.epoch(number, metrics(1), HERE)
    ledger.died(number, "its node has died", its_fault=False)
    if suggested:
        assert ledger.suggest() is not None  # there may be no machine for it for a while
    study.close()  # the driver is killed
    study, ledger = opened()
    assert begin(ledger) == (number, config)
    rows = [(row["state"], row["stopped"]) for row in store.attempts_of(config.trial_id)]
    assert rows == [("INTERRUPTED", "its node has died (the trial was started again)"), ("RUNNING", None)]
    study.close()


def test_a_trial_that_was_lost_together_with_others_gets_a_gpu_for_itself(ledger: Ledger, store: Store) -> None:
    ledger.gpus = 0.25
    (number, config), _ = begin(ledger), begin(ledger)
    assert ledger.gpus_held == 0.5
    for _ in range(MAX_RESTARTS + 2):  # which it is not blamed for
        ledger.died(number, "CUDA error", its_fault=False, alone=True)
        assert begin(ledger)[0] == number
    assert ledger.gpus_held == 1.25
    held = [row["gpus"] for row in store.attempts_of(config.trial_id)]
    assert held == [0.25, *[1.0] * (MAX_RESTARTS + 2)]


def test_a_trial_whose_process_keeps_dying_is_failed_and_the_next_one_comes(ledger: Ledger, store: Store) -> None:
    first, config = begin(ledger)
    for _ in range(MAX_RESTARTS):
        ledger.died(first, "it died")
        assert begin(ledger)[0] == first
    ledger.died(first, "it died")
    assert begin(ledger)[0] != first
    rows = [(row["state"], row["error"]) for row in store.attempts_of(config.trial_id)]
    assert rows == [("INTERRUPTED", None)] * MAX_RESTARTS + [("FAILED", "it died")]


def test_an_attempt_that_nobody_ended_is_called_interrupted_by_the_next(store: Store) -> None:
    config = TrialConfig()
    Recording(store, config, 0)
    Recording(store, config, 0)
    rows = [(row["state"], row["error"], row["stopped"]) for row in store.trials().rows()]
    assert rows == [("INTERRUPTED", None, KILLED), ("RUNNING", None, None)]


@pytest.mark.parametrize("closed_by", ["the next attempt", "a driver that stops"])
def test_an_attempt_that_nobody_ended_has_the_epochs_that_it_finished(store: Store, closed_by: str) -> None:
    """Its own row was written with its first epoch, and never again."""
    config = TrialConfig()
    for begin, end in ((1, 4), (5, 7), (8, 7)):  # the last one was killed before its first epoch
        recording = Recording(store, config, 0)
        for epoch in range(begin, end + 1):
            recording.add(metrics(epoch, peak_memory_bytes=100 * epoch), HERE)
    if closed_by == "the next attempt":
        Recording(store, config, 0).finish("COMPLETE")
    else:
        close_orphaned(store, config)
    rows = store.attempts_of(config.trial_id)[:3]
    assert [(row["state"], row["epochs"], row["peak_memory_bytes"]) for row in rows] == [
        ("INTERRUPTED", 4, 400),
        ("INTERRUPTED", 7, 700),
        ("INTERRUPTED", 7, None),
    ]
    assert [(row["ended"], row["seconds"]) for row in rows] == [(None, None)] * 3  # which nobody knows


def test_a_resumed_trial_runs_from_its_first_row_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrialConfig()
    Recording(store, config, 0)
    write, states = Tables.write_attempts, []

    def looked_at(self: Tables, *arguments: Any) -> None:
        write(self, *arguments)
        states.append(self.latest_attempts().rows()[0]["state"])

    monkeypatch.setattr(Tables, "write_attempts", looked_at)
    Recording(store, config, 0)
    assert states == ["RUNNING"]


def test_after_a_write_that_failed_nothing_more_is_written(
    ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, config = begin(ledger)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StoreError("no space left")

        patch.setattr(OnDisk, "write", full)
        ledger.epoch(number, metrics(1), HERE)
    assert str(ledger.fatal) == "no space left"
    assert ledger.suggest() is None
    ledger.epoch(number, metrics(2), HERE)
    ledger.ended(number, None)
    assert store.epochs_of(config.trial_id) == []
    assert store.attempts_of(config.trial_id)[0]["state"] == "RUNNING"


def test_a_second_holder_is_told_who_the_first_is(store: Store) -> None:
    with holding(store), pytest.raises(SweepError, match=r"another driver runs this sweep: pid \d+ on "):
        holding(store).__enter__()
    with holding(store):
        pass


def test_a_disk_that_is_full_before_anything_runs_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(location, "create", full)
    with pytest.raises(StoreError, match="one: cannot be written: No space left on device"):
        holding(store).__enter__()
    monkeypatch.undo()
    with holding(store):  # and the lock was let go
        pass

    def broken(*_: object) -> None:
        raise sqlalchemy.exc.OperationalError("insert", {}, Exception("database or disk is full"))

    monkeypatch.setattr(driver, "_agree", lambda *_: None)
    monkeypatch.setattr(StudyFile, "create_new_study", broken)
    plan = Plan("one", SPACE, store.folder.parent, trials=1, trainer="tests.support.fakes:train")
    with (
        Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=1) as view,
        pytest.raises(StudyError, match=r"study\.db: cannot be written: .*disk is full"),
    ):
        driver.run(plan, view)


def test_an_old_sweep_of_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=2)
    plan.store.create()
    driver._agree(plan, plan.store)
    driver._agree(plan, plan.store)
    changed = SPACE.with_settings({"train.lr": 0.1, "data.root": "/elsewhere"})
    with pytest.raises(SweepError) as raised:
        driver._agree(Plan("one", changed, tmp_path, trials=3, seed=1), plan.store)
    assert "settings train.lr: was absent, is 0.1" in str(raised.value)
    assert "seed: was 0, is 1" in str(raised.value)
    assert "data.root" not in str(raised.value)


def test_what_fid_is_measured_with_is_decided_once_for_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["classifier", "inception-2048"])  # the network came back
    monkeypatch.setattr(features, "resolve", lambda *_: next(answers))
    plan = Plan("one", SPACE.with_settings({"eval.fid_every": 1}), tmp_path, trials=2)
    plan.store.create()
    for _ in range(2):
        settled = driver._with_one_extractor(plan, plan.store)
        assert settled.space.default().eval.fid_extractor == "classifier"
        driver._agree(settled, plan.store)
    assert driver._with_one_extractor(Plan("two", SPACE, tmp_path, trials=2), plan.store).space == SPACE


def test_stopping_while_the_last_trials_run_is_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.support.fakes:train")

    def run(stopped: bool, ended: bool) -> Outcome:
        def tune(
            _plan: Plan,
            _store: Store,
            ledger: Ledger,
            stop: driver._Stop,
            _meter: BudgetMeter,
            _say: Callable[[str], None],
        ) -> None:
            number, _ = begin(ledger)
            if ended:
                ledger.epoch(number, metrics(1), HERE)
                ledger.ended(number, None)
            if stopped:
                stop(signal.SIGTERM, None)

        monkeypatch.setattr(driver, "_tune", tune)
        with Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=1) as view:
            return driver.run(plan, view)

    def states() -> list[tuple[str, str | None]]:
        return [(row["state"], row["stopped"]) for row in plan.store.trials().rows()]

    assert run(stopped=True, ended=False) == Outcome(0, ran=True, interrupted=True)
    assert states() == [("INTERRUPTED", "SIGTERM")]
    assert run(stopped=True, ended=True) == Outcome(1, ran=True, interrupted=False)  # nothing was cut short
    assert states() == [("INTERRUPTED", "SIGTERM"), ("PRUNED", None)]
    assert run(stopped=False, ended=False) == Outcome(1, ran=False, interrupted=False)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ClusterError("no trial has found a place"), "ClusterError: no trial has found a place"),
        (KeyboardInterrupt(), "Ctrl-C"),  # a second one, while Ray ends
    ],
)
def test_whatever_ends_the_driver_its_trials_do_not_stay_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, said: str
) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=2, trainer="tests.support.fakes:train")

    def tune(_plan: Plan, _store: Store, ledger: Ledger, *_: object) -> None:
        begin(ledger)
        raise raised

    monkeypatch.setattr(driver, "_tune", tune)
    with (
        Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=2) as view,
        pytest.raises(type(raised)),
    ):
        driver.run(plan, view)
    assert [(row["state"], row["stopped"]) for row in plan.store.trials().rows()] == [("INTERRUPTED", said)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_signal_that_stops_a_sweep_is_named(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    stop = driver._Stop()
    with driver._stopping(stop):
        os.kill(os.getpid(), number)
        while not stop.requested:
            time.sleep(0.001)
    assert stop.why == ("Ctrl-C" if number == signal.SIGINT else number.name)
    stop(signal.SIGHUP, None)  # a terminal that is closed sends one, and its shell another
    if number == signal.SIGHUP:
        stop(signal.SIGTERM, None)  # systemd sends both
        number = signal.SIGINT
    later = time.monotonic() + 2 * notice.TOGETHER_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    with pytest.raises(KeyboardInterrupt):
        stop(number, None)
    stop.is_writing = True
    stop(signal.SIGTERM, None)


@pytest.mark.parametrize("number", notice.SIGNALS)
def test_a_signal_that_comes_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    now, stop = time.monotonic(), driver._Stop()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    try:
        for _ in range(3):  # a process and its group get one each, and `uv run` passes its own on
            stop(number, None)
    except KeyboardInterrupt:  # which would end pytest
        pytest.fail("the second one was taken for another one")
    assert stop.why_saved == number.name
    now += 2 * notice.TOGETHER_SECONDS
    with pytest.raises(KeyboardInterrupt):
        stop(number, None)


@pytest.mark.parametrize(
    ("number", "is_taken"),
    [(signal.SIGTERM, True), (signal.SIGUSR1, True), (signal.SIGHUP, False), (signal.SIGINT, False)],
)
def test_who_leaves_is_told_from_a_machine_that_is_taken_away(number: signal.Signals, is_taken: bool) -> None:
    stop = driver._Stop()
    assert not stop.is_taken
    stop(number, None)
    assert stop.is_taken == is_taken


def test_a_machine_that_is_taken_away_is_heard_of_while_trials_are_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, stop, said = Plan("one", SPACE, tmp_path, trials=2), driver._Stop(), "AWS: spot terminate at noon"

    def place(*_: object, is_stopping: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if is_stopping():
                raise KeyboardInterrupt
            time.sleep(0.001)

    monkeypatch.setattr(local_ray, "started", lambda: nullcontext({}))
    monkeypatch.setattr(running, "place", place)
    monkeypatch.setattr(spot, "sources", lambda: [lambda: said])
    nothing: Any = None
    assert driver._tune(plan, plan.store, nothing, stop, nothing, fakes.NoView()) is None
    assert (stop.why, stop.is_taken) == (said, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", ["_check_data", "_tune"])
def test_a_signal_before_the_first_trial_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, where: str
) -> None:
    plan = Plan("one", SPACE, tmp_path / "results", trials=2, trainer="tests.support.fakes:train")

    def asked(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(driver, where, asked)
    with Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=2) as view:
        if where == "_tune":
            assert driver.run(plan, view).interrupted
        else:
            with pytest.raises(KeyboardInterrupt):
                driver.run(plan, view)
    assert list(tmp_path.iterdir()) == []


def test_a_spent_budget_leaves_no_trial_running(tmp_path: Path) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=2, trainer="tests.support.fakes:train", budget=Budget(hours=1e-9))
    plan.store.create()
    driver._agree(plan, plan.store)
    study = Study(SPACE, plan.store, seed=0, trials=2)
    with Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=2) as view:
        ledger = Ledger(study, plan.store, SPACE.objective, view)
        number, _ = begin(ledger)
        ledger.epoch(number, metrics(1, seconds=60.0), HERE)
        study.close()  # the driver is killed
        outcome = driver.run(plan, view)
        again = driver.run(plan, view)
    assert outcome == again == Outcome(0, ran=False, interrupted=False, spent="--hours 1e-09")
    [row] = plan.store.trials().rows()
    assert (row["state"], row["stopped"], row["epochs"]) == ("INTERRUPTED", KILLED, 1)


def test_a_sweep_whose_data_is_missing_leaves_its_name_free(tmp_path: Path) -> None:
    wrong = SPACE.with_settings({"data.name": "cpen455", "data.root": str(tmp_path / "nowhere")})
    plan = Plan("one", wrong, tmp_path, trials=1)
    with (
        Progress(Console(quiet=True), SPACE.objective, SPACE.searched, total=1) as view,
        pytest.raises(DataError, match="nowhere"),
    ):
        driver.run(plan, view)
    assert plan.store.read_sweep() is None


def test_no_more_trials_are_planned_than_there_are_configurations(tmp_path: Path) -> None:
    few = SearchSpace("a test", "", {"model.nr_filters": ints(8, 10)}, {}, 16, Objective("val_acc", "max"))
    assert Plan("one", few, tmp_path, trials=16).trials == 3
    assert Plan("one", few, tmp_path, trials=2).trials == 2


@pytest.mark.parametrize(
    ("asked", "available", "trials", "share"),
    [
        (Resources(), {"CPU": 2.0}, 10, Share(1, 0, 2)),
        (Resources(), {"CPU": 8.0}, 3, Share(2, 0, 3)),  # cores that no other trial wants
        (Resources(), {"CPU": 8.0}, 1, Share(8, 0, 1)),
        (Resources(cpus=3), {"CPU": 8.0}, 10, Share(3, 0, 2)),
        (Resources(), {"CPU": 16.0, "GPU": 4.0}, 10, Share(4, 1, 4)),
        (Resources(gpus=0.25), {"CPU": 16.0, "GPU": 1.0}, 10, Share(4, 0.25, 4)),
        (Resources(gpus=0), {"CPU": 4.0, "GPU": 1.0}, 10, Share(1, 0, 4)),
    ],
)
def test_each_trial_gets_its_share_of_the_machine(
    asked: Resources, available: dict[str, float], trials: int, share: Share
) -> None:
    assert asked.share(available, trials) == share


@pytest.mark.parametrize(
    ("asked", "says"),
    [(Resources(cpus=4), "asks for 4 cores and 0 GPUs; there are 2 and 0"), (Resources(gpus=1), "1 GPUs")],
)
def test_a_trial_larger_than_the_machine_is_refused(asked: Resources, says: str) -> None:
    with pytest.raises(ResourcesError, match=says):
        asked.share({"CPU": 2.0, "GPU": 0.0}, 10)


def test_the_next_command_is_spelt_as_the_user_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/somewhere/bin/python3")
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    assert calling.again("best", "--out", "a folder") == "python -m orchestrator.best --out 'a folder'"
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert calling.again("best") == "uv run python -m orchestrator.best"


def test_the_plain_view_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    config = TrialConfig.from_flat({"model.nr_filters": 12, "train.epochs": 3})
    with Progress(Console(width=200), SPACE.objective, SPACE.searched, total=4) as view:
        view.resumed(1, None)
        view.started(1, config)
        view.epoch(1, config, metrics(1, val_acc=0.25), 0.25)
        view.ended(1, config, "COMPLETE", 0.25, None)
        view.ended(2, config, "FAILED", None, "ValueError: [bad]")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[1/4] resumed after 1 finished trials",
        f"[1/4] trial {config.trial_id} runs: nr_filters 12",
        f"[1/4] trial {config.trial_id} epoch 1/3: val_acc 0.2500, val_bpd 3.2000, train_acc 0.5000, 0.0 s",
        f"[2/4] trial {config.trial_id} COMPLETE: best val_acc 0.2500",
        f"trial {config.trial_id} FAILED: ValueError: [bad]",
    ]


def test_the_live_view_shows_states_the_best_and_what_runs() -> None:
    console = Console(width=160, record=True, force_terminal=True, file=io.StringIO())
    config = TrialConfig.from_flat({"model.nr_filters": 12, "train.epochs": 3})
    with Progress(console, SPACE.objective, SPACE.searched, total=4) as view:
        view.resumed(1, (0.2, config, 2))
        view.started(1, config)
        view.epoch(1, config, metrics(2, val_acc=0.75), 0.75)
        view.ended(2, config, "COMPLETE", 0.5, None)
        console.print(view._render())
        shown = console.export_text()
    assert "2 of 4 trials (1 COMPLETE in this run)" in shown
    assert f"best so far: val_acc 0.7500 in epoch 2 of {config.trial_id}: nr_filters 12" in shown
    assert "2/3" in shown


def test_a_full_disk_stops_the_sweep_and_fails_no_trial(ledger: Ledger, store: Store) -> None:
    number, config = begin(ledger)
    ledger.halt(number, "OSError: [Errno 28] No space left on device")
    assert "could not write: OSError: [Errno 28] No space left on device. Make room" in str(ledger.fatal)
    ledger.ended(number, None)
    assert ledger.suggest() is None
    assert [row["state"] for row in store.attempts_of(config.trial_id)] == ["RUNNING"]


def test_a_study_that_cannot_be_written_is_named(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    number, _ = begin(ledger)

    def full(*_: object) -> None:
        raise sqlalchemy.exc.OperationalError("insert", {}, Exception("database or disk is full"))

    monkeypatch.setattr(Study, "report", full)
    ledger.epoch(number, metrics(1), HERE)
    assert "study.db: cannot be written: (builtins.Exception) database or disk is full" in str(ledger.fatal)


def test_the_disk_is_told_from_the_trial() -> None:
    def raised(error: Exception) -> Exception:
        try:
            try:
                raise error
            except OSError as cause:
                raise StoreError("cannot be written") from cause
        except StoreError as wrapped:
            return wrapped

    assert trainer.is_storage_failure(OSError(28, "No space left on device"))
    assert trainer.is_storage_failure(raised(OSError(30, "Read-only file system")))
    assert not trainer.is_storage_failure(raised(OSError(2, "No such file")))
    assert not trainer.is_storage_failure(ValueError())


@pytest.mark.parametrize(("gpus", "fit"), [(0.5, 4), (0.34, 4), (1 / 3, 6), (0.1, 20), (1.0, 2)])
def test_fractions_of_gpus_are_packed_onto_each(gpus: float, fit: int) -> None:
    asked = Resources(gpus=gpus)
    rounded, _ = asked.rounded()
    for resources in (asked, rounded):
        assert resources.share({"CPU": 64.0, "GPU": 2.0}, 100).concurrent == fit


@pytest.mark.parametrize(
    ("gpus", "part", "says"),
    [
        (
            0.4,
            1 / 2,
            "gpus is 0.4, of which 2 fit on a GPU and leave 0.2 of it unused: 2 trials share each GPU, as with 0.5",
        ),
        (
            0.7,
            1.0,
            "0.7, of which 1 fit on a GPU and leave 0.3 of it unused: a trial has each GPU for itself, as with 1",
        ),
        (0.33, 1 / 3, None),
        (0.25, 1 / 4, None),
        (1.0, 1.0, None),
        (None, None, None),
        ("auto", "auto", None),
    ],
)
def test_a_fraction_that_is_no_whole_part_is_rounded_with_a_sentence(gpus: Any, part: Any, says: str | None) -> None:
    rounded, said = Resources(gpus=gpus).rounded()
    assert rounded.gpus == part
    assert says is None if said is None else says in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (2, "resources is 2; it must be a mapping"),
        ({"gpu": 1}, r"resources\.gpu: no such field; did you mean gpus\?"),
        ({"gpus": 1.5}, "gpus is 1.5"),
        ({"gpus": -1}, "gpus is -1"),
        ({"gpus": 0.00001}, "gpus is 1e-05"),
        (
            {"gpus": 2},
            "gpus is 2, but one process trains on one GPU; with resources.processes = 2 a trial trains on all",
        ),
        ({"mps": 1}, "mps is 1; it must be True or False"),
        ({"cpus": 0.5}, "cpus is 0.5"),
        ({"gpus": "all"}, "gpus is 'all'; .* or 'auto'"),
        ({"packs": True}, r"resources\.packs: no such field; there are cpus, gpus"),
        ({"gpus": "auto", "processes": 2}, "gpus is 'auto', but 2 processes take a GPU each"),
    ],
)
def test_resources_that_mean_nothing_are_refused(given: object, says: str) -> None:
    with pytest.raises(ResourcesError, match=says):
        Resources.of(given)


def test_packing_is_for_machines_with_gpus() -> None:
    auto = Resources.of({"gpus": "auto", "cpus": 1})
    assert auto.packs
    assert auto.share({"CPU": 4.0}, 100) == Resources(cpus=1).share({"CPU": 4.0}, 100)


def test_a_trials_log_tells_where_it_hung_until_something_follows(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert stall.last_dump(log) is None
    stack = (
        'Timeout (0:00:06)!\nThread 0x0001 (most recent call first):\n  File "/a/other.py", line 1 in wait\n\n'
        'Thread 0x0002 [python] (most recent call first):\n  File "/a/b/loader.py", line 12 in read\n'
        '  File "/a/train.py", line 7 in fit\n'
    )
    log.write_text(f"epoch 1\n{stack}")
    assert stall.last_dump(log) == "loader.py:12 read < train.py:7 fit"
    log.write_text(f"epoch 1\n{stack}epoch 2\n")
    assert stall.last_dump(log) is None


def test_the_driver_waits_for_a_sign_of_life_and_then_for_the_process_to_end_itself(tmp_path: Path) -> None:
    now = [0.0]
    log = tmp_path / "a.log"
    log.write_text("begun")
    stalls = stall.Stalls(60, lambda: now[0])
    stalls.watch("a", log)
    now[0] = 74
    assert stalls.overdue() == []
    os.utime(log, (1e9, 1e9))  # however old it says it is, it has changed
    assert stalls.overdue() == []
    now[0] += 60 + stall.GRACE_SECONDS + 1
    assert stalls.overdue() == ["a"]
    assert stalls.overdue() == []
    # of a process on another machine: its log, elsewhere, is not looked at all the time
    asked: list[Path] = []
    far = stall.Stalls(60, lambda: now[0], changed=lambda log: asked.append(log), every=10)
    far.watch("a", log)
    assert [far.overdue() for _ in range(3)] == [[], [], []]
    assert len(asked) == 2
    now[0] += 60 + stall.GRACE_SECONDS + 1
    assert far.overdue() == ["a"]
    never = stall.Stalls(0, lambda: now[0])
    never.watch("a", log)
    now[0] += 1e6
    assert never.overdue() == []


def test_a_process_without_a_sign_of_life_ends_with_its_stack_in_the_log(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from orchestrator.training import stall\n"
        "def hang(): time.sleep(60)\n"
        "with stall.watched(Path(sys.argv[1]), 0.5) as beat:\n"
        "    for _ in range(6): time.sleep(0.2); beat()\n"
        "    print('alive', flush=True); hang()"
    )
    log = tmp_path / "a.log"
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "alive\n")
    assert stall.last_dump(log) == "<string>:2 hang < <string>:5 <module>"
