"""`cpcnn doctor`, with checks that take no time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cpcnn_core import device_checks
from orchestrator import checkup, cpcnn, doctor
from orchestrator.checkup import Finding


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(doctor.app, [*arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, done.output


def test_what_each_check_of_the_machine_finds_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CPCNN_SPOT", "aws")
    found = {
        "one": Finding("works", "it is there"),
        "two": Finding("without", "it is not there", "put it there"),
        "three": Finding("unknown", "who knows"),
    }
    monkeypatch.setattr(checkup, "CHECKS", {name: lambda _, one=one: one for name, one in found.items()})
    code, output = run("--results", str(tmp_path))
    assert code == 0
    assert output.splitlines()[:3] == [
        "ok       one: it is there",
        "without  two: it is not there. Way out: put it there",
        "unknown  three: who knows",
    ]
    assert "AWS's metadata service" in output


def test_what_will_not_work_is_said_by_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_results: Path) -> Finding:
        raise ZeroDivisionError("by nothing")

    checks = {"one": lambda _: Finding("fails", "it is broken", "mend it"), "two": breaks}
    monkeypatch.setattr(checkup, "CHECKS", checks)
    code, output = run()
    assert code == 1
    assert "FAILS    one: it is broken. Way out: mend it" in output
    assert "unknown  two: ZeroDivisionError: by nothing" in output
    assert "error: on this machine sweeps will not work: one" in output


def test_an_unknown_cloud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_SPOT", "azure")
    code, output = run()
    assert code == 2
    assert "CPCNN_SPOT is 'azure'" in output


Does = Callable[..., None]

PROGRAM = """#!{python}
import json, sys, time
from pathlib import Path

with Path({log!r}).open("a") as log:
    print(*sys.argv[3:], file=log)
for name in sys.argv[3:]:
    match {does!r}.get(name):
        case "hangs":
            time.sleep(600)
        case "dies":
            sys.exit("RuntimeError: CUDA error: an illegal memory access")
    found = dict(check=name, fine={does!r}.get(name) != "is wrong", said=f"{{name}} was looked at", figures=dict())
    print(json.dumps(found), flush=True)
"""


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Does:
    """Have checks do as is said here, and be right otherwise; `tmp_path/log` has a line for each process of them."""
    program, python = tmp_path / "python", sys.executable

    def do(**does: str) -> None:
        program.write_text(PROGRAM.format(python=python, log=str(tmp_path / "log"), does=does))
        program.chmod(0o755)

    do()
    monkeypatch.setattr(sys, "executable", str(program))
    return do


@pytest.mark.usefixtures("checks")
def test_what_each_check_finds_is_said_and_what_was_checked_where_there_is_no_gpu(tmp_path: Path) -> None:
    code, output = run("--gpu")
    assert code == 0, output
    for name in device_checks.CHECKS:
        assert f"right  {name}: {name} was looked at" in output
    assert ("There is no GPU, so that the CPU goes the same ways" in output) == (not torch.cuda.is_available())
    assert len((tmp_path / "log").read_text().splitlines()) == 3  # the two longest, and all others in one process


def test_what_is_wrong_is_said_in_words_and_by_the_exit_code(checks: Does) -> None:
    checks(bf16="is wrong")
    code, output = run("--gpu")
    assert code == 1
    assert "WRONG  bf16: bf16 was looked at" in output
    assert output.count("right  ") == len(device_checks.CHECKS) - 1


@pytest.mark.parametrize("name", ["fusions", "memory", "resumed"])
def test_what_ends_a_check_is_one_checks_fault(checks: Does, tmp_path: Path, name: str) -> None:
    checks(**{name: "dies"})
    code, output = run("--gpu")
    assert code == 1
    assert f"WRONG  {name}: RuntimeError: CUDA error: an illegal memory access" in output
    assert output.count("WRONG") == 1
    assert output.count("right  ") == len(device_checks.CHECKS) - 1
    # What came after it was asked of another process.
    assert len((tmp_path / "log").read_text().splitlines()) == 3 + (name == "fusions")


def test_what_is_not_done_when_the_time_is_over_is_open(checks: Does, monkeypatch: pytest.MonkeyPatch) -> None:
    checks(captured="hangs", resumed="hangs")
    monkeypatch.setattr(doctor, "_SECONDS", 2.0)
    started = time.monotonic()
    code, output = run("--gpu")
    assert time.monotonic() - started < 60
    assert code == 0  # nothing was found wrong
    assert "open   captured: not done within a minute; `python -m benchmarks.gpu --only correct_captured`" in output
    for name in ("steps", "memory", "resumed"):
        assert f"open   {name}: " in output


def test_the_list_of_commands_says_what_it_does() -> None:
    (listed,) = (one for one in cpcnn.COMMANDS if one.name == "doctor")
    assert listed.help == "Say whether this machine will do, and its GPU."
