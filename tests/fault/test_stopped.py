"""One trial of a running sweep is stopped from another process: it ends at once, and the others go on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.records.store import Store
from tests.support import fakes

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]

SPACE = """
from search_spaces import choice
space = {"train.epochs": choice(1000, 4)}
sampler, scheduler = "grid", "none"
"""


def test_it_ends_at_once_and_is_not_taken_up_again(tmp_path: Path) -> None:
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    environment = os.environ | {fakes.SECONDS: "0.2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(tmp_path), "2"]
    store = Store(tmp_path / "fake")
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        endless = _running(store, driver)
        ask = [sys.executable, "-m", "orchestrator.cpcnn", "stop", endless[:6], "--results", str(tmp_path)]
        stopped = subprocess.run(ask, capture_output=True, text=True, timeout=200, check=False)
        output, _ = driver.communicate(timeout=200)
    assert stopped.returncode == 0, stopped.stderr
    assert f"Trial {endless} is STOPPED after " in stopped.stdout
    assert driver.returncode == 0, output
    assert f"trial {endless} STOPPED: best " in output
    states = {row["trial_id"]: row["state"] for row in store.latest_attempts().rows()}
    assert sorted(states.values()) == ["COMPLETE", "STOPPED"]
    assert states[endless] == "STOPPED"
    [row] = store.attempts_of(endless)
    assert row["stopped"] == "the user asked for it with `stop`"
    assert row["epochs"] == len(store.epochs_of(endless)) >= 1

    before = (store.folder / "trained.txt").read_text()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    assert "ran=False" in again.stdout
    assert (store.folder / "trained.txt").read_text() == before


def _running(store: Store, driver: subprocess.Popen[str]) -> str:
    """The trial that has too many epochs to end by itself, once it has finished one."""
    deadline = time.monotonic() + 200
    while True:
        assert time.monotonic() < deadline
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        for row in store.latest_attempts().rows() if store.trials_folder.is_dir() else ():
            if row["train.epochs"] == 1000 and store.epochs_of(str(row["trial_id"])):
                return str(row["trial_id"])
        time.sleep(0.1)
