"""Whether torch can use the GPU that this process was granted, and if not, what does not fit what."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cpcnn_core.config import ConfigError

if TYPE_CHECKING:
    import torch

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""The variables by which schedulers (Ray, Slurm, a container) and users grant GPUs, NVIDIA's and AMD's. Empty, one
grants none.
"""

_DRIVER = Path("/proc/driver/nvidia/version")
OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}  # by CUDA's major version, within which newer ones run too


def granted() -> str | None:
    """The variable by which this process was granted a GPU, by a scheduler or a user; None where it was not."""
    return next((name for name in VISIBLE if os.environ.get(name, "").strip() not in {"", "-1", "NoDevFiles"}), None)


def check_granted() -> None:
    """Raise ConfigError where this process was granted a GPU and torch has none."""
    if (variable := granted()) is not None:
        why = f"{variable} is {os.environ[variable]!r}, so this process was granted a GPU"
        check_usable(why, way_out=f"{variable}= (empty) trains on the CPU")


def check_usable(why: str, *, way_out: str) -> None:
    """Raise ConfigError where torch has no GPU, of which there is one for the reason `why`."""
    import torch

    if torch.cuda.is_available():
        return
    try:
        torch.cuda.init()
        reason = "it does not say why"
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
    raise ConfigError(f"{why}, but torch cannot use one ({reason}). {_driver_and_wheel()}. {way_out}")


def check_kernels(device: torch.device) -> None:
    """Raise ConfigError where torch's wheel has no kernel for a GPU of NVIDIA's, neither compiled nor as PTX."""
    import torch

    if device.type != "cuda" or torch.version.cuda is None:
        return
    capability = torch.cuda.get_device_capability(device)
    built_for = torch.cuda.get_arch_list()
    if built_for and not runs_on(capability, built_for):
        raise ConfigError(
            f"torch {torch.__version__} has no kernel for a {torch.cuda.get_device_name(device)}, whose compute "
            f"capability is {capability[0]}.{capability[1]}: it is built for {', '.join(built_for)}. Install a torch "
            f"that is built for it, or take another GPU. {_driver_and_wheel()}. {VISIBLE[0]}= (empty) trains on "
            "the CPU"
        )


def runs_on(capability: tuple[int, int], built_for: Iterable[str]) -> bool:
    """Whether what is built for architectures such as `sm_86` and `compute_90` runs on a GPU of this capability.

    Machine code (`sm`) runs on later GPUs of the same major version, PTX (`compute`) on all later ones, for which the
    driver compiles it. With a letter it is for one GPU (`a`), or for its family (`f`), as far as they are known.
    """
    for name in built_for:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if found is None:
            continue
        kind, version, letter = found[1], (int(found[2]), int(found[3])), found[4]
        if version == capability:
            return True
        newer = version < capability
        if letter == "a" or not newer:
            continue
        if version[0] == capability[0] or (kind == "compute" and not letter):
            return True
    return False


def _driver_and_wheel() -> str:
    """Which of NVIDIA's drivers there is, which torch, and which driver that needs."""
    import torch

    driver = _driver()
    there = "No driver of NVIDIA's is loaded here" if driver is None else f"NVIDIA's driver is {driver}"
    cuda = torch.version.cuda
    if cuda is None:
        return f"{there}, and torch {torch.__version__} is built without CUDA"
    oldest = OLDEST_DRIVER.get(int(cuda.partition(".")[0]))
    needs = "" if oldest is None else f", which needs driver {oldest} or newer"
    return f"{there}, and torch {torch.__version__} is built for CUDA {cuda}{needs}"


def _driver() -> str | None:
    try:
        found = re.search(r"Module(?: for \w+)?\s+(\d+\.\d+(?:\.\d+)?)", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if found is None else found[1]
