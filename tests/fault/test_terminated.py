"""A driver that is told to end, as `kill`, `ray job stop` and Slurm do: it stops politely, Ray's own handler or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.records.store import Store
from tests.support import fakes, odd

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]

SPACE = """
from search_spaces import ints
space = {"model.nr_filters": ints(16, 40)}
settings = {"train.epochs": 1000}
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_sweep_between_two_epochs(tmp_path: Path, number: signal.Signals) -> None:
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    environment = os.environ | {fakes.SECONDS: "0.2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(tmp_path / odd.ALL), "1", odd.ALL]
    store = Store(tmp_path / odd.ALL / odd.ALL)
    trained = store.folder / "trained.txt"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        deadline = time.monotonic() + 200
        while not trained.exists():
            assert time.monotonic() < deadline
            assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
            time.sleep(0.05)
        driver.send_signal(number)
        output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 130, output
    assert "interrupted=True" in output
    [row] = store.trials().rows()
    told = f"the sweep ends: {number.name}: epoch {row['epochs']} is finished"
    is_taken = number == signal.SIGTERM
    state, stopped = ("PREEMPTED", told) if is_taken else ("INTERRUPTED", number.name)
    assert output.count(number.name) == output.count(f"({stopped})") == 1  # ours, and not Ray's report of a crash
    assert (row["state"], row["error"], row["stopped"]) == (state, None, stopped)
