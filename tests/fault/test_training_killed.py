"""A training process that is killed without warning loses nothing but the epoch it was in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cpcnn_core.checkpoint import CheckpointFolder
from cpcnn_core.config import TrialConfig
from cpcnn_core.train import fit
from tests.support.training import SETTINGS, TIMES, comparable, tiny_dataset

EPOCHS = 4
TRIAL = SETTINGS | {"train.epochs": EPOCHS, "train.ema_decay": 0.9, "train.flip": True, "train.schedule": "cosine"}

# Trains in a process of its own, and says which step of which epoch it is at.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from cpcnn_core.config import TrialConfig
from cpcnn_core.train import fit
from tests.support.training import tiny_dataset

torch.set_num_threads(1)
folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
for epoch in fit(
    TrialConfig.from_flat(settings),
    tiny_dataset(),
    folder,
    on_progress=lambda stage, done, _: print(stage, done, flush=True),
):
    print("epoch", epoch.epoch, flush=True)
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder), json.dumps(TRIAL)], check=True, capture_output=True)
    return _history(folder)


@pytest.mark.parametrize("last_line", ["epoch 2", "trained 32"], ids=["between epochs", "within an epoch"])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, uninterrupted: list[dict[str, Any]], last_line: str
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(TRIAL)]
    epochs_seen = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            epochs_seen += line.startswith("epoch")
            if epochs_seen == 2 and line.strip() == last_line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert len(_history(tmp_path)) == 2

    subprocess.run(command, check=True, capture_output=True)
    assert _history(tmp_path) == uninterrupted
    assert not list(tmp_path.glob(".*.tmp")), "litter of the killed process"


def test_killed_at_any_moment_every_file_that_counts_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(TRIAL | {"train.epochs": 200})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "epoch 3":
                break
        time.sleep(int.from_bytes(os.urandom(2)) / 2**16)  # anywhere: within a step, an evaluation or a write
        process.kill()
    config = TrialConfig.from_flat(TRIAL | {"train.epochs": 200})
    history = CheckpointFolder(tmp_path, config).history
    next_epoch = next(fit(config, tiny_dataset(), tmp_path, reported=len(history)))
    assert len(history) >= 3
    assert next_epoch.epoch == len(history) + 1


def _history(folder: Path) -> list[dict[str, Any]]:
    found = [comparable(epoch) for epoch in CheckpointFolder(folder, TrialConfig.from_flat(TRIAL)).history]
    assert all(set(TIMES).isdisjoint(epoch) for epoch in found)
    return found
