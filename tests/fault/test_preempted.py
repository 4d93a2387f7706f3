"""Processes that are told that they, or their machine, are to be taken away: real ones, at moments of chance."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray._raylet import GcsClient  # type: ignore[attr-defined] # compiled, without types
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from orchestrator.process import notice
from orchestrator.records.store import Row, Store
from tests.support import fakes
from tests.support.rays import two_nodes
from tests.support.training import TIMES

PATIENCE, EPOCHS = 300, 16  # so many that a trial still runs when it has heard of its end
GATE = "both_run"
NOTICES = int(os.environ.get("CPCNN_NOTICES", "2"))  # of the trial that is run by hand
SPACE = """
from search_spaces import ints
space = {{"model.nr_filters": ints({filters})}}
settings = {{"model.nr_logistic_mix": 1, "train.batch_size": {batch}, "train.epochs": {epochs}, "train.ema_decay": 0.9}}
scheduler = "none"
resources = {{"cpus": 1}}
"""

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray")]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CPCNN_SPOT": "none"}


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class ByHand:
    """A trial in a process of its own."""

    def __init__(self, results: Path) -> None:
        results.mkdir()
        space = results / "space.py"
        space.write_text(SPACE.format(filters="4, 8", batch=20, epochs=3))
        self.store = Store(results / "space-trials")
        self.command = [sys.executable, "-m", "orchestrator.trial", str(space), "--results", str(results), "--plain"]
        self.command += ["--set", "model.nr_filters=4"]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self) -> None:
        with self.start() as process:
            output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output

    @property
    def attempts(self) -> list[Row]:
        return self.store.trials().rows() if self.store.trials_folder.is_dir() else []

    def epochs(self) -> list[dict[str, object]]:
        apart = {*TIMES, "attempt"}
        return [{k: v for k, v in row.items() if k not in apart} for row in self.store.epochs().rows()]

    def index(self) -> dict[str, Any]:
        [index] = (self.store.folder / "checkpoints").glob("*/index.json")
        found: dict[str, Any] = json.loads(index.read_text())
        return found


def test_a_trial_that_is_told_at_moments_of_chance_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    told, left_alone, rng = ByHand(tmp_path / "told"), ByHand(tmp_path / "left-alone"), random.Random(19)
    left_alone.run()
    within = 0
    for number in range(NOTICES):
        with told.start() as process:
            wait(lambda: len(told.attempts) == number + 1 or process.poll() is not None)  # noqa: B023
            time.sleep(rng.uniform(0, 1.5))
            given = time.time()
            process.send_signal(rng.choice(notice.SIGNALS))
            output, _ = process.communicate(timeout=PATIENCE)
        row = told.attempts[number]
        if process.returncode == 0:  # its last epoch was being evaluated; a slower machine gets further
            break
        assert process.returncode == 130, output
        assert row["state"] == "PREEMPTED"
        newest = max(told.index()["states"])
        saved = (told.store.folder / "checkpoints" / str(row["trial_id"]) / newest).stat().st_mtime
        assert saved - given < notice.SECONDS
        finished = [epoch["step"] for epoch in told.index()["history"]]
        within += int(newest.removeprefix("state-").removesuffix(".pt")) not in finished
    told.run()
    assert within, "no notice came within an epoch"
    assert told.epochs() == left_alone.epochs()
    assert told.attempts[-1]["state"] == "COMPLETE"


def test_a_second_signal_ends_a_trial_at_once(tmp_path: Path) -> None:
    trial = ByHand(tmp_path / "results")
    settings = "import sys, time; from orchestrator.training import by_hand, trainer; from tests.support import fakes;"
    settings += " trainer.train = fakes.train; from orchestrator import trial; sys.argv = sys.argv[1:]; trial.app()"
    command = [sys.executable, "-c", settings, *trial.command[2:]]
    slow = os.environ | ENVIRONMENT | {fakes.SECONDS: "60"}
    with subprocess.Popen(command, env=slow, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        wait(lambda: trial.attempts or process.poll() is not None)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        assert process.poll() is None  # it waits for the end of the epoch
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - asked < 20
    assert process.returncode == 130, output
    [row] = trial.attempts
    assert (row["state"], row["stopped"]) == ("INTERRUPTED", "SIGTERM")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Trials have the environment of the nodes, not of the driver."""
    monkeypatch.setenv(fakes.SECONDS, "0.5")
    monkeypatch.setenv(fakes.GATE, str(tmp_path / GATE))
    with two_nodes() as made:
        yield made


def test_trials_of_a_sweep_go_on_elsewhere_when_their_process_or_node_is_taken_away(
    tmp_path: Path, cluster: Cluster
) -> None:
    space, store, trials = tmp_path / "space.py", Store(tmp_path / "fake"), 2
    space.write_text(SPACE.format(filters="16, 40", batch=20, epochs=EPOCHS))
    trained = store.folder / "trained.txt"

    def lines() -> list[list[str]]:
        return [line.split() for line in trained.read_text().splitlines()] if trained.exists() else []

    environment = os.environ | ENVIRONMENT | {"RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(tmp_path), str(trials)]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with driver:
        # Two trials that are in the middle of their second epoch.
        wait(lambda: len(lines()) == 2 or driver.poll() is not None)
        second, _, other, _ = lines()[-1]
        first, _, process, _ = next(line for line in reversed(lines()) if line[0] != second)
        os.kill(int(process), signal.SIGTERM)
        above = {parent.pid for parent in psutil.Process(int(other)).parents()}
        [node] = [node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid in above]
        # What `ray drain-node` does, without the seconds that it takes to start.
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until = round((time.time() + 600) * 1000)
        assert GcsClient(address=cluster.address).drain_node(node.node_id, reason, "a test", until)[0]
        (tmp_path / GATE).touch()
        output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    latest = store.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * trials
    ends = [[(row["state"], row["stopped"]) for row in store.attempts_of(trial)] for trial in (first, second)]
    assert [(state, str(said).split(":")[0]) for state, said in (ends[0][0], ends[1][0])] == [
        ("PREEMPTED", "SIGTERM"),
        ("PREEMPTED", f"Ray drains node {node.node_id}"),
    ]
    epochs = Counter((row["trial_id"], row["epoch"]) for row in store.epochs().rows())
    assert epochs == {(row["trial_id"], number): 1 for row in latest for number in range(1, EPOCHS + 1)}
    assert Counter(map(tuple, ((trial, epoch) for trial, epoch, *_ in lines()))).total() == len(epochs)


def test_a_sweep_that_is_told_lets_its_trials_save_their_state_first(tmp_path: Path) -> None:
    space, store = tmp_path / "space.py", Store(tmp_path / "results" / "space")
    space.write_text(SPACE.format(filters="4, 8", batch=20, epochs=500))
    command = [sys.executable, "-m", "orchestrator.sweep", str(space), "--results", str(tmp_path / "results")]
    command += ["--trials", "1", "--plain"]
    environment = os.environ | ENVIRONMENT
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with driver:
        wait(lambda: (store.epochs_folder.is_dir() and store.epochs().rows()) or driver.poll() is not None)
        driver.send_signal(signal.SIGUSR1)
        output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130, output
    [row] = store.trials().rows()
    assert row["state"] == "PREEMPTED"
    assert str(row["stopped"]).startswith("the sweep ends: SIGUSR1: the training state is saved in epoch ")
    [index] = (store.folder / "checkpoints").glob("*/index.json")
    content = json.loads(index.read_text())
    assert len(content["states"]) == 2
    steps = sorted(int(name.removeprefix("state-").removesuffix(".pt")) for name in content["states"])
    assert steps[-1] > content["history"][-1]["step"], "the state is of an epoch's middle"


def test_a_sweep_that_is_told_waits_for_a_trial_whose_state_takes_long(tmp_path: Path) -> None:
    space, store = tmp_path / "space.py", Store(tmp_path / "fake")
    space.write_text(SPACE.format(filters="16, 40", batch=20, epochs=EPOCHS))
    trained = store.folder / "trained.txt"
    epoch = notice.SECONDS + 2  # a trial hears of it within some seconds, and then may take as long as is promised
    environment = os.environ | ENVIRONMENT | {fakes.SECONDS: str(epoch)}
    command = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(tmp_path), "1"]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with driver:
        wait(lambda: trained.exists() or driver.poll() is not None)
        time.sleep(0.5)  # the second epoch has begun
        for _ in range(2):  # one to the driver, one to its group
            driver.send_signal(signal.SIGTERM)
        output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130, output
    [row] = store.trials().rows()
    assert (row["state"], row["stopped"]) == ("PREEMPTED", "the sweep ends: SIGTERM: epoch 2 is finished")
