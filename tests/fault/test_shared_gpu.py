"""A sweep whose trials share a GPU, killed and run again: MPS's daemon comes and goes with it. Both are stand-ins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from tests.fault.test_processes import PATIENCE
from tests.support import fakes
from tests.support.mps import StandIn, stand_in

__all__ = ["stand_in"]

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray")]

TRIALS = 3
SPACE = f"""
from search_spaces import floats
space = {{"train.lr": floats(1e-4, 1e-2, log=True)}}
settings = {{"train.epochs": 4, "model.nr_filters": {fakes.LOSES_GPU_ONCE}}}
scheduler = "none"
resources = {{"gpus": 0.4}}
"""
DRIVER = """
import sys
from functools import partial
from orchestrator.tune import local_ray
from tests.support import fake_sweep

def start():
    import ray
    init, ray.init = ray.init, partial(ray.init, num_gpus=1)
    try:
        own()
    finally:
        ray.init = init

own, local_ray._start = local_ray._start, start
sys.exit(fake_sweep.main(*sys.argv[1:]))
"""
# In every process that Python starts: there is no GPU to try the daemon with.
STARTS = """
from orchestrator.machines import mps
mps.use_gpu = lambda environment: None
"""


def test_the_daemon_of_a_killed_sweep_ends_and_trials_that_lose_the_gpu_together_end_apart(
    stand_in: StandIn, tmp_path: Path
) -> None:
    space, site = tmp_path / "space.py", tmp_path / "site"
    space.write_text(SPACE)
    site.mkdir()
    (site / "sitecustomize.py").write_text(STARTS)
    command = [sys.executable, "-c", DRIVER, str(space), str(tmp_path), str(TRIALS)]
    environment = os.environ | {
        "PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}:{Path.cwd()}",
        fakes.SECONDS: "2",
    }
    log = tmp_path / "driver.log"
    with log.open("w") as stream:
        killed = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        try:
            assert stand_in.awaited(["start all"], seconds=PATIENCE / 3) == ["start all"], log.read_text()
        finally:
            killed.send_signal(signal.SIGKILL)
            killed.wait()
    assert stand_in.awaited(["start all", "quit"], seconds=PATIENCE / 6) == ["start all", "quit"]

    done = subprocess.run(
        command, env=environment | {fakes.SECONDS: "0"}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = stand_in.ended(seconds=PATIENCE / 6)
    # Where one process ends long before the next one comes, it ends in between.
    assert told == ["start all", "quit"] * (len(told) // 2)
    assert len(told) >= 4
    assert "resources.gpus is 0.4, of which 2 fit on a GPU" in " ".join(done.stdout.split())
    store = Store(tmp_path / "fake")
    rows = store.latest_attempts().rows()
    assert [row["state"] for row in rows] == ["COMPLETE"] * TRIALS
    lost = [row for row in store.trials().rows() if "CUDA error" in str(row["stopped"])]
    assert [(row["state"], row["gpus"]) for row in lost] == [("INTERRUPTED", 0.5)] * TRIALS
    assert all(
        "trials that share a GPU are lost together, so it runs alone from now on" in row["stopped"] for row in lost
    )
    assert [row["gpus"] for row in rows] == [1.0] * TRIALS
    last = (store.read_sweep() or SweepRecord()).runs[-1]
    assert last.sharing == {"trials_per_gpu": 2, "without_mps": []}
