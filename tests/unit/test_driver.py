from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator import command_line, driver, local_ray
from orchestrator.driver import Plan, SweepError, holding
from orchestrator.ledger import MAX_RESTARTS, Ledger
from orchestrator.objective import Objective
from orchestrator.progress import Progress
from orchestrator.recording import INTERRUPTED, Place, Recording
from orchestrator.space import SearchSpace
from orchestrator.store import Store, StoreError
from orchestrator.study import Study
from search_spaces import ints
from tests.fakes import metrics

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
    assert begin(ledger) == (number, config)
    assert ledger.is_busy
    for epoch in (1, 2, 3):
        ledger.epoch(number, metrics(epoch), HERE)
    ledger.ended(number, None)
    rows = [(row["attempt"], row["state"], row["error"]) for row in store.trials().rows()]
    assert rows == [(1, "FAILED", "the process died (the trial was started again)"), (2, "COMPLETE", None)]
    assert [(row["epoch"], row["attempt"]) for row in store.epochs().rows()] == [(1, 2), (2, 2), (3, 2)]


def test_a_trial_whose_process_keeps_dying_is_failed_and_the_next_one_comes(ledger: Ledger, store: Store) -> None:
    first, config = begin(ledger)
    for _ in range(MAX_RESTARTS):
        ledger.died(first, "it died")
        assert begin(ledger)[0] == first
    ledger.died(first, "it died")
    assert begin(ledger)[0] != first
    assert [row["state"] for row in store.attempts_of(config.trial_id)] == ["FAILED"] * (MAX_RESTARTS + 1)


def test_an_attempt_that_nobody_ended_is_called_interrupted_by_the_next(store: Store) -> None:
    config = TrialConfig()
    Recording(store, config, 0)
    Recording(store, config, 0)
    rows = [(row["state"], row["error"]) for row in store.trials().rows()]
    assert rows == [("FAILED", INTERRUPTED), ("RUNNING", None)]


def test_after_a_write_that_failed_nothing_more_is_written(
    ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, config = begin(ledger)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StoreError("no space left")

        patch.setattr(Store, "_write", full)
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


@pytest.mark.parametrize("there", [True, False])
def test_only_its_owner_reads_the_token(tmp_path: Path, there: bool) -> None:
    token = tmp_path / ".ray" / "auth_token"
    if there:
        token.parent.mkdir()
        token.write_text("secret")
        token.chmod(0o644)
    local_ray._ensure_token(token)
    assert token.stat().st_mode & 0o777 == 0o600
    assert (token.read_text() == "secret") == there
    assert len(token.read_text()) >= 6


def test_the_next_command_is_spelt_as_the_user_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/somewhere/bin/python3")
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    assert (
        command_line.again("orchestrator.best", "--out", "a folder") == "python -m orchestrator.best --out 'a folder'"
    )
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert command_line.again("orchestrator.best") == "uv run python -m orchestrator.best"


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
        f"[1/4] trial {config.trial_id} epoch 1/3: val_acc 0.2500, val_bpd 3.2000, 0.0 s",
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
