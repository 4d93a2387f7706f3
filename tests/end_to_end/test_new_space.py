"""A space file that `cpcnn new-space` wrote is searched as it is, by the command that it names."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records.store import Store

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray beside")]


def test_it_runs_as_it_is(tmp_path: Path) -> None:
    def typed(*arguments: str) -> list[str]:
        command = [sys.executable, "-m", "orchestrator.cpcnn", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    [*_, named] = typed("new-space", "mine.py")
    arguments = ["sweep", "mine.py"]
    assert shlex.split(named)[-4:] == ["-m", "orchestrator.cpcnn", *arguments]  # behind `uv run`, where that is used
    said = typed(*arguments, "--trials", "1")  # as it is; fewer of them, for a test
    assert "the best 1 of 1 trials, by val_acc" in {line.strip() for line in said}
    [row] = Store(tmp_path / "results" / "mine").latest_attempts().rows()
    assert (row["state"], row["epochs"]) == ("COMPLETE", 2)

    # what goes on before the first epoch, as a log has it
    before = said[: next(index for index, line in enumerate(said) if " epoch 1/" in line)]
    assert [line.removeprefix("[0/1] ") for line in before if line.endswith(" ...")] == [
        "Reading mine ...",
        "Importing Optuna and PyTorch ...",
        "Loading the data ...",
        "Checking data and configurations ...",
        "Starting Ray ...",
        "Starting a process for each trial that runs at once; it imports PyTorch ...",
    ]
    assert any(line.startswith(f"[0/1] trial {row['trial_id']} runs: ") for line in before)
