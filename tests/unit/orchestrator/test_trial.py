"""How a trial in this process ends, however that is; nothing is trained."""

from __future__ import annotations

import bdb
import io
import pdb
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from cpcnn_core.train import TrainingError
from orchestrator import trial
from orchestrator.process import notice, signals
from orchestrator.records.recording import KILLED, Recording
from orchestrator.records.states import ENDED, MEANINGS, State
from orchestrator.records.store import Store, StoreError
from orchestrator.search import space
from orchestrator.training import trainer
from tests.support import fakes

ARGUMENTS = ["search_spaces/digits.py", "--set", "model.nr_filters=16", "--epochs", "3"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "digits-trials")


def run(store: Store, monkeypatch: pytest.MonkeyPatch, raised: BaseException | None = None) -> tuple[int, str]:
    """Train, until `raised` in the second epoch."""

    def train(config: TrialConfig, store: Store, **settings: Any) -> Iterator[EpochMetrics]:
        for metrics in fakes.train(config, store, **settings):
            if metrics.epoch == 2 and raised is not None:
                raise raised
            yield metrics

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", train)
        done = CliRunner().invoke(trial.app, [*ARGUMENTS, "--results", str(store.folder.parent)])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, " ".join(done.output.split())


def ends(store: Store) -> list[tuple[str, str | None, str | None, int]]:
    return [(row["state"], row["error"], row["stopped"], row["epochs"]) for row in store.trials().rows()]


@pytest.mark.parametrize("number", signals.ENDING)
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_signal_ends_a_trial_as_ctrl_c_does(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, swallowed: bool
) -> None:
    finish, before = Recording.finish, signal.getsignal(number)

    def train(config: TrialConfig, store: Store, **settings: Any) -> Iterator[EpochMetrics]:
        for metrics in fakes.train(config, store, **settings):
            if metrics.epoch == 2:
                with suppress(*([KeyboardInterrupt] if swallowed else [])):  # as an exception in a __del__ is
                    signal.raise_signal(number)
                settings["on_progress"]("trained", 1, 2)
            yield metrics

    def interrupted_again(self: Recording, *given: Any, **named: Any) -> None:
        signal.raise_signal(number)  # a terminal that is closed and its shell send one each
        finish(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train", train)
        patch.setattr(Recording, "finish", interrupted_again)
        done = CliRunner().invoke(trial.app, [*ARGUMENTS, "--results", str(store.folder.parent)])
    assert done.exit_code == 130, done.output
    assert "Stopped. To go on where it stands:" in done.output
    # Notice before the process is taken away ends training where it can be gone on from; a closed terminal at once.
    noticed = ("PREEMPTED", None, f"{number.name}: epoch 2 is finished", 2)
    first = noticed if number in notice.SIGNALS else ("INTERRUPTED", None, number.name, 1)
    assert ends(store) == [first]
    assert signal.getsignal(number) == before
    assert run(store, monkeypatch)[0] == 0
    assert ends(store) == [first, ("COMPLETE", None, None, 3)]


def test_a_signal_that_is_ignored_stays_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: TrialConfig, store: Store, **settings: Any) -> Iterator[EpochMetrics]:
        signal.raise_signal(signal.SIGHUP)
        yield from fakes.train(config, store, **settings)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "train", train)
            done = CliRunner().invoke(trial.app, [*ARGUMENTS, "--results", str(store.folder.parent)])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done.exit_code == 0, done.output
    assert ends(store) == [("COMPLETE", None, None, 3)]


@pytest.mark.parametrize("number", [*signals.ENDING, signal.SIGINT])
@pytest.mark.parametrize("where", ["data", "before it trains"])
def test_a_signal_before_the_trial_begins_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, where: str
) -> None:
    def asked(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(trainer, *(("check", asked) if where == "data" else ("place", asked)))
    done = CliRunner().invoke(trial.app, [*ARGUMENTS, "--results", str(store.folder.parent / "of" / "mine")])
    assert done.exit_code == 130, done.output
    assert "Stopped" in done.output
    assert list(store.folder.parent.iterdir()) == []


def test_a_trial_that_begins_beside_another_leaves_the_others_files(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        store.log_file("0123456789ab").write_text("another trial begins")
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer, "place", asked)
    assert CliRunner().invoke(trial.app, [*ARGUMENTS, "--results", str(store.folder.parent)]).exit_code == 130
    assert store.read_sweep() is not None
    assert [file.name for file in (store.folder / "logs").iterdir()] == ["0123456789ab.log"]
    assert list((store.folder / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("raised", "why", "code"),
    [
        (KeyboardInterrupt(), "Ctrl-C", 130),
        (bdb.BdbQuit(), "the debugger was left", 130),
        (SystemExit(3), "SystemExit: 3", 3),
    ],
)
def test_a_trial_that_was_interrupted_goes_on_with_the_same_command(
    store: Store, monkeypatch: pytest.MonkeyPatch, raised: BaseException, why: str, code: int
) -> None:
    found, said = run(store, monkeypatch, raised)
    assert found == code
    assert ("Stopped. To go on where it stands:" in said) == (code == 130)
    assert ends(store) == [("INTERRUPTED", None, why, 1)]
    assert run(store, monkeypatch)[0] == 0
    assert ends(store) == [("INTERRUPTED", None, why, 1), ("COMPLETE", None, None, 3)]


def test_an_error_is_a_failure_and_what_came_before_it_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    error = TrainingError("the network has diverged in epoch 2")
    assert run(store, monkeypatch, error)[0] == 1
    assert ends(store) == [("FAILED", "TrainingError: the network has diverged in epoch 2", None, 1)]
    assert [row["epoch"] for row in store.epochs().rows()] == [1]


def test_a_place_that_cannot_be_written_to_is_said_though_the_interruption_is_not_recorded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Recording.finish

    def full(self: Recording, *_: object, **__: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Recording, "finish", full)
    assert run(store, monkeypatch, KeyboardInterrupt())[0] == 130
    assert ends(store) == [("RUNNING", None, None, 1)]
    monkeypatch.setattr(Recording, "finish", finish)
    assert run(store, monkeypatch)[0] == 0
    assert ends(store) == [("INTERRUPTED", None, KILLED, 1), ("COMPLETE", None, None, 3)]


@pytest.mark.parametrize("state", MEANINGS)
def test_a_trial_whose_epochs_are_all_there_is_complete_unless_it_had_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    assert run(store, monkeypatch)[0] == 0
    config = trainer.identified(space.read(Path(ARGUMENTS[0]), ["model.nr_filters=16", "train.epochs=3"]).default())
    Recording(store, config, number=None).finish(state)
    code, said = run(store, monkeypatch)
    assert (code, "All epochs were there already" in said) == (0, True)
    assert ends(store)[-1][0] == (state if state in ENDED else "COMPLETE")


def test_leaving_pdb_interrupts_the_trial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()

    def train(config: TrialConfig, store: Store, **settings: Any) -> Iterator[EpochMetrics]:
        debugger = pdb.Pdb(stdin=io.StringIO("q\ny\n"), stdout=said, nosigint=True)
        for metrics in fakes.train(config, store, **settings):
            if metrics.epoch == 2:
                debugger.set_trace()
            yield metrics

    monkeypatch.setattr(trainer, "train", train)
    done = CliRunner().invoke(trial.app, [*ARGUMENTS, "--results", str(store.folder.parent)])
    assert "(Pdb)" in said.getvalue()
    assert done.exit_code == 130, done.output
    assert ends(store) == [("INTERRUPTED", None, "the debugger was left", 1)]


def test_a_trial_whose_row_was_lost_has_one_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(store, monkeypatch)[0] == 0
    [file] = store.trials_folder.glob("*.parquet")
    file.unlink()
    code, said = run(store, monkeypatch)
    assert (code, "All epochs were there already" in said) == (0, True)
    assert ends(store) == [("COMPLETE", None, None, 3)]
