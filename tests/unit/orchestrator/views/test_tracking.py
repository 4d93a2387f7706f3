"""Weights & Biases and TensorBoard, which follow a sweep's files."""

from __future__ import annotations

import json
import os
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.states import State
from orchestrator.records.store import Attempt, Store
from orchestrator.text.names import identifier
from orchestrator.views.tensorboard import TensorBoard
from orchestrator.views.tracking import Follower, following
from tests.support import odd
from tests.support.paths import local
from tests.support.times import at

KEY = "0123456789abcdef" * 2 + "01234567"
CONFIG = TrialConfig.from_flat({"train.epochs": 3, "model.fusion": "block_film"})
TRIAL = CONFIG.trial_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "digits")
    made.create()
    return made


def attempt(store: Store, state: State, number: int = 1) -> None:
    store.write_attempt(Attempt(trial_id=TRIAL, attempt=number, number=0, state=state, started=at()), CONFIG)


def epoch(store: Store, number: int, number_of_attempt: int = 1) -> None:
    known = {"epoch": number, "step": 10 * number, "kept_epochs": [number], "val_acc": number / 10, "fid": None}
    metrics = EpochMetrics.from_record(known | {"extra": {"gamma_mean": 1.5, "fid.7": 40.0}})
    store.add_epoch(TRIAL, number_of_attempt, metrics)


class Fake:
    """A tracker that only remembers."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.seen: list[tuple[object, ...]] = []

    def epoch(self, trial: Entry, row: Mapping[str, Any], samples: Folder | None) -> None:
        if self.fails:
            raise ConnectionError("no route")
        self.seen.append((row["epoch"], samples is not None))

    def end(self, trial: Entry, best: Mapping[str, Any] | None) -> None:
        self.seen.append((trial.trial["state"], None if best is None else best["epoch"]))

    def close(self) -> None:
        self.seen.append(("closed",))


def test_each_epoch_and_each_end_is_shown_once_whoever_follows(store: Store) -> None:
    attempt(store, "RUNNING")
    epoch(store, 1)
    first = Fake()
    follower = Follower(store, {"fake": first})
    follower.step()
    follower.step()
    assert first.seen == [(1, False)]
    Image.new("RGB", (4, 4)).save(local(store.samples_file(TRIAL, 2)))
    epoch(store, 2)
    follower.step()
    attempt(store, "PRUNED")
    follower.step()
    assert first.seen[1:] == [(2, True), ("PRUNED", 2)]

    # killed, started again, and the trial goes on
    second = Fake()
    attempt(store, "COMPLETE", 2)
    epoch(store, 3, 2)
    store.compact(at_least=1)
    follower = Follower(store, {"fake": second})
    follower.close()
    assert second.seen == [(3, False), ("COMPLETE", 3), ("closed",)]


def test_a_tracker_that_fails_is_given_up_and_the_others_go_on(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    attempt(store, "RUNNING")
    broken, sound = Fake(fails=True), Fake()
    follower = Follower(store, {"broken": broken, "sound": sound})
    for number in (1, 2):
        epoch(store, number)
        follower.step()
    assert sound.seen == [(1, False), (2, False)]
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"broken failed at trial {TRIAL} and is given up; the tables have everything"]
    Follower(store, {"broken": (later := Fake())}).step()  # nothing that it missed is lost
    assert later.seen == [(1, False), (2, False)]


def test_tensorboard_holds_each_point_once_though_the_trial_was_resumed(store: Store) -> None:
    attempt(store, "RUNNING")
    Image.new("RGB", (4, 6)).save(local(store.samples_file(TRIAL, 1)))
    for number in (1, 2, 3):
        epoch(store, number)
        Follower(store, {"tensorboard": TensorBoard(store)}).close()
    [*files] = sorted((local(store.folder) / "tensorboard" / TRIAL).iterdir())
    values = [(event.step, value) for file in files for event in events(file) for value in event.summary.value]
    accuracy = [(step, round(value.simple_value, 6)) for step, value in values if value.tag == "val_acc"]
    assert accuracy == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert {value.tag for _, value in values} >= {"gamma_mean", "fid.7", "samples"}
    assert "fid" not in {value.tag for _, value in values}
    [picture] = [value.image for _, value in values if value.tag == "samples"]
    assert (picture.width, picture.height) == (4, 6)


def test_two_metrics_are_two_in_tensorboard_whatever_they_are_called(store: Store) -> None:
    attempt(store, "RUNNING")
    extra = {f"fid.{name}": float(number) for number, name in enumerate(odd.TEXTS)}
    known = {"epoch": 1, "step": 10, "kept_epochs": [1], "val_acc": 0.5, "fid": None}
    store.add_epoch(TRIAL, 1, EpochMetrics.from_record(known | {"extra": extra}))
    Follower(store, {"tensorboard": TensorBoard(store)}).close()
    [file] = (local(store.folder) / "tensorboard" / TRIAL).iterdir()
    shown = {value.tag: value.simple_value for event in events(file) for value in event.summary.value}
    assert sorted(value for tag, value in shown.items() if tag.startswith("fid.")) == sorted(extra.values())


def events(file: Path) -> list[Event]:
    """The records of an event file: length, checksum, content, checksum."""
    found, data = [], file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


@pytest.mark.parametrize("case", ["offline", "no key", "unreachable"])
def test_without_a_network_runs_are_kept_on_disk_and_nobody_waits(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / odd.ALL)
    store.create()
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(store.folder.parent))  # no key in a file there
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    if case == "unreachable":
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    said: list[str] = []
    with following(store, {"wandb": case if case == "offline" else "online"}, say=said.append):
        attempt(store, "RUNNING")
        for number in (1, 2, 3):
            epoch(store, number)
        attempt(store, "COMPLETE")
    shown = json.loads((store.folder / "tracking.json").read_text())
    assert shown == {"wandb": {TRIAL: [3, 1]}}, (store.log_file("tracking")).read_text()
    [run] = (store.folder / "wandb").glob("offline-run-*")
    assert run.name.endswith(f"{identifier(odd.ALL)}-{TRIAL}")
    [held] = run.glob("*.wandb")
    assert b"gamma_mean" in held.read_bytes()
    assert odd.ALL.encode() in held.read_bytes()  # the group
    if case == "offline":
        assert said == []
    else:
        assert len(said) == 1
        assert "runs are kept offline" in said[0]
        sync = said[0].partition("To send them: ")[2]
        assert shlex.split(sync) == ["wandb", "sync", f"{store.folder}/wandb/offline-run-*"]
        assert sync.endswith("/wandb/offline-run-*")  # not quoted: the shell shall find them
    for file in local(store.folder).rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_what_to_type_where_tracking_failed_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    store = Store(tmp_path / odd.ALL / odd.ALL)
    said: list[str] = []
    with following(store, {"tensorboard": ""}, say=said.append):
        pass
    [line] = said
    assert line.startswith(f"Tracking failed; {store.log_file('tracking')} says why. The rest: ")
    words = shlex.split(line.partition("The rest: ")[2])
    assert words[-5:] == ["--results", str(store.folder.parent), "--sweep", odd.ALL, "--tracker=tensorboard"]


def test_nothing_of_wandb_is_loaded_unless_it_is_asked_for() -> None:
    code = "import sys, orchestrator.sweep, orchestrator.trial; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
