"""Commands under an environment that launchers left, and as processes of one rendezvous."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cpcnn_core import environment
from orchestrator import trial
from orchestrator.records.store import Store
from orchestrator.training.replaying import differences
from tests.support.launchers import known

SPACE = '''"""Does the environment matter? Cost: seconds."""
from search_spaces import choice
space = {"model.fusion": choice("stem_add")}
settings = {
    "data.train_fraction": 0.05, "model.nr_filters": 4, "model.nr_logistic_mix": 1, "train.epochs": 2,
    "train.accumulate": 2, "eval.train_images": 0, "eval.batch_size": 1000,
}
trials = 1
objective = "val_bpd"
resources = {"cpus": 1}
'''
HOSTILE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
}
UNRELATED = {name: "4" for name in known() if name not in environment.RENDEZVOUS}

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray beside")]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("space") / "tiny.py"
    file.write_text(SPACE)
    return file


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, space: Path) -> list[dict[str, Any]]:
    """The epochs of the trial under none of the variables."""
    results = tmp_path_factory.mktemp("alone")
    output(start("orchestrator.trial", space, results, {}))
    return epochs(results)


def start(
    module: str,
    space: Path,
    results: Path,
    variables: Mapping[str, str],
    *more: str,
    before: Sequence[str] = (sys.executable,),
) -> subprocess.Popen[str]:
    command = [*before, "-m", module, str(space), "--results", str(results), "--name", "here", *more]
    clean = environment.without_launchers(os.environ) | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env={**clean, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def epochs(results: Path) -> list[dict[str, Any]]:
    store = Store(results / "here")
    (row,) = store.latest_attempts().rows()
    assert row["state"] == "COMPLETE", row["error"]
    return [dict(held) for held in store.epochs_of(str(row["trial_id"]))]


def output(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def test_trial_and_sweep_are_what_they_are_under_none_of_the_variables(
    tmp_path: Path, space: Path, alone: list[dict[str, Any]]
) -> None:
    output(start("orchestrator.trial", space, tmp_path / "trial", UNRELATED | HOSTILE))
    rendezvous = {"WORLD_SIZE": "2", "RANK": "0"}
    output(start("orchestrator.sweep", space, tmp_path / "sweep", UNRELATED | HOSTILE | rendezvous))
    assert len(alone) == 2
    assert differences(alone, epochs(tmp_path / "trial")) == []
    assert differences(alone, epochs(tmp_path / "sweep")) == []


def test_processes_of_a_rendezvous_train_one_trial_together(
    tmp_path: Path, space: Path, alone: list[dict[str, Any]]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        whole = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    two = [
        start("orchestrator.trial", space, tmp_path / "two", HOSTILE | whole | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    first, second = (output(process) for process in two)
    assert "val_bpd" in first
    assert second == ""
    again = [
        start("orchestrator.trial", space, tmp_path / "two", whole | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    assert "All epochs were there already" in output(again[0])
    assert output(again[1]) == ""

    for one, both in zip(alone, epochs(tmp_path / "two"), strict=True):
        assert both["micro_batch"] < one["micro_batch"]  # each process its share
        for name in ("train_loss", "val_bpd"):
            assert both[name] == pytest.approx(one[name], abs=1e-3)


_ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2")


@pytest.mark.parametrize(
    ("before", "more"),
    [((sys.executable,), ("--processes", "2")), (_ACCELERATE, ())],
    ids=["--processes", "accelerate launch"],
)
def test_one_command_starts_two_processes_of_a_trial(
    tmp_path: Path, space: Path, alone: list[dict[str, Any]], before: Sequence[str], more: Sequence[str]
) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    output(start("orchestrator.trial", space, tmp_path / "two", hidden, *more, before=before))
    for one, both in zip(alone, epochs(tmp_path / "two"), strict=True):
        assert 2 * both["micro_batch"] == one["micro_batch"]  # each process its share
        assert both["val_bpd"] == pytest.approx(one["val_bpd"], abs=1e-3)


def test_processes_are_started_by_one_of_two_and_not_by_both(tmp_path: Path, space: Path) -> None:
    arguments = [str(space), "--results", str(tmp_path / "results"), "--processes", "2"]
    whole = {"MASTER_ADDR": "x", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    refused = CliRunner().invoke(trial.app, arguments, env=whole)
    assert refused.exit_code == 2
    assert "--processes 2: a launcher starts this trial's processes already" in refused.output
    of_accelerate = {"MASTER_ADDR": "x", "MASTER_PORT": "1", "ACCELERATE_MIXED_PRECISION": "no"}
    refused = CliRunner().invoke(trial.app, arguments[:-2], env=of_accelerate)
    assert refused.exit_code == 2
    assert "how many of this machine it was asked for cannot be told; give it --num_processes N" in refused.output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("command", [[], ["replay", "0123456789ab"]])
def test_half_a_rendezvous_is_refused_before_anything_is_made(tmp_path: Path, space: Path, command: list[str]) -> None:
    arguments = [*(command or [str(space)]), "--results", str(tmp_path / "results")]
    refused = CliRunner().invoke(trial.app, arguments, env={"WORLD_SIZE": "2", "RANK": "0"})
    assert refused.exit_code == 2
    said = "environment: WORLD_SIZE and RANK without MASTER_ADDR and MASTER_PORT and LOCAL_RANK is half a rendezvous"
    assert said in refused.output
    assert not (tmp_path / "results").exists()


def test_a_replay_is_no_process_of_several(tmp_path: Path) -> None:
    whole = {"MASTER_ADDR": "x", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    refused = CliRunner().invoke(trial.app, ["replay", "0123456789ab", "--results", str(tmp_path)], env=whole)
    assert refused.exit_code == 2
    assert "WORLD_SIZE is 2; a replay runs in one process" in refused.output
