"""What `cpcnn doctor` finds of a machine, with stand-ins for machines that will not do."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from cpcnn_core import features, files, gpus, precision
from orchestrator import checkup
from orchestrator.checkup import CHECKS, Finding

Usage = namedtuple("Usage", "total used free")


def found(name: str, results: Path) -> Finding:
    return CHECKS[name](results)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "MATRIX_SECONDS", 0.05)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "Ray"])
def test_this_machine_will_do(name: str, tmp_path: Path) -> None:
    here = found(name, tmp_path / "results")
    assert here.verdict in {"works", "without", "unknown"}, here
    assert here.said
    assert here.verdict == "works" or here.way_out or here.verdict == "unknown"
    assert not list(tmp_path.iterdir())  # nothing is left


def test_a_package_that_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = ["torch>=99", "nowhere-to-be-found", "numpy", 'windows-only; sys_platform == "none"', 'x; extra == "aws"']
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    here = found("versions", tmp_path)
    assert here.verdict == "fails"
    assert here.said == f"torch is {metadata.version('torch')}, not >=99; nowhere-to-be-found is missing"
    assert here.way_out == "uv sync"


def test_what_is_not_installed_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkup, "DISTRIBUTION", "no-such-distribution")
    assert found("versions", tmp_path).verdict == "unknown"


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in gpus.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    here = found("device", tmp_path)
    assert here.verdict == "fails"
    assert here.said.startswith("nvidia-smi is here, but torch cannot use one")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert found("device", tmp_path).said.startswith("the CPU trains")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert "was granted a GPU" in found("device", tmp_path).said


def test_a_product_that_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    multiplied = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda one, other: multiplied(one, other) * (1 + 1e-3 * (one.dtype == torch.float32)),
    )
    here = found("matrices", tmp_path)
    assert here.verdict == "fails"
    assert "off by 0.001" in here.said


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    assert found("memory", tmp_path) == Finding("fails", "1.0 GiB are free; a trial takes 1 to 2", "end other programs")


def test_memory_that_forgets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "full", lambda *_: torch.zeros(8))
    assert found("memory", tmp_path).verdict == "fails"


@pytest.mark.parametrize(("units", "verdict"), [(True, "works"), (False, "without")])
def test_bf16(units: bool, verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: units)
    assert found("bf16", tmp_path).verdict == verdict


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert found("compiler", tmp_path).verdict == "without"


def test_a_disk_that_is_full_read_only_or_without_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2**20))
        assert found("disk", tmp_path).verdict == "fails"

    def refuses(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", refuses)
        assert found("disk", tmp_path) == Finding("fails", f"{tmp_path}: Permission denied", "take another --results")
    with monkeypatch.context() as patch:
        patch.setattr(checkup, "_has_locks", lambda _: False)
        assert found("disk", tmp_path).verdict == "without"


def test_a_container_s_small_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**26, 0, 2**26))
    here = found("shared memory", tmp_path)
    assert (here.verdict, here.said) == ("without", "64 MiB at /dev/shm; Ray takes the disk")


def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert found("open files", tmp_path).way_out == "ulimit -n 65536"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert found("open files", tmp_path).verdict == "works"


@pytest.mark.parametrize(
    ("program", "verdict", "said"),
    [
        ("pass", "works", "Ray starts, runs a task and ends in "),
        ("raise OSError('no sockets here')", "fails", "Ray does not start: OSError: no sockets here"),
        ("import sys; sys.exit(3)", "fails", "Ray does not start: exit code 3"),
        ("import time; time.sleep(60)", "fails", "Ray does not start within "),
    ],
)
def test_ray(program: str, verdict: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkup, "_RAY", program)
    if "sleep" in program:
        monkeypatch.setattr(checkup, "RAY_SECONDS", 0.2)
    here = found("Ray", tmp_path)
    assert here.verdict == verdict
    assert here.said.startswith(said)


def test_ray_is_started_for_real_by_a_program_that_is_one() -> None:
    compile(checkup._RAY, "ray", "exec")
    assert "local_ray.started()" in checkup._RAY


def test_inception_s_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path / "cache")
    missing = found("Inception", tmp_path)
    assert missing.verdict == "without"
    assert str(tmp_path / "hub" / "checkpoints") in missing.way_out
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / features.WEIGHTS_FILE).touch()
    assert found("Inception", tmp_path).verdict == "works"


def test_a_tracker_s_key_is_found_and_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert found("trackers", tmp_path).verdict == "without"
    file = tmp_path / ".netrc"
    file.write_text("machine api.wandb.ai login user password 0123456789secret\n")
    file.chmod(0o600)
    here = found("trackers", tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    for one in (here, found("trackers", tmp_path)):
        assert one.verdict == "works"
        assert "secret" not in f"{one}"


def test_clocks_that_differ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 60)
    here = found("clock", tmp_path)
    assert here.verdict == "fails"
    assert "the storage's clock is +60 s" in here.said
