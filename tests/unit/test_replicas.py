"""Several processes per trial train on the same global batch as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cpcnn_core.checkpoint import CheckpointFolder
from cpcnn_core.config import TrialConfig
from cpcnn_core.train import fit
from tests.training import SETTINGS, tiny_dataset

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from cpcnn_core.config import TrialConfig
from cpcnn_core.train import fit
from tests.training import tiny_dataset

torch.set_num_threads(1)
list(fit(TrialConfig.from_flat(json.loads(sys.argv[2])), tiny_dataset(), Path(sys.argv[1])))
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "train.batch_size": 15,
            "train.accumulate": 3,
            "model.dropout": 0.5,
            "train.flip": True,
            "train.ema_decay": 0.9,
            "eval.fid_every": 3,
            "eval.fid_extractor": "classifier",
            "eval.fid_images_per_class": 5,
        },
    ],
    ids=["plain", "odd batch, accumulated, dropout"],
)
def test_two_processes_give_the_loss_curve_of_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    trial = SETTINGS | settings
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
            "ACCELERATE_USE_CPU": "true",
        }
        command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(trial)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
