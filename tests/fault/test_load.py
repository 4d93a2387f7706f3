"""As many trials at once as memory holds, each in a process of its own, under a driver that is killed.

`CPCNN_AT_ONCE=40 pytest tests/fault/test_load.py`: Ray is told of so many cores. Each process takes some 0.35 GB.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault.test_processes import EPOCHS, PATIENCE, Sweep
from tests.support import fakes

AT_ONCE = int(os.environ.get("CPCNN_AT_ONCE", "0"))
SPACE = f"""
from search_spaces import floats, ints
space = {{"model.nr_filters": ints(16, 256), "train.lr": floats(1e-4, 1e-2, log=True)}}
settings = {{"train.epochs": {EPOCHS}}}
resources = {{"cpus": 1}}
scheduler = "none"
"""
CLUSTER = """
import ray, sys
address = ray.init(num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False).address_info["gcs_address"]
print(address, flush=True)
sys.stdin.read()
"""

pytestmark = [
    pytest.mark.skipif(AT_ONCE == 0, reason="CPCNN_AT_ONCE says how many trials to run at once"),
    pytest.mark.timeout(3600),
    pytest.mark.xdist_group("ray"),
]


@contextmanager
def cluster(cores: int) -> Iterator[str]:
    """A cluster of this machine alone that takes itself for a larger one; its address."""
    command = [sys.executable, "-c", CLUSTER, str(cores)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield next(line for line in process.stdout if ":" in line).strip()
        assert process.stdin is not None
        process.stdin.close()
        process.wait(PATIENCE)


def running(sweep: Sweep) -> int:
    """How many trials have a row that says RUNNING."""
    return sum(row["state"] == "RUNNING" for row in sweep.store.trials().rows())


def test_many_trials_at_once_under_a_driver_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(tmp_path, SPACE, 2 * AT_ONCE)
    monkeypatch.setenv(fakes.SECONDS, str(AT_ONCE))  # on two cores a process starts in four seconds, all of them late
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with cluster(AT_ONCE) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with sweep.running(AT_ONCE) as driver:
            sweep.wait(lambda: running(sweep) >= AT_ONCE or driver.poll() is not None)
            assert driver.poll() is None, driver.communicate()[0]
            sweep.wait_for_epochs(AT_ONCE)
            at_once = running(sweep)
            driver.kill()
            driver.communicate(timeout=PATIENCE)
        began = time.monotonic()
        code, output = sweep.run(AT_ONCE)
        assert code == 0, output
        seconds = time.monotonic() - began
    latest = sweep.store.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * 2 * AT_ONCE
    epochs = Counter((row["trial_id"], row["epoch"]) for row in sweep.store.epochs().rows())
    assert epochs == {(row["trial_id"], epoch): 1 for row in latest for epoch in range(1, EPOCHS + 1)}
    trained = len(sweep.trained())
    assert at_once == AT_ONCE
    print(f"{at_once} at once; {trained - len(epochs)} epochs of {len(epochs)} twice; the rest took {seconds:.0f} s")  # noqa: T201
