from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from orchestrator.machines import mps
from tests.support.mps import StandIn, stand_in

__all__ = ["stand_in"]

JOINS = """
import os, sys, time
from orchestrator.machines import mps
problem = mps.join(check=lambda environment: None)
print(problem or os.environ[mps.PIPES], flush=True)
sys.stdin.read()
"""


def works(_environment: Mapping[str, str]) -> str | None:
    return None


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    """Nothing of a test's stays with this process."""
    yield
    mps.leave()


def joining() -> subprocess.Popen[str]:
    """A process that uses a shared GPU until it is ended, as a trial's does."""
    return subprocess.Popen(
        [sys.executable, "-c", JOINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> None:
    process.send_signal(number)
    process.communicate()


def test_a_daemon_runs_as_long_as_somebody_uses_it(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert mps.join(check=works) is None
    assert mps.join(check=works) is None
    assert Path(os.environ[mps.PIPES]).is_dir()
    assert Path(os.environ[mps.LOGS]).is_dir()
    assert stand_in.told == ["start all"]
    mps.leave()
    assert mps.PIPES not in os.environ
    assert stand_in.awaited(["start all", "quit"]) == ["start all", "quit"]


def test_two_sweeps_share_one_and_a_killed_one_leaves_none(stand_in: StandIn) -> None:
    one, two = joining(), joining()
    pipes = said(one)
    assert Path(pipes).is_dir()
    assert said(two) == pipes
    end(one, signal.SIGKILL)
    time.sleep(0.3)
    assert len(stand_in.told) == 1
    end(two, signal.SIGKILL)
    assert [word.split()[0] for word in stand_in.awaited([stand_in.told[0], "quit"])] == ["start", "quit"]
    assert not Path(pipes).exists()
    third = joining()
    assert said(third) != pipes
    end(third)
    assert len(stand_in.awaited([*stand_in.told[:3], "quit"])) == 4


def test_a_daemon_whose_keeper_was_killed_is_found_and_kept_again(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mps, "_provide_keeper", lambda _folder: None)
    assert mps.join(check=works) is None
    pipes = os.environ[mps.PIPES]
    mps.leave()
    monkeypatch.undo()
    for name, value in stand_in.environment(os.environ["PATH"]).items():
        monkeypatch.setenv(name, value)
    next_one = joining()
    assert said(next_one) == pipes
    assert len(stand_in.told) == 1
    end(next_one)
    assert stand_in.awaited([stand_in.told[0], "quit"])[1:] == ["quit"]


def test_a_daemon_that_was_killed_is_started_anew(stand_in: StandIn) -> None:
    first = joining()
    pipes = Path(said(first))
    (pipes / "running").unlink()
    second = joining()
    assert said(second) != str(pipes)
    assert [word.split()[0] for word in stand_in.told] == ["start", "start"]
    end(first)
    end(second)
    assert len(stand_in.awaited([*stand_in.told[:2], "quit"])) == 3


def test_who_is_killed_while_it_starts_a_daemon_leaves_none(stand_in: StandIn) -> None:
    killed = """
import os, signal
from orchestrator.machines import mps
mps.join(check=lambda environment: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    told = stand_in.ended(seconds=30)
    assert [word.split()[0] for word in told] == ["start", "quit"]


def test_without_a_daemon_the_reason_is_said(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.let("refuses")
    assert "no permission" in str(mps.join(check=works))
    assert "no permission" in str(mps.join(check=works))
    assert len(stand_in.told) == 1  # each of many processes would try for seconds
    assert mps.PIPES not in os.environ
    monkeypatch.setenv("PATH", str(stand_in.temporary))
    assert "nvidia-cuda-mps-control is not installed" in str(mps.join(check=works))


@pytest.mark.parametrize("how", ["error", "unused"])
def test_a_gpu_that_cannot_be_used_under_mps_is_used_without(stand_in: StandIn, how: str) -> None:
    if how == "unused":
        stand_in.let(how)
    problem = mps.join(check=lambda _: "all CUDA-capable devices are busy" if how == "error" else None)
    expected = {
        "error": "cannot use the GPU: all CUDA-capable devices are busy",
        "unused": "did not reach MPS's daemon",
    }
    assert expected[how] in str(problem)
    assert [word.split()[0] for word in stand_in.told] == ["start", "quit"]
    assert mps.PIPES not in os.environ


def test_a_daemon_that_somebody_else_provides_is_used_as_it_is(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(mps.PIPES, "/run/theirs")
    assert mps.join(check=works) is None
    assert os.environ[mps.PIPES] == "/run/theirs"
    assert stand_in.told == []


def test_another_user_s_folder_is_not_touched(stand_in: StandIn) -> None:
    theirs = stand_in.temporary / f"cpcnn-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)  # as if anybody could have written it
    assert "no temporary folder of this user's own" in str(mps.join(check=works))
    assert stand_in.told == []


def test_a_path_too_long_for_a_socket_is_said(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert "too long for the path of a socket" in str(mps.join(check=works))


def test_using_the_gpu_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mps, "_USE_GPU", "raise SystemExit('no GPU here')")
    assert mps.use_gpu(os.environ) == "no GPU here"
    monkeypatch.setattr(mps, "_USE_GPU", "")
    assert mps.use_gpu(os.environ) is None
