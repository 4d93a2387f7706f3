"""The mirror of a trial's checkpoints: never half, never more than an epoch behind, never two writers."""

from __future__ import annotations

import json
import logging
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import CheckpointError
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records import mirror
from orchestrator.records.location import RemoteError
from orchestrator.records.store import Store
from orchestrator.training import trainer
from tests.support import fakes, remote

CONFIG = TrialConfig.from_flat({"train.epochs": 4})
ID = CONFIG.trial_id


class Killed(BaseException):
    """What SIGKILL would be, if it could be raised."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LOG_SECONDS", 1000.0)


def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, store: Store | None = None) -> Store:
    """The sweep as a machine sees it that has not seen it before, or one that has."""
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / name))
    made = Store(remote.folder() if store is None else store.folder)
    made.create()
    return made


def held(store: Store) -> dict[str, Any]:
    """The index that lies there, once it is certain that all that it names does, whole."""
    folder = store.checkpoint_folder(ID)
    try:
        index: dict[str, Any] = json.loads((folder / mirror.INDEX).read_bytes())
    except FileNotFoundError:
        return {"history": [], "states": {}, "weights": {}}
    named = {**index["weights"], **{name: entry["sha256"] for name, entry in index["states"].items()}}
    for name, checksum in named.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == checksum, name
    return index


def test_what_is_there_is_whole_whenever_the_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        store = machine(tmp_path, monkeypatch, f"first {step}")
        calls = iter(range(step))

        def before(operation: str, path: str, calls: Any = calls) -> None:
            changes = operation in {"put", "delete"} and "/checkpoints/" in path
            if changes and next(calls, None) is None:
                raise Killed

        reported: list[EpochMetrics] = []
        epochs = trainer.run(CONFIG, store, fakes.train)
        try:
            with remote.asking(before):
                for metrics in epochs:
                    # what a row would say can be had
                    assert held(store)["weights"].keys() >= {metrics.checkpoint}
                    reported.append(metrics)
                    store.add_epoch(ID, 1, metrics)
            killed = False
        except Killed:
            pass
        index = held(store)
        assert len(index["history"]) >= len(reported)
        # All but the last epoch can be gone on from: what is lost is the current epoch at most.
        assert max((entry["epoch"] for entry in index["states"].values()), default=0) >= len(reported) - 1

        other = machine(tmp_path, monkeypatch, f"second {step}", store)
        for metrics in trainer.run(CONFIG, other, fakes.train):
            other.add_epoch(ID, 2, metrics)
        assert [row["epoch"] for row in other.epochs().rows()] == [1, 2, 3, 4]
        assert len(held(other)["states"]) == 2
        assert not other.training_folder(ID).exists()  # nothing but the URL needs it any more
        assert {name.partition("-")[0] for name in (other.checkpoint_folder(ID)).listing()} == {
            "claim",
            "index.json",
            "state",
            "weights",
        }
        assert len(list(other.checkpoint_folder(ID).glob("state-*.pt"))) == 2  # dropped here, dropped there
    assert step > 15


def test_the_next_epoch_is_not_reported_before_the_state_has_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path, monkeypatch, "one")
    arrives, asked = threading.Event(), threading.Event()

    def before(operation: str, path: str) -> None:
        if operation == "put" and path.endswith("state-00000001.pt"):
            asked.set()
            assert arrives.wait(60)

    epochs = trainer.run(CONFIG, store, fakes.train)
    with remote.asking(before):
        assert next(epochs).epoch == 1  # its weights are there, its state is on its way
        assert asked.wait(60)
        assert held(store)["states"] == {}
        second: list[EpochMetrics] = []
        training_on = threading.Thread(target=lambda: second.append(next(epochs)))
        training_on.start()
        training_on.join(0.3)
        assert second == []
        arrives.set()
        training_on.join(60)
        assert [metrics.epoch for metrics in second] == [2]
    epochs.close()
    assert len(held(store)["states"]) == 2


def test_an_upload_that_fails_for_good_fails_the_trial_as_storage_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path, monkeypatch, "one")

    def before(operation: str, path: str) -> None:
        if operation == "put" and path.endswith("state-00000001.pt"):
            raise ConnectionError("no route")

    epochs = trainer.run(CONFIG, store, fakes.train)
    with remote.asking(before):
        assert next(epochs).epoch == 1
        with pytest.raises(RemoteError, match=r"state-00000001\.pt: cannot be reached \(no route\)") as raised:
            next(epochs)
    assert trainer.is_storage_failure(raised.value)
    # On the same machine nothing of what was trained is lost.
    trained = len((store.local_mirror / "trained.txt").read_text().splitlines())
    assert [metrics.epoch for metrics in trainer.run(CONFIG, store, fakes.train)] == [1, 2, 3, 4]
    assert len((store.local_mirror / "trained.txt").read_text().splitlines()) == 4
    assert trained == 2


def test_a_state_that_does_not_arrive_after_a_stop_is_said_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = machine(tmp_path, monkeypatch, "one")

    def before(operation: str, path: str) -> None:
        if operation == "put" and "state" in path:
            raise ConnectionError("no route")

    epochs = trainer.run(CONFIG, store, fakes.train)
    with remote.asking(before), caplog.at_level(logging.ERROR):
        next(epochs)
        epochs.close()
    assert "the state of the last epoch has not arrived" in caplog.text
    assert store.training_folder(ID).exists()


def test_of_two_processes_that_train_a_trial_the_earlier_one_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = machine(tmp_path, monkeypatch, "orphan's")
    first = trainer.run(CONFIG, orphan, fakes.train)
    next(first)
    second = trainer.run(CONFIG, machine(tmp_path, monkeypatch, "another", orphan), fakes.train)
    assert [metrics.epoch for metrics in second][-1] == 4
    before = orphan.checkpoint_folder(ID).listing()
    with pytest.raises(trainer.TrialBusyError, match=r"another process trains trial .* now: pid"):
        next(first)
    assert orphan.checkpoint_folder(ID).listing() == before


def test_what_an_orphan_wrote_a_moment_too_late_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine(tmp_path, monkeypatch, "one")
    epochs = trainer.run(CONFIG, store, fakes.train)
    next(epochs)
    next(epochs)
    while "state-00000002.pt" not in held(store)["states"]:
        time.sleep(0.01)  # what arrives after the orphan's would bury it
    folder = store.checkpoint_folder(ID)
    (folder / "weights-0002.safetensors").write_bytes(b"an orphan's")
    (folder / mirror.INDEX).write_bytes(b'{"history": [1, 2], "weights": {}, "states": {}}')
    next(epochs)
    epochs.close()
    assert held(store)["history"] == [1, 2, 3]


BROKEN = [
    "",
    "[]",
    "null",
    '{"history": []}',
    '{"history": {}, "weights": {}, "states": {}}',
    '{"history": [], "weights": {"../weights-0001.safetensors": null}, "states": {}}',
    '{"history": [], "weights": {"weights-0001.safetensors": 3}, "states": {}}',
    '{"history": [], "weights": {}, "states": {"state-00000001.pt": "x"}}',
    '{"history": [], "weights": {}, "states": {"state-00000001.pt": {"epoch": 1}}}',
    '{"history": [], "weights": {}, "states": {"../state-00000001.pt": {"sha256": "' + "1" * 64 + '", "epoch": 1}}}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_index_there_is_named_and_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    store = machine(tmp_path, monkeypatch, "one")
    (store.checkpoint_folder(ID) / mirror.INDEX).write_bytes(content.encode())
    with caplog.at_level(logging.WARNING):
        assert [metrics.epoch for metrics in trainer.run(CONFIG, store, fakes.train)] == [1, 2, 3, 4]
    assert "index.json: damaged (" in caplog.text
    assert held(store)["history"] == [1, 2, 3, 4]


def test_an_index_of_a_later_version_there_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(tmp_path, monkeypatch, "one")
    index = store.checkpoint_folder(ID) / mirror.INDEX
    content = b'{"format": 99, "history": [], "weights": {}, "states": {}}'
    index.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"index\.json: written in format 99, this version reads 1"):
        list(trainer.run(CONFIG, store, fakes.train))
    assert index.read_bytes() == content


def test_a_log_goes_on_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine(tmp_path, monkeypatch, "one")
    with trainer.log_to(store.log_file(ID)):
        epochs = trainer.run(CONFIG, store, fakes.train)
        next(epochs)
        epochs.close()
    other = machine(tmp_path, monkeypatch, "two", store)
    other.fetch_log(ID)
    with trainer.log_to(other.log_file(ID)):
        list(trainer.run(CONFIG, other, fakes.train))
    said = (store.folder / "logs" / f"{ID}.log").read_text()
    assert "training epoch 1" in said
    assert "training epoch 4" in said
