"""`cpcnn doctor`, with checks that take no time."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cpcnn_core import device_checks
from cpcnn_core.device_checks import Finding
from orchestrator import doctor


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(doctor.app, [*arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, done.output


def test_versions_and_the_device_in_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_SPOT", "aws")
    code, output = run()
    assert code == 0
    assert f"torch {version('torch')}" in output
    assert "no GPU that torch can use, so that the CPU trains" in output or "capability" in output
    assert "AWS's metadata service" in output
    assert len(output.splitlines()) <= 4


def test_an_unknown_cloud_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_SPOT", "azure")
    code, output = run()
    assert code == 2
    assert "CPCNN_SPOT is 'azure'" in output


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that are right at once, those in processes of their own included."""
    monkeypatch.setattr(device_checks, "CHECKS", dict.fromkeys(device_checks.CHECKS, right))
    monkeypatch.setattr(doctor, "_apart", lambda name, _: (True, f"{name} is right"))


def right(_: torch.device) -> Finding:
    return Finding("a check", True, "off by 1e-7", {})


@pytest.mark.usefixtures("quick")
def test_what_each_check_finds_is_said_and_what_was_checked_where_there_is_no_gpu() -> None:
    code, output = run("--gpu")
    assert code == 0, output
    assert output.count("right  ") == len(device_checks.CHECKS)
    assert ("There is no GPU, so that the CPU goes the same ways" in output) == (not torch.cuda.is_available())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("raises", [False, True])
def test_what_is_wrong_is_said_in_words_and_by_the_exit_code(monkeypatch: pytest.MonkeyPatch, raises: bool) -> None:
    def wrong(_: torch.device) -> Finding:
        if raises:
            raise RuntimeError("CUDA error: an illegal memory access")
        return Finding("bf16", False, "off by a hundredth", {})

    monkeypatch.setattr(device_checks, "CHECKS", {**device_checks.CHECKS, "bf16": wrong})
    code, output = run("--gpu")
    assert code == 1
    assert f"WRONG  bf16: {'RuntimeError: CUDA error' if raises else 'off by a hundredth'}" in output
    assert "right  memory" in output  # the others were made all the same


@pytest.mark.parametrize(
    ("script", "fine", "said"),
    [
        ('print(\'{"check": "x", "fine": true, "said": "fine", "figures": {}}\')', True, "fine"),
        ("raise SystemExit('no such device')", False, "no such device"),
        ("import time; time.sleep(60)", None, "not done within a minute"),
    ],
)
def test_a_check_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, fine: bool | None, said: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    verdict, words = doctor._apart("compiled", 0.0)
    assert (verdict, said in words) == (fine, True)
