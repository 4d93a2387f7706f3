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
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.api_pb2 import DataType, Status  # type: ignore[import-untyped]
from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData  # type: ignore[import-untyped]

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.states import State
from orchestrator.records.store import Attempt, Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.text.names import identifier
from orchestrator.views.mlflow_runs import Mlflow
from orchestrator.views.tensorboard import TensorBoard
from orchestrator.views.tracking import Follower, following, to_look
from orchestrator.views.weights_and_biases import Wandb
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
    accuracy = [(step, round(value.simple_value, 6)) for step, value in values if value.tag == "classification/val_acc"]
    assert accuracy == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert {value.tag for _, value in values} >= {"other/gamma_mean", "fid_by_class/7", "samples/all"}
    assert "samples/fid" not in {value.tag for _, value in values}
    [picture] = [value.image for _, value in values if value.tag == "samples/all"]
    assert (picture.width, picture.height) == (4, 6)


def test_tensorboards_table_of_trials_has_the_fields_that_vary_and_the_best_values(store: Store) -> None:
    fields: dict[str, Any] = {
        "model.fusion": {
            "kind": "choice",
            "options": [["none", {}], ["block_film", {"train.ema_decay": {"kind": "floats", "low": 0.1, "high": 0.9,
                                                                         "steps": None}}]],
        },
        "train.lr": {"kind": "floats", "low": 0.1, "high": 0.2, "steps": None},
        "train.grad_clip": {"kind": "choice", "options": [[None, {}], [1.0, {}]]},
        "train.flip": {"kind": "choice", "options": [[True, {}], [False, {}]]},
        "model.nr_filters": {"kind": "choice", "options": [[8, {}]]},  # which does not vary
    }  # fmt: skip
    store.write_sweep(SweepRecord.model_validate({"fields": fields}))
    attempt(store, "COMPLETE")
    for number in (1, 2, 3):
        epoch(store, number)
    for _ in range(2):  # the second time as after a kill: the table keeps its columns
        Follower(store, {"tensorboard": TensorBoard(store)}).close()
    folder = local(store.folder) / "tensorboard"
    [columns] = [each.experiment for each in of_hparams(folder) if each.HasField("experiment")]
    types = {info.name: info.type for info in columns.hparam_infos}
    text, switch, number = (DataType.Value(f"DATA_TYPE_{name}") for name in ("STRING", "BOOL", "FLOAT64"))
    assert types == {
        "model.fusion": text,
        "train.ema_decay": number,
        "train.lr": number,
        "train.grad_clip": number,
        "train.flip": switch,
    }
    shown = {info.name.tag for info in columns.metric_infos}
    assert shown == {"best/val_acc", "best/val_bpd", "best/fid", "best/score", "best/epoch"}
    held = of_hparams(folder / TRIAL)
    started = next(each.session_start_info for each in held if each.HasField("session_start_info"))
    assert started.hparams["model.fusion"].string_value == "block_film"
    assert started.hparams["train.lr"].number_value == CONFIG.train.lr
    assert "data.root" not in started.hparams
    [ended] = [each.session_end_info for each in held if each.HasField("session_end_info")]
    assert ended.status == Status.Value("STATUS_SUCCESS")
    best = {
        value.tag: round(value.simple_value, 6)
        for file in (folder / TRIAL).iterdir()
        for event in events(file)
        for value in event.summary.value
        if value.tag.startswith("best/")
    }
    assert best == {"best/val_acc": 0.3, "best/epoch": 3}


def of_hparams(folder: Path) -> list[HParamsPluginData]:
    return [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for file in sorted(folder.glob("events.*"))
        for event in events(file)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]


def test_mlflow_holds_each_point_once_though_what_was_shown_is_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    attempt(store, "RUNNING")
    Image.new("RGB", (4, 6)).save(local(store.samples_file(TRIAL, 1)))
    for number in (1, 2):
        epoch(store, number)
    Follower(store, {"mlflow": Mlflow(store)}).step()
    (store.folder / "tracking.json").unlink()
    attempt(store, "COMPLETE")
    epoch(store, 3)
    follower = Mlflow(store)
    Follower(store, {"mlflow": follower}).close()
    client = follower._client
    experiment = client.get_experiment_by_name(store.folder.name)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["state"]) == (TRIAL, "FINISHED", "COMPLETE")
    history = client.get_metric_history(run.info.run_id, "classification/val_acc")
    assert [(each.step, each.value) for each in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert {"fid_by_class/7", "best/val_acc"} <= set(run.data.metrics)
    assert run.data.params["model.fusion"] == "block_film"
    assert "data.root" not in run.data.params
    [picture] = client.list_artifacts(run.info.run_id, "samples")
    assert picture.path == "samples/epoch-0001.png"


def test_a_run_of_wandb_has_pictures_and_metrics_by_class_and_the_courses_names_on_request(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, Any]] = []
    run = SimpleNamespace(log=lambda content, step: logged.append(content | {"at": step}))
    monkeypatch.setattr(Wandb, "_begun", lambda *_: run)
    attempt(store, "RUNNING")
    pixels = np.zeros((2 * 4 + 2, 6, 3), np.uint8)
    pixels[4:6] = 255
    Image.fromarray(pixels).save(local(store.samples_file(TRIAL, 1)))
    known = {"epoch": 1, "step": 10, "kept_epochs": [1], "train_bpd": 3.0, "val_bpd": 2.5, "fid": 9.0}
    extra = {"fid.0": 4.0, "fid.1": 5.0, "val_acc.0": 0.5, "val_acc.1": 0.75}
    store.add_epoch(TRIAL, 1, EpochMetrics.from_record(known | {"extra": extra}))
    for mode in ("offline", "online,course-names"):
        (store.folder / "tracking.json").unlink(missing_ok=True)
        Follower(store, {"wandb": Wandb(store, mode)}).step()
    plain, course = logged
    assert plain.items() >= {"at": 1, "epoch": 1, "fid": 9.0, "fid_by_class/0": 4.0, "val_acc_by_class/1": 0.75}.items()
    assert plain["samples_by_class/1"].image.height == 4
    assert plain["samples"].image.height == 10
    starters = {"training-Average-BPD": 3.0, "val-Average-BPD": 2.5, "FID": 9.0, "training-epoch": 1, "val-epoch": 1}
    assert {name: course[name] for name in course.keys() - plain.keys()} == starters


def test_two_metrics_are_two_in_tensorboard_whatever_they_are_called(store: Store) -> None:
    attempt(store, "RUNNING")
    extra = {f"fid.{name}": float(number) for number, name in enumerate(odd.TEXTS)}
    known = {"epoch": 1, "step": 10, "kept_epochs": [1], "val_acc": 0.5, "fid": None}
    store.add_epoch(TRIAL, 1, EpochMetrics.from_record(known | {"extra": extra}))
    Follower(store, {"tensorboard": TensorBoard(store)}).close()
    [file] = (local(store.folder) / "tensorboard" / TRIAL).iterdir()
    shown = {value.tag: value.simple_value for event in events(file) for value in event.summary.value}
    assert sorted(value for tag, value in shown.items() if tag.startswith("fid_by_class")) == sorted(extra.values())


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
    [line] = said
    assert ("runs are kept offline from here on" in line) == (case != "offline")
    sync = line[line.index("wandb sync") :]
    assert shlex.split(sync) == ["wandb", "sync", f"{store.folder}/wandb/offline-run-*"]
    assert sync.endswith("/wandb/offline-run-*")  # not quoted: the shell shall find them
    for file in local(store.folder).rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_what_to_type_where_tracking_failed_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    store = Store(tmp_path / odd.ALL / odd.ALL)
    said: list[str] = []
    with following(store, {"tensorboard": ""}, say=said.append):
        [look] = said  # before anything runs
    assert look.startswith("To look at it in tensorboard: ")
    typed = shlex.split(look.partition("tensorboard: ")[2])
    assert typed == ["tensorboard", "--logdir", str(store.folder / "tensorboard")]
    [_, line] = said
    assert line.startswith(f"Tracking failed; {store.log_file('tracking')} says why. The rest: ")
    words = shlex.split(line.partition("The rest: ")[2])
    assert words[-5:] == ["--results", str(store.folder.parent), "--sweep", odd.ALL, "--tracker=tensorboard"]


@pytest.mark.parametrize("fails", ["the log", "the process"])
def test_a_tracker_that_cannot_start_costs_nothing_but_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    store = Store(tmp_path / "digits")
    store.create()
    if fails == "the log":
        store.log_file("tracking").mkdir()
    else:
        monkeypatch.setattr(sys, "executable", "/nowhere")
    said: list[str] = []
    with following(store, {"tensorboard": ""}, say=said.append):
        said.append("the sweep")
    assert [line.split(" (")[0] for line in said[1:]] == ["Tracking failed to start", "the sweep"]


def test_a_server_of_the_users_own_needs_no_line_to_type(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    [line] = to_look(store, {"mlflow": "", "wandb": "online"})
    assert line.startswith("To look at it in mlflow: mlflow ui --backend-store-uri sqlite:///")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert to_look(store, {"mlflow": ""}) == []


def test_nothing_of_wandb_is_loaded_unless_it_is_asked_for() -> None:
    code = "import sys, orchestrator.sweep, orchestrator.trial; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
