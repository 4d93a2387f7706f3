"""A sweep where little is as it should be: home, temporary folder, cores, and nobody who reads what it says."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from tests.fault.test_disk import NAMESPACE
from tests.fault.test_processes import EPOCHS, PATIENCE, SPACE

TRIALS = 3

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray")]


def may_mount() -> bool:
    return sys.platform == "linux" and subprocess.run([*NAMESPACE, "true"], check=False).returncode == 0


def test_a_sweep_runs_with_a_read_only_home_a_temporary_folder_too_deep_and_one_core_and_without_a_reader(
    tmp_path: Path,
) -> None:
    space, home, deep = tmp_path / "space.py", tmp_path / "home", tmp_path / ("deep" * 20)
    space.write_text(SPACE)
    deep.mkdir()
    core = min(os.sched_getaffinity(0))
    sweep = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(tmp_path), str(TRIALS)]
    command = ["taskset", "--cpu-list", str(core), *sweep]
    if may_mount():
        home.mkdir()
        command = [*NAMESPACE, "bash", "-c", 'mount -t tmpfs -o ro none "$0"; exec "$@"', str(home), *command]
    else:
        home.touch()  # in the place of the folder
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(deep), "CPCNN_FAKE_SECONDS": "0.2"}
    environment.pop("CPCNN_CACHE", None)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stderr is not None
            first = driver.stdout.readline()
            driver.stdout.close()  # as `| head -1` does
            said = driver.stderr.read()
            assert driver.wait(PATIENCE) == 0, first + said
        finally:
            driver.kill()
    assert first == "[0/3] Loading the data ...\n"
    assert said == ""
    store = Store(tmp_path / "fake")
    latest = store.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * TRIALS
    epochs = Counter((row["trial_id"], row["epoch"]) for row in store.epochs().rows())
    assert epochs == {(row["trial_id"], epoch): 1 for row in latest for epoch in range(1, EPOCHS + 1)}
    assert [run.hardware["cpus"] for run in (store.read_sweep() or SweepRecord()).runs] == [1]
    spans = sorted((row["started"], row["ended"]) for row in latest)
    assert all(ended <= started for (_, ended), (started, _) in itertools.pairwise(spans))  # one at a time
    assert not list(home.iterdir() if home.is_dir() else [])
