"""Devices by what they can do: a trial on one without float64, graphs and figures of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from cpcnn_core import devices, graphs

CPU = torch.device("cpu")


@pytest.mark.unmeasured
def test_training_scoring_and_drawing_on_a_device_without_float64_give_what_the_cpu_gives(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.played", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cpu, played = json.loads(done.stdout.splitlines()[-1])
    assert len(set(cpu["drawn"])) > 2
    assert played["drawn"] == cpu["drawn"]
    for figure in ("val_bpd", "train_loss", "ratio"):
        assert played[figure] == pytest.approx(cpu[figure], rel=1e-4), figure
    assert played["peak_memory_bytes"] > 2**20


def test_a_cpu_captures_nothing_and_its_memory_is_the_process_s() -> None:
    assert not devices.captures(CPU)
    assert graphs.default_capture(CPU) is None
    assert not devices.limits_memory(CPU)
    devices.begin_memory(CPU)
    devices.synchronize(CPU)
    assert devices.peak_memory(CPU) > 2**24


def module(**functions: object) -> SimpleNamespace:
    return SimpleNamespace(**{name: lambda *_, value=value: value for name, value in functions.items()})


@pytest.mark.parametrize(
    ("functions", "captures", "limits", "peak"),
    [
        (
            {"CUDAGraph": None, "set_per_process_memory_fraction": None, "max_memory_allocated": 7, "empty_cache": None}
            | {"reset_peak_memory_stats": None},
            True,
            True,
            7,
        ),
        ({"set_per_process_memory_fraction": None, "driver_allocated_memory": 9, "empty_cache": None}, False, False, 9),
    ],
    ids=["as CUDA", "as MPS"],
)
def test_what_a_device_can_do_is_asked_of_its_module(
    monkeypatch: pytest.MonkeyPatch, functions: dict[str, object], captures: bool, limits: bool, peak: int
) -> None:
    monkeypatch.setattr(torch, "get_device_module", lambda _: module(**functions))
    device = torch.device("mps")
    assert devices.captures(device) is captures
    assert devices.limits_memory(device) is limits
    devices.begin_memory(device)
    assert devices.peak_memory(device) == peak


def test_without_resource_the_peak_is_windows_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: SimpleNamespace(peak_wset=5))
    assert devices.peak_memory(CPU) == 5


def test_the_accelerator_that_torch_finds_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[torch.device | None] = [torch.device("mps", 0), None]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found.pop(0))
    assert devices.here() == torch.device("mps")
    assert devices.here() == CPU
