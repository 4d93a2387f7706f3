"""A GPU that was granted is used, or it is said why it cannot be. There is none here: torch's answers are stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cpcnn_core import gpus, precision
from cpcnn_core.config import ConfigError

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def nothing_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in gpus.VISIBLE:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", gpus.VISIBLE)
@pytest.mark.parametrize(
    ("value", "granted"),
    [(None, False), ("", False), ("-1", False), ("NoDevFiles", False), ("0", True), ("2,3", True), ("GPU-1a2b", True)],
)
def test_the_environment_says_whether_a_gpu_was_granted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, granted: bool
) -> None:
    if value is not None:
        monkeypatch.setenv(variable, value)
    assert gpus.granted() == (variable if granted else None)


@pytest.mark.parametrize(
    ("driver", "cuda", "says"),
    [
        (
            "570.86.15",
            "13.2",
            r"driver is 570.86.15, and torch .* is built for CUDA 13.2, which needs driver 580 or newer",
        ),
        ("470.1", "12.8", r"driver is 470.1, and .* is built for CUDA 12.8, which needs driver 525 or newer"),
        (None, "14.0", r"No driver of NVIDIA's is loaded here, and torch .* is built for CUDA 14.0\."),
        ("580.65.06", None, r"driver is 580.65.06, and torch .* is built without CUDA"),
    ],
)
def test_driver_and_wheel_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str | None, cuda: str | None, says: str
) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on\nyour system is too old")

    file = tmp_path / "version"
    if driver is not None:
        file.write_text(f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {driver}  Release Build\nGCC\n")
    monkeypatch.setattr(gpus, "_DRIVER", file)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setenv(gpus.VISIBLE[0], "3")
    with pytest.raises(ConfigError, match=says) as refused:
        gpus.check_granted()
    assert "CUDA_VISIBLE_DEVICES is '3'" in str(refused.value)
    assert "(The NVIDIA driver on your system is too old)" in str(refused.value)
    assert "CUDA_VISIBLE_DEVICES= (empty) trains on the CPU" in str(refused.value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpus.check_granted()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(gpus.VISIBLE[0], "")
    gpus.check_granted()


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 0), WHEEL, True),
        ((8, 9), WHEEL, True),  # machine code for 8.6
        ((7, 5), WHEEL, True),
        ((7, 0), WHEEL, False),  # a V100 under CUDA 13
        ((6, 1), WHEEL, False),
        ((12, 1), WHEEL, True),
        ((13, 0), WHEEL, True),  # PTX for 12.0
        ((13, 0), WHEEL[:-1], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a", "compute_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((11, 0), ["compute_100f"], False),
        ((8, 0), ["sm_86"], False),
        ((8, 0), ["gfx942"], False),
    ],
)
def test_kernels_run_on_later_gpus_of_their_version_and_ptx_on_all_later_ones(
    capability: tuple[int, int], built_for: list[str], runs: bool
) -> None:
    assert gpus.runs_on(capability, built_for) == runs


def test_a_wheel_without_a_kernel_for_the_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: WHEEL)
    with pytest.raises(
        ConfigError, match=r"no kernel for a Tesla V100, whose compute capability is 7\.0: it is built for sm"
    ):
        gpus.check_kernels(GPU)
    gpus.check_kernels(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    gpus.check_kernels(GPU)
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)  # it does not say
    gpus.check_kernels(GPU)


@pytest.mark.parametrize(
    ("capability", "emulated"), [((7, 5), True), ((8, 0), False), ((9, 0), False), ((12, 0), False)]
)
def test_a_gpu_that_emulates_bf16_is_told(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], emulated: bool
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    found = precision.emulates_bf16(GPU)
    assert (found is not None) == emulated
    assert found in {None, "a Tesla T4, of compute capability 7.5, has no units for it"}
