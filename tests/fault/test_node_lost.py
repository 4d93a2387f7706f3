"""A node that goes away with the trial that it runs: three of them on this machine, one raylet killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from orchestrator.records.store import Store
from orchestrator.tune.tuning import is_node_lost
from tests.support import fakes
from tests.support.rays import two_nodes

TRIALS, EPOCHS, PATIENCE = 4, 4, 200

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]
SPACE = f"""
from search_spaces import ints
space = {{"model.nr_filters": ints(16, 40)}}
settings = {{"train.epochs": {EPOCHS}}}
scheduler = "none"
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    with two_nodes(_system_config=quick) as made:
        yield made


def test_the_trial_of_a_lost_node_goes_on_elsewhere_from_its_checkpoint(tmp_path: Path, cluster: Cluster) -> None:
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    store = Store(tmp_path / "fake")
    trained = store.folder / "trained.txt"

    def lines() -> list[list[str]]:
        return [line.split() for line in trained.read_text().splitlines()] if trained.exists() else []

    environment = os.environ | {fakes.SECONDS: "1", "RAY_ADDRESS": cluster.address, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(tmp_path), str(TRIALS)]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with driver:
        deadline = time.monotonic() + PATIENCE
        while not any(epoch == "2" for _, epoch, *_ in lines()):
            assert time.monotonic() < deadline
            assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
            time.sleep(0.05)
        lost, _, process, _ = next(line for line in lines() if line[1] == "2")
        above = {parent.pid for parent in psutil.Process(int(process)).parents()}
        [node] = [node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid in above]
        cluster.remove_node(node, allow_graceful=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)  # it would notice by itself, some seconds late
        output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output

    latest = store.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * TRIALS
    epochs = Counter((row["trial_id"], row["epoch"]) for row in store.epochs().rows())
    assert epochs == {(row["trial_id"], number): 1 for row in latest for number in range(1, EPOCHS + 1)}
    # from its checkpoint: no epoch that had been finished was trained again, but for one that the kill cut short
    again = Counter((trial, number) for trial, number, *_ in lines())
    assert again.total() <= TRIALS * EPOCHS + 2
    attempts = store.attempts_of(lost)
    assert [row["state"] for row in attempts] == ["INTERRUPTED", "COMPLETE"]
    assert is_node_lost(attempts[0]["stopped"]), attempts[0]["stopped"]


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("The actor died because its node has died. Node Id: 1d38", True),
        (
            "The actor 1d38 is unavailable: The actor is temporarily unavailable: RpcError: Connection reset by peer",
            True,
        ),
        ("Worker unexpectedly exits with a connection error code 2. End of file.", False),
    ],
)
def test_a_machine_that_went_away_is_told_from_a_process_that_died(said: str, lost: bool) -> None:
    assert is_node_lost(f"the trial's process died: {said}") == lost
