"""The driver's own steps, killed before and after each thing that it writes, without the cost of Ray."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from cpcnn_core import files
from cpcnn_core.metrics import EpochMetrics
from orchestrator.objectives.objective import Objective
from orchestrator.records import location
from orchestrator.records import place as place_module
from orchestrator.records.recording import Place
from orchestrator.records.store import Store, StoreError
from orchestrator.search.ledger import Ledger
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study
from orchestrator.training import trainer
from search_spaces import Distribution, choice, ints
from tests.support import fakes
from tests.support.fakes import NoView

TRIALS, EPOCHS, CONCURRENT = 4, 2, 2
FIELDS: dict[str, Distribution] = {
    "model.fusion": choice("none", "stem_add", "input_map"),
    "model.nr_filters": ints(8, 12),
}
SPACE = SearchSpace("a test", "", FIELDS, {"train.epochs": EPOCHS, "seed": 0}, TRIALS, Objective("val_acc", "max"))


class Killed(BaseException):
    """What SIGKILL would be, if it could be raised."""


def drive(store: Store) -> int:
    """One run of a driver, two trials at a time; return how many trials it started."""
    study = Study(SPACE, store, seed=0, trials=TRIALS)
    with ExitStack() as stack:
        stack.callback(study.close)
        ledger = Ledger(study, store, SPACE.objective, NoView())
        running: list[tuple[int, Generator[EpochMetrics]]] = []
        started = 0
        while True:
            while len(running) < CONCURRENT and (suggestion := ledger.suggest()) is not None:
                started += 1
                epochs = trainer.run(suggestion.config, store, fakes.train)
                stack.callback(epochs.close)  # whose lock would last as long as an error that is looked at
                running.append((suggestion.number, epochs))
                ledger.started(suggestion.number)
            if ledger.fatal is not None:
                raise ledger.fatal
            if not running:
                return started
            number, epochs = running.pop(0)
            metrics = next(epochs, None)
            if metrics is not None:
                ledger.epoch(number, metrics, Place("here", "cpu", 1))
            if metrics is None or metrics.epoch == EPOCHS:
                epochs.close()
                ledger.ended(number, None)
            else:
                running.append((number, epochs))


@contextmanager
def full_from(write: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let the disk be full from the file number `write` on: some bytes still fit. Count the files."""
    files = [0]

    def limited(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, write_to: Callable[[Any], object], **options: Any) -> Any:
            files[0] += 1

            def fill(stream: Any) -> None:
                write_to(stream)
                if files[0] >= write:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

            return function(path, fill, **options)

        return call

    with monkeypatch.context() as patch:
        for module in (place_module, fakes):
            patch.setattr(module, "write_atomically", limited(module.write_atomically))
        yield files


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count everything that is written; raise Killed before the write number `step` // 2, or after it if odd."""
    writes: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            writes[name] += 1
            if (writes.total(), step % 2) == (step // 2, 0):
                raise Killed
            result = function(*arguments, **options)
            if (writes.total(), step % 2) == (step // 2, 1):
                raise Killed
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(place_module, "write_atomically", counted("file", location.write_atomically))
        patch.setattr(fakes, "write_atomically", counted("checkpoint", files.write_atomically))
        patch.setattr(optuna.Study, "ask", counted("ask", optuna.Study.ask))
        patch.setattr(optuna.Study, "tell", counted("tell", optuna.Study.tell))
        patch.setattr(optuna.Trial, "report", counted("report", optuna.Trial.report))
        patch.setattr(optuna.Trial, "set_user_attr", counted("attribute", optuna.Trial.set_user_attr))
        yield writes


def new_store(folder: Path) -> Store:
    store = Store(folder)
    store.create()
    return store


def check_whole(store: Store) -> None:
    latest = store.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * TRIALS
    epochs = Counter((row["trial_id"], row["epoch"]) for row in store.epochs().rows())
    assert epochs == {(row["trial_id"], epoch): 1 for row in latest for epoch in range(1, EPOCHS + 1)}
    lines = (store.folder / "trained.txt").read_text().splitlines()
    trained = Counter((line.split()[0], line.split()[1]) for line in lines)
    assert len(trained) == TRIALS * EPOCHS
    assert trained.total() <= TRIALS * EPOCHS + CONCURRENT  # only an epoch in progress is lost
    assert "RUNNING" not in {row["state"] for row in store.trials().rows()}


def test_a_driver_killed_at_any_write_loses_nothing_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(-1, monkeypatch) as writes:
        assert drive(new_store(tmp_path / "whole")) == TRIALS
    check_whole(Store(tmp_path / "whole"))
    assert set(writes) >= {"file", "checkpoint", "ask", "tell", "report", "attribute"}
    # All steps would take minutes, most of them to open the study; this stride meets every kind of write.
    for step in range(2, 2 * writes.total() + 2, 11):
        store = new_store(tmp_path / str(step))
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            drive(store)
        drive(store)
        check_whole(store)
        assert drive(store) == 0


def test_a_disk_that_is_full_from_any_file_on_loses_nothing_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_from(10**6, monkeypatch) as files:
        assert drive(new_store(tmp_path / "whole")) == TRIALS
    for write in range(1, files[0] + 1, 3):
        store = new_store(tmp_path / str(write))
        with full_from(write, monkeypatch), pytest.raises((OSError, StoreError)) as error:
            drive(store)
        assert "No space left on device" in str(error.value)
        drive(store)
        check_whole(store)
        assert drive(store) == 0


def test_a_sweep_killed_again_and_again_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path / "one")
    for step in range(21, 100, 14):
        with killed_at(step, monkeypatch), contextlib.suppress(Killed):
            drive(store)
    drive(store)
    check_whole(store)
