"""Several processes per trial train on the same global batch as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from cpcnn_core.checkpoint import CheckpointFolder
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import PreemptedError
from cpcnn_core.train import fit
from orchestrator.machines.resources import Resources, ResourcesError, Share
from orchestrator.records.store import Store
from orchestrator.training import replicas, trainer
from orchestrator.training.replicas import ReplicaError, Replicated
from tests.support import fakes
from tests.support.paths import local
from tests.support.training import SETTINGS, comparable, tiny_dataset

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import PreemptedError
from cpcnn_core.train import fit
from tests.support.training import tiny_dataset

torch.set_num_threads(1)
list(fit(TrialConfig.from_flat(json.loads(sys.argv[2])), tiny_dataset(), Path(sys.argv[1])))
torch.distributed.destroy_process_group()
"""


HARD = {
    "train.batch_size": 15,  # odd
    "train.accumulate": 3,
    "model.dropout": 0.5,
    "train.flip": True,
    "train.ema_decay": 0.9,
    "eval.fid_every": 3,
    "eval.fid_extractor": "classifier",
    "eval.fid_images_per_class": 5,
}


@pytest.mark.unmeasured
def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    trial = SETTINGS | HARD
    one = list(fit(TrialConfig.from_flat(trial), tiny_dataset(), tmp_path / "one"))
    _launch(tmp_path / "two", trial)
    two = CheckpointFolder(tmp_path / "two", TrialConfig.from_flat(trial)).history
    assert len(two) == len(one) == 3
    for alone, replicated in zip(one, two, strict=True):
        assert replicated.train_loss == pytest.approx(alone.train_loss, abs=1e-3)
        assert replicated.val_bpd == pytest.approx(alone.val_bpd, abs=1e-3)
        assert replicated.grad_norm == pytest.approx(alone.grad_norm, rel=1e-2)
        assert replicated.micro_batch <= alone.micro_batch
        assert (replicated.fid is None) == (alone.fid is None)
        assert (replicated.fid_images, replicated.fid_extractor) == (alone.fid_images, alone.fid_extractor)


def test_parameters_that_a_step_does_not_reach_do_not_stop_several_processes(tmp_path: Path) -> None:
    trial = SETTINGS | {"model.fusion": "none", "model.label_encoding": "embedding", "train.epochs": 1}
    one = list(fit(TrialConfig.from_flat(trial), tiny_dataset(), tmp_path / "one"))
    _launch(tmp_path / "two", trial)
    two = CheckpointFolder(tmp_path / "two", TrialConfig.from_flat(trial)).history
    assert [each.train_loss for each in two] == [pytest.approx(each.train_loss, abs=1e-3) for each in one]


CONFIG = TrialConfig.from_flat(
    {"train.epochs": 3, "data.train_fraction": 0.05, "model.nr_filters": 4, "model.nr_logistic_mix": 1}
    | {"eval.train_images": 0, "eval.batch_size": 1000, "seed": 1}
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "sweep")
    made.create()
    return made


@pytest.mark.unmeasured
def test_a_trial_of_two_processes_as_a_sweep_runs_it(tmp_path: Path, store: Store) -> None:
    alone = Store(tmp_path / "alone")
    alone.create()
    one = list(trainer.run(CONFIG, alone, trainer.train))
    two = Replicated(trainer.TRAINER, processes=2, threads=1)
    before = psutil.Process().children()

    # stopped after an epoch, as a scheduler does: both processes are gone, and neither trained on
    epochs = trainer.run(CONFIG, store, two)
    found = [next(epochs)]
    children = [child for child in psutil.Process().children() if child not in before]
    assert len(children) == 2
    epochs.close()
    assert not any(child.is_running() for child in children)
    history = CheckpointFolder(local(store.checkpoint_folder(CONFIG.trial_id)), CONFIG).history
    assert [held.epoch for held in history] == [1]
    store.add_epoch(CONFIG.trial_id, 1, found[0])

    # resumed; one process is killed, which is said, and takes the other with it
    epochs = trainer.run(CONFIG, store, two)
    found.append(next(epochs))
    store.add_epoch(CONFIG.trial_id, 1, found[1])
    # Other tests of this process may have left some behind.
    children = [child for child in psutil.Process().children() if child not in before]
    sorted(children, key=lambda child: (child.create_time(), child.pid))[1].kill()
    with pytest.raises(ReplicaError, match="process 2 of 2 of the trial ended by signal SIGKILL"):
        next(epochs)
    assert not any(child.is_running() for child in children)

    found += trainer.run(CONFIG, store, two)
    assert [metrics.epoch for metrics in found] == [1, 2, 3]
    for mine, replicated in zip(one, found, strict=True):
        assert replicated.train_loss == pytest.approx(mine.train_loss, abs=1e-3)
        assert replicated.val_bpd == pytest.approx(mine.val_bpd, abs=1e-3)
    assert len(store.predictions_of(CONFIG.trial_id, 3)) == 300


def test_what_one_process_raises_is_raised(store: Store) -> None:
    config = CONFIG.with_settings({"model.nr_filters": fakes.RAISES})
    with pytest.raises(ValueError, match="a bad\nconfiguration"):
        list(trainer.run(config, store, Replicated("tests.support.fakes:train", processes=2, threads=1)))


def test_processes_die_with_the_one_that_the_trial_belongs_to(store: Store) -> None:
    code = f"""
from pathlib import Path
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import PreemptedError
from orchestrator.training.replicas import Replicated
from orchestrator.records.store import Store
from tests.support.paths import local
config = TrialConfig.from_flat({CONFIG.with_settings({"train.epochs": 1000}).flat()!r})
for _ in Replicated("tests.support.fakes:train", 2, 1)(config, Store(Path({str(store.folder)!r})), reported=0):
    print("epoch", flush=True)
"""
    environment = os.environ | {fakes.SECONDS: "0.3"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"epoch\n"
        children = psutil.Process(owner.pid).children()
        owner.kill()
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_resources_of_several_processes() -> None:
    two = Resources.of({"processes": 2})
    assert two.share({"CPU": 8.0}, trials=16) == Share(cpus=2, gpus=0.0, concurrent=4)
    assert two.share({"CPU": 8.0}, trials=2) == Share(cpus=4, gpus=0.0, concurrent=2)
    assert two.share({"CPU": 8.0, "GPU": 4.0}, trials=16) == Share(cpus=4, gpus=2.0, concurrent=2)
    for wrong, said in (
        ({"processes": 0}, "processes is 0"),
        ({"processes": 2, "cpus": 1}, "cpus is 1; 2 processes need at least one each"),
        ({"processes": 2, "gpus": 0.5}, "2 processes take a GPU each"),
    ):
        with pytest.raises(ResourcesError, match=said):
            Resources.of(wrong)


@pytest.mark.unmeasured
def test_two_processes_that_are_taken_away_save_after_the_same_step_and_go_on_bit_for_bit(
    tmp_path: Path, store: Store
) -> None:
    alone = Store(tmp_path / "left-alone")
    alone.create()
    two = Replicated(trainer.TRAINER, processes=2, threads=1)
    whole = list(trainer.run(CONFIG, alone, two))
    with pytest.raises(PreemptedError, match=r"the training state is saved in epoch 1, after 1 of 2 steps"):
        list(trainer.run(CONFIG, store, two, preempted=lambda: True))
    for metrics in trainer.run(CONFIG, store, two):
        store.add_epoch(CONFIG.trial_id, 2, metrics)
    history = CheckpointFolder(local(store.checkpoint_folder(CONFIG.trial_id)), CONFIG).history
    assert [comparable(epoch) for epoch in history] == [comparable(epoch) for epoch in whole]


def _ended() -> replicas._Replica:
    """A process that has ended, as seen before anybody has read what it left."""
    ours, theirs = socket.socketpair()
    theirs.close()
    process = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(3)"])
    process.wait()
    return process, Connection(ours.detach())


def test_a_process_that_has_just_ended_is_not_an_error_of_writing_to_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"process \d of 2 of the trial ended with exit code 3"
    with pytest.raises(ReplicaError, match=said):
        replicas._next([_ended(), _ended()], None, lambda: True)
    monkeypatch.setattr(replicas, "_start", lambda *_: _ended())
    with pytest.raises(ReplicaError, match=said):
        next(trainer.run(CONFIG, store, Replicated(trainer.TRAINER, processes=2, threads=1)))


def _launch(folder: Path, trial: dict[str, Any], world: int = 2) -> None:
    """Start one process per rank with the environment that a launcher sets, as a trial of several workers does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(trial)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
