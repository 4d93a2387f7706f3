"""A sweep of real processes that are stopped, killed and refused. Training is simulated, Ray is not."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from orchestrator.records.store import Store
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import SweepError
from tests.support import fakes

TRIALS, EPOCHS = 6, 4
PATIENCE = 600  # seconds; Ray starts in five on an idle machine, and in a minute or more on a busy one

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray")]
SPACE = f"""
from search_spaces import choice, floats, ints
space = {{"model.nr_filters": ints(16, 40), "train.lr": floats(1e-4, 1e-2, log=True)}}
settings = {{"train.epochs": {EPOCHS}}}
scheduler = "none"
"""
WRONG = f"""
from search_spaces import choice
space = {{"model.nr_filters": choice({fakes.RAISES}, {fakes.DIES}, {fakes.DIES_ONCE}, {fakes.HANGS_ONCE}, 16)}}
settings = {{"train.epochs": 3}}
scheduler = {{"name": "promote", "grace_epochs": 2}}
stall_minutes = 0.1
"""


class Sweep:
    """A sweep that is run in processes of its own."""

    def __init__(self, folder: Path, space: str, trials: int) -> None:
        self.store = Store(folder / "fake")
        self._space = folder / "space.py"
        self._space.write_text(space)
        self._command = [sys.executable, "-m", "tests.support.fake_sweep", str(self._space), str(folder), str(trials)]

    @contextmanager
    def running(self, seconds: float) -> Iterator[subprocess.Popen[str]]:
        """Start the driver, an epoch taking `seconds`."""
        environment = os.environ | {fakes.SECONDS: str(seconds), "OMP_NUM_THREADS": "1"}
        driver = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        with driver:
            try:
                yield driver
            finally:
                if driver.poll() is None:
                    driver.kill()
                    print(driver.communicate()[0])  # noqa: T201 - shown where the test fails

    def run(self, seconds: float = 0) -> tuple[int, str]:
        """Run the driver to its end."""
        with self.running(seconds) as driver:
            output, _ = driver.communicate(timeout=PATIENCE)
        return driver.returncode, output

    def trained(self) -> list[list[str]]:
        """Trial, epoch, process and threads of every epoch that was gone through."""
        file = self.store.folder / "trained.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)

    def wait_for_epochs(self, count: int) -> None:
        """Wait until so many epochs have their row."""
        self.wait(lambda: len(self.store.epochs().rows()) >= count)


def test_a_sweep_stopped_killed_and_robbed_of_workers_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, SPACE, TRIALS)

    with sweep.running(0.3) as driver:
        sweep.wait_for_epochs(3)
        # a second driver is refused with the first one's pid, and does no harm
        with pytest.raises(SweepError, match=f"another driver runs this sweep: pid {driver.pid} on "):
            holding(sweep.store).__enter__()
        # Ctrl-C
        asked = time.monotonic()
        driver.send_signal(signal.SIGINT)
        output, _ = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == 130, output
        assert "interrupted=True" in output
        assert "Traceback" not in output
        assert time.monotonic() - asked < 30  # a second or two on an idle machine
    rows = sweep.store.latest_attempts().rows()
    assert {(row["state"], row["stopped"]) for row in rows} <= {("INTERRUPTED", "Ctrl-C"), ("COMPLETE", None)}
    assert "INTERRUPTED" in {row["state"] for row in rows}

    before = len(sweep.store.epochs().rows())
    with sweep.running(0.3) as driver:
        sweep.wait_for_epochs(before + 2)
        driver.kill()  # SIGKILL: nobody tells Ray, whose processes have to notice
        driver.communicate(timeout=PATIENCE)

    before = len(sweep.store.epochs().rows())
    earlier = {process for _, _, process, _ in sweep.trained()}
    with sweep.running(0.3) as driver:
        sweep.wait_for_epochs(before + 2)

        def killed_between_two_trials() -> bool:  # the worst moment
            for _, epoch, process, _ in sweep.trained()[-1:]:
                if epoch == str(EPOCHS) and process not in earlier:
                    with suppress(ProcessLookupError):  # one that the killed driver left behind, and is gone by now
                        os.kill(int(process), signal.SIGKILL)
                        return True
            return False

        sweep.wait(killed_between_two_trials)
        output, _ = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == 0, output

    latest = sweep.store.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * TRIALS
    epochs = Counter((row["trial_id"], row["epoch"]) for row in sweep.store.epochs().rows())
    assert epochs == {(row["trial_id"], epoch): 1 for row in latest for epoch in range(1, EPOCHS + 1)}
    trained = Counter((trial, epoch) for trial, epoch, *_ in sweep.trained())
    assert len(trained) == len(epochs)
    assert trained.total() <= len(epochs) + 6  # each went on from its checkpoint; two epochs at most a time are lost
    # Orphans are gone: the checkpoints of a trial had one writer at a time, and each trial its share of the cores.
    assert {threads for *_, threads in sweep.trained()} == {"1"}

    code, output = sweep.run()
    assert code == 0
    assert "ran=False" in output


KILLS = int(os.environ.get("CPCNN_KILLS", "0"))  # 20 take some minutes; one kill is part of the test above


def _goes_on(sweep: Sweep, driver: subprocess.Popen[str], trained: int) -> bool:
    """Whether more than so many epochs are trained, or the driver has ended."""
    return len(sweep.trained()) > trained or driver.poll() is not None


@pytest.mark.skipif(KILLS == 0, reason="CPCNN_KILLS says how often to kill the driver at a random moment")
@pytest.mark.timeout(3600)
def test_a_sweep_whose_driver_is_killed_at_random_moments_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    trials = 6 * KILLS  # some eight epochs are trained before each kill: there has to be work left for the last one
    sweep = Sweep(tmp_path, SPACE.replace('"none"', '"promote"'), trials)
    rng, killed = random.Random(0), 0
    while killed < KILLS:
        before = len(sweep.trained())
        with sweep.running(0.2) as driver:
            # Some die while they start, before Ray is up, most while trials run.
            if rng.random() < 0.8:
                sweep.wait(partial(_goes_on, sweep, driver, before))
            time.sleep(rng.uniform(0, 1.5))
            assert driver.poll() is None, f"it ended by itself, after {killed} kills: {driver.communicate()[0]}"
            driver.kill()
            driver.communicate(timeout=PATIENCE)
            killed += 1
    code, output = sweep.run(0.02)
    assert code == 0, output

    latest = {row["trial_id"]: row for row in sweep.store.latest_attempts().rows()}
    assert len(latest) == trials
    assert {row["state"] for row in latest.values()} == {"COMPLETE", "PRUNED"}
    assert "RUNNING" not in {row["state"] for row in sweep.store.trials().rows()}
    epochs = Counter((row["trial_id"], row["epoch"]) for row in sweep.store.epochs().rows())
    assert epochs == {(trial, epoch): 1 for trial, row in latest.items() for epoch in range(1, row["epochs"] + 1)}
    assert {row["epochs"] for row in latest.values() if row["state"] == "COMPLETE"} == {EPOCHS}
    assert {row["epochs"] for row in latest.values() if row["state"] == "PRUNED"} == {3}  # the only rung
    assert sum(row["state"] == "COMPLETE" for row in latest.values()) >= trials // 3
    print(f"killed {killed} times; {len(sweep.trained()) - len(epochs)} epochs trained twice")  # noqa: T201
    code, output = sweep.run()
    assert code == 0
    assert "ran=False" in output


def test_a_trial_that_goes_wrong_is_failed_with_its_reason_and_the_sweep_goes_on(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, WRONG, trials=5)
    code, output = sweep.run()
    assert code == 0, output
    rows = {row["model.nr_filters"]: row for row in sweep.store.latest_attempts().rows()}
    states = {filters: (row["state"], row["attempt"]) for filters, row in rows.items()}
    assert states[fakes.RAISES] == ("FAILED", 1)
    assert states[fakes.DIES] == ("FAILED", 3)
    deaths = [row["state"] for row in sweep.store.attempts_of(rows[fakes.DIES]["trial_id"])]
    assert deaths == ["INTERRUPTED", "INTERRUPTED", "FAILED"]
    # Three come to the rung. The best gets through; whether another does too depends on who came first.
    assert states[16][0] == "COMPLETE"
    for filters in (fakes.DIES_ONCE, fakes.HANGS_ONCE):
        assert states[filters] == ("PRUNED", 2) or states[filters][0] == "COMPLETE"
    paused = [row["stopped"] for row in sweep.store.trials().rows() if row["state"] == "PRUNED"]
    assert paused
    assert all(stopped.startswith("after epoch 2 behind") for stopped in paused)
    assert rows[fakes.RAISES]["error"] == "ValueError: a bad configuration"
    assert "died" in rows[fakes.DIES]["error"]
    hung = sweep.store.attempts_of(rows[fakes.HANGS_ONCE]["trial_id"])[0]
    assert re.search(r"it hung in fakes\.py:\d+ hang < fakes\.py:\d+ train < trainer\.py", hung["stopped"])
    log = sweep.store.log_file(rows[fakes.RAISES]["trial_id"]).read_text()
    assert "training epoch 1" in log
    assert "Traceback" in log
    # an exception ends the trial, not the process
    workers = {trial: {pid for at, _, pid, _ in sweep.trained() if at == trial} for trial, *_ in sweep.trained()}
    assert len(workers[rows[fakes.RAISES]["trial_id"]]) == 1
    code, output = sweep.run()
    assert "ran=False" in output  # failed trials are not run again
