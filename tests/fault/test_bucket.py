"""Sweeps whose results lie in a bucket, on an S3 server that the test starts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import typer
from typer.testing import CliRunner

from orchestrator import best, report, status, sweep
from orchestrator.records import location
from orchestrator.records.lease import Lease, TakenError
from orchestrator.records.location import RemotePath, located
from orchestrator.records.store import Store, sweeps
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import SweepError
from tests.fault.test_processes import EPOCHS, SPACE
from tests.support import buckets, fakes, odd

SWEEP = odd.ALL  # its name
TRIALS = 4
PATIENCE = 600  # seconds; a request to the server takes milliseconds on an idle machine, and a second on a busy one

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def _server() -> Iterator[None]:
    with buckets.serving():
        yield


@pytest.fixture
def results(_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "here"))
    found = located(f"{buckets.new_bucket()}/results")
    assert isinstance(found, RemotePath)
    return found


def call(app: typer.Typer, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, " ".join(result.output.split())


def driver(space: Path, results: RemotePath, cache: Path, **fake: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CPCNN_CACHE": str(cache)} | fake
    command = [sys.executable, "-m", "tests.support.fake_sweep", str(space), str(results), str(TRIALS), SWEEP]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_a_sweep_killed_on_one_machine_goes_on_on_another_and_is_read_from_anywhere(
    results: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    store = Store(results / SWEEP)
    # Of each trial one epoch remains, so that the sweep is at work however long it takes to look at it.
    with driver(space, results, tmp_path / "first", **{fakes.SECONDS: "1", fakes.HOLD_FROM: str(EPOCHS)}) as first:
        try:
            deadline = time.monotonic() + PATIENCE
            while len(store.epochs().rows()) < 3:
                assert first.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            code, said = call(status.app, "--results", results)
            assert code == 0
            assert f"driver: pid {first.pid} on {os.uname().nodename}" in said
            assert "running" in said
            refused = f"another driver runs this sweep: pid {first.pid} on {os.uname().nodename}"
            with pytest.raises(SweepError, match=refused):
                holding(store).__enter__()
        finally:
            first.send_signal(signal.SIGKILL)
            print(first.communicate()[0])  # noqa: T201 - shown where the test fails

    with driver(space, results, tmp_path / "another machine") as third:
        output, _ = third.communicate(timeout=PATIENCE)
    assert third.returncode == 0, output
    latest = store.latest_attempts().rows()
    assert [row["state"] for row in latest] == ["COMPLETE"] * TRIALS
    epochs = Counter((row["trial_id"], row["epoch"]) for row in store.epochs().rows())
    assert epochs == {(row["trial_id"], epoch): 1 for row in latest for epoch in range(1, EPOCHS + 1)}
    assert "RUNNING" not in {row["state"] for row in store.trials().rows()}
    trained = [
        (trial, int(epoch))
        for machine in ("first", "another machine")
        for file in (tmp_path / machine).glob("results/*/trained.txt")
        for trial, epoch, *_ in [line.split() for line in file.read_text().splitlines()]
    ]
    assert set(trained) == set(epochs)
    # of each trial that ran, the current epoch and the one whose state was on its way
    assert len(trained) <= len(epochs) + 2 * 2
    assert all((store.folder / row["checkpoint"]).exists() for row in store.epochs().rows() if row["checkpoint"])

    # Another machine has nothing but the URL.
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "a laptop"))
    monkeypatch.chdir(tmp_path)
    assert (
        f"{SWEEP}: {TRIALS} of {TRIALS} trials have ended ({TRIALS} COMPLETE)"
        in call(status.app, "--results", results)[1]
    )
    code, said = call(best.app, "--metric", "val_acc", "--results", results, "--no-export")
    assert code == 0, said
    assert f"the best {TRIALS} of {TRIALS} trials, by val_acc" in said
    code, said = call(report.app, "--results", results)
    assert code == 0, said
    assert (tmp_path / "results" / "report.html").is_file()
    log = (store.folder / "logs" / f"{latest[0]['trial_id']}.log").read_text()
    assert f"training epoch {EPOCHS}" in log
    location.fetch(store.folder / "study.db", tmp_path / "study.db")
    study = optuna.load_study(study_name=store.folder.name, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert {trial.user_attrs["trial_id"] for trial in study.trials} == {row["trial_id"] for row in latest}


def test_sweeps_of_every_name_lie_in_one_bucket(results: RemotePath) -> None:
    for name in odd.NAMES:
        store = Store(results / name)
        store.write_sweep(SweepRecord.model_validate({"name": name}))
        store.local_mirror.mkdir(parents=True)
    held = {store.folder.name: store.read_sweep() for store in sweeps(results)}
    assert held == {name: SweepRecord(name=name) for name in odd.NAMES}


def test_a_bucket_grants_a_lease_once(results: RemotePath) -> None:
    lease, _ = Lease.taken(results, "driver")
    with pytest.raises(TakenError, match=f"pid {os.getpid()} on "):
        Lease.taken(results, "driver")
    lease.beat()
    lease.release()
    Lease.taken(results, "driver")
    assert not (results / "driver-000002.json").create(b"")


def test_a_bucket_that_is_not_there_or_out_of_reach_is_said_before_work_is_spent(
    results: RemotePath, tmp_path: Path
) -> None:
    space = tmp_path / "space.py"
    space.write_text(SPACE)
    code, said = call(sweep.app, space, "--results", "s3://nobody-has-made-this/results")
    assert code == 2
    assert re.search(
        r"error: s3://nobody-has-made-this/results/space: cannot hold results: .*bucket does not exist", said
    )

    # a process of its own, since this one's connections know the server that answers
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.status", "--results", str(results)],
            env=os.environ | {"AWS_ENDPOINT_URL": address, "AWS_MAX_ATTEMPTS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(rf"error: {results}: cannot be reached \(.*{address}", " ".join(done.stderr.split()))
    assert buckets.ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
