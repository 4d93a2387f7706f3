"""Which recorded trial is replayed, where to, and with what; the training itself is an end-to-end test's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store, StoreError
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.training import replaying
from tests.support.fakes import metrics

CONFIG = TrialConfig.from_flat({"train.epochs": 4})


def sweep(results: Path, name: str, *, asks: bool = True) -> Store:
    store = Store(results / name)
    store.create()
    if asks:
        store.write_sweep(SweepRecord.model_validate({"name": name}))
    Recording(store, CONFIG, 0).add(metrics(1), Place("here", "cpu", 1))
    return store


def test_a_trial_is_found_in_the_sweep_that_ran_it(tmp_path: Path) -> None:
    sweep(tmp_path, "one")
    sweep(tmp_path, "one-replays", asks=False)
    assert replaying.holder(tmp_path, CONFIG.trial_id, None).folder.name == "one"
    with pytest.raises(StoreError, match=f"no sweep holds a trial .*did you mean {CONFIG.trial_id}"):
        replaying.holder(tmp_path, CONFIG.trial_id[:-1], None)
    sweep(tmp_path, "two")
    with pytest.raises(StoreError, match="is in one, two; say which with --sweep"):
        replaying.holder(tmp_path, CONFIG.trial_id, None)
    assert replaying.holder(tmp_path, CONFIG.trial_id, "two").folder.name == "two"


def test_a_replay_never_goes_into_a_sweep_whose_rows_it_would_replace(tmp_path: Path) -> None:
    sweep(tmp_path, "one")
    with pytest.raises(StoreError, match=r"--name one: .* holds a sweep"):
        replaying.scratch(tmp_path, "one")
    assert replaying.scratch(tmp_path, "one-replays").folder.name == "one-replays"


def test_each_epoch_is_replayed_with_the_threads_of_its_attempt(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.create()
    for first, threads in ((1, 1), (3, 2)):
        recording = Recording(store, CONFIG, 0)
        for epoch in (first, first + 1):
            recording.add(metrics(epoch), Place("here", "cpu", 1, threads))
    Recording(store, CONFIG, 0)  # killed before its first epoch: it does not say
    rows = store.attempts_of(CONFIG.trial_id), store.epochs_of(CONFIG.trial_id)
    assert replaying.threads_by_epoch(*rows) == {1: 1, 2: 1, 3: 2, 4: 2}


def test_a_broken_sweep_json_elsewhere_is_in_nobody_s_way(tmp_path: Path) -> None:
    sweep(tmp_path, "one")
    other = Store(tmp_path / "two")
    other.create()
    assert isinstance(other.sweep_file, Path)
    other.sweep_file.write_text("{")
    assert replaying.holder(tmp_path, CONFIG.trial_id, None).folder.name == "one"
