"""Will this machine do? One check for each thing that sweeps rest on, and the way out where it will not."""

from __future__ import annotations

import contextlib
import netrc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

from cpcnn_core import files
from orchestrator.records import provenance

Verdict: TypeAlias = Literal["works", "without", "fails", "unknown"]
"""`without`: sweeps run, and do without something. `unknown`: nothing here tells."""

DISTRIBUTION = "cpcnn-sweeps"
RAY_SECONDS = 45.0  # that Ray may take to start; on a cold disk it takes 20
MATRIX_SECONDS = 3.0
LEAST_DISK, LEAST_MEMORY, LEAST_SHARED = 2 * 2**30, 2 * 2**30, 192 * 2**20  # Ray's object store takes 128 MiB
LEAST_FILES = 1024
LARGEST_SKEW = 5.0  # seconds between two clocks; leases of results on shared storage are renewed every 15

_RAY = """
from orchestrator.tune import local_ray
with local_ray.started():
    import ray
    assert ray.get(ray.remote(lambda: 6 * 7).remote()) == 42
"""


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do where that is not good."""

    verdict: Verdict
    said: str
    way_out: str = ""


Check: TypeAlias = Callable[[Path], Finding]
"""Looks at one thing; given the folder of results."""


def _versions(_results: Path) -> Finding:
    """Are the packages there that this program was released with, in versions that it takes?"""
    from packaging.requirements import Requirement

    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return Finding("unknown", f"{DISTRIBUTION} is not installed, so nothing says which versions it takes")
    wrong = []
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            there = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(there, prereleases=True):
            wrong.append(f"{requirement.name} is {there}, not {requirement.specifier}")
    if wrong:
        return Finding("fails", "; ".join(wrong), "uv sync")
    shown = [f"{name} {version}" for name, version in provenance.versions().items() if version is not None]
    return Finding("works", ", ".join(shown))


def _device(_results: Path) -> Finding:
    """Can torch use the GPU, where there is one?"""
    import torch

    from cpcnn_core import devices, gpus
    from cpcnn_core.config import ConfigError

    if torch.cuda.is_available():
        found = []
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            found.append(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}")
            try:
                gpus.check_kernels(torch.device("cuda", number))
            except ConfigError as error:
                return Finding("fails", str(error), "docs/gpu.md")
        return Finding(
            "works", f"{'; '.join(found)}, CUDA {torch.version.cuda}; `doctor --gpu` compares what it computes"
        )
    if (other := devices.here()).type != "cpu":
        return Finding(
            "works", f"{other.type} trains: a GPU that is not CUDA's; docs/platforms.md says what is untried"
        )
    try:
        gpus.check_granted()
        if shutil.which("nvidia-smi"):
            gpus.check_usable("nvidia-smi is here", way_out="Install the driver that torch needs, or torch for yours")
    except ConfigError as error:
        return Finding("fails", str(error), "docs/gpu.md")
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return Finding("works", f"the CPU trains, on {provenance.cores()} cores; no GPU; torch is {built}")


def _matrices(_results: Path) -> Finding:
    """Does the device multiply matrices rightly, and how fast?"""
    import torch

    from cpcnn_core import devices
    from cpcnn_core.precision import whole_float32

    where = devices.here()
    one, other = torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0))
    exact = one.double() @ other.double()
    one, other = one.to(where), other.to(where)
    with whole_float32():
        off = float(((one @ other).cpu().double() - exact).norm() / exact.norm())
        if not off < 1e-5:
            return Finding(
                "fails", f"a product of matrices is off by {off:.1g} of its length", "doctor --gpu says more"
            )
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < MATRIX_SECONDS:
            found = one @ other
            count += 1
            if count % 16 == 0:
                float(found[0, 0])  # waits for a GPU
        seconds = time.perf_counter() - began
    speed = 2 * 1024**3 * count / seconds / 1e9
    return Finding("works", f"{speed:,.0f} GFLOP/s in float32 on {where}, off by {off:.0e}")


def _memory(_results: Path) -> Finding:
    """Is there memory, and can it be had?"""
    import psutil
    import torch

    free = psutil.virtual_memory().available
    if free < LEAST_MEMORY:
        return Finding("fails", f"{free / 2**30:.1f} GiB are free; a trial takes 1 to 2", "end other programs")
    taken = torch.full((min(2**28, free // 8) // 4,), 1.0)
    if float(taken.double().sum()) != len(taken):
        return Finding("fails", "what was written into memory was not read again", "test the memory")
    told = f"{free / 2**30:.1f} GiB are free"
    if torch.cuda.is_available():
        there, whole = torch.cuda.mem_get_info()
        told += f"; on the GPU {there / 2**30:.1f} of {whole / 2**30:.1f}"
    return Finding("works", told)


def _bf16(_results: Path) -> Finding:
    """Does bf16 make anything faster?"""
    from cpcnn_core import devices
    from cpcnn_core.precision import emulates_bf16

    if emulates_bf16(devices.here()) is None:
        return Finding("works", "the device multiplies bf16 itself: train.precision=bf16 is the faster choice")
    return Finding("without", "bf16 is emulated here, and slower", "keep train.precision=fp32, the default")


def _compiler(_results: Path) -> Finding:
    """Is there what torch.compile needs?"""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "g++", "clang++", "c++"))), None)
    if found is None:
        return Finding("without", "there is no C++ compiler; train.compile=true goes on without", "apt install g++")
    return Finding("works", f"train.compile may use {found}")


def _disk(results: Path) -> Finding:
    """Is there room for results, and can files be written there as they have to be?"""
    folder = files.nearest_folder(results)
    free = shutil.disk_usage(folder).free
    if free < LEAST_DISK:
        return Finding("fails", f"{free / 2**30:.1f} GiB are free at {folder}", "free some, or take another --results")
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".checkup-") as here:
            began = time.perf_counter()
            with (Path(here) / "one").open("wb") as stream:
                stream.write(os.urandom(2**24))
                stream.flush()
                os.fsync(stream.fileno())
            seconds = time.perf_counter() - began
            (Path(here) / "one").replace(Path(here) / "other")
            locks = _has_locks(Path(here) / "lock")
    except OSError as error:
        return Finding("fails", f"{folder}: {error.strerror}", "take another --results")
    told = f"{free / 2**30:.0f} GiB are free at {folder}; 16 MiB written in {seconds:.2f} s"
    if not locks:
        return Finding("without", f"{told}; the file system has no locks", "leases are used instead, nothing to do")
    return Finding("works", told)


def _has_locks(file: Path) -> bool:
    from filelock import FileLock

    with contextlib.suppress(OSError, NotImplementedError):
        first, second = FileLock(file), FileLock(file, is_singleton=False)
        with first:
            try:
                second.acquire(timeout=0)
            except TimeoutError:
                return True
    return False


def _shared_memory(_results: Path) -> Finding:
    """Is /dev/shm large enough for Ray?"""
    place = Path("/dev/shm")  # noqa: S108 - where Linux has it
    if not place.is_dir():
        return Finding("unknown", f"there is no {place}; Ray takes the temporary folder")
    free = shutil.disk_usage(place).free
    if free < LEAST_SHARED:
        return Finding("without", f"{free / 2**20:.0f} MiB at {place}; Ray takes the disk", "docker run --shm-size=1g")
    return Finding("works", f"{free / 2**20:,.0f} MiB at {place}")


def _open_files(_results: Path) -> Finding:
    """May a process open as many files as Ray does?"""
    try:
        import resource
    except ImportError:
        return Finding("unknown", "this system has no such limit")
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_FILES:
        return Finding("fails", f"a process may open {most} files, and Ray opens more", "ulimit -n 65536")
    return Finding("works", f"a process may open {most} files" if most > 0 else "a process may open any number")


def _ray(_results: Path) -> Finding:
    """Does Ray start?"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    began = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RAY],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=RAY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(
            "fails", f"Ray does not start within {RAY_SECONDS:.0f} s", "look at /tmp/ray/session_latest/logs"
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Finding("fails", f"Ray does not start: {reason}", "look at /tmp/ray/session_latest/logs")
    return Finding("works", f"Ray starts, runs a task and ends in {time.perf_counter() - began:.0f} s")


def _inception(_results: Path) -> Finding:
    """Are Inception's weights here, for FID on the published scale?"""
    import torch

    from cpcnn_core.features import WEIGHTS_FILE

    places = (Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE, files.cache_folder() / WEIGHTS_FILE)
    for place in places:
        if place.is_file():
            return Finding("works", f"Inception's weights are at {place}")
    return Finding(
        "without",
        "Inception's weights are not here; unless they can be downloaded, FID is between a small classifier's features",
        f"put {WEIGHTS_FILE} (of pytorch-fid's releases) into {places[0].parent}, or set eval.fid_weights to its path",
    )


def _trackers(_results: Path) -> Finding:
    """Could trials be sent to Weights & Biases?"""
    if os.environ.get("WANDB_API_KEY"):
        return Finding("works", "Weights & Biases: a key is in WANDB_API_KEY")
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        if any("wandb" in host for host in netrc.netrc().hosts):
            return Finding("works", "Weights & Biases: a key is in ~/.netrc")
    return Finding("without", "Weights & Biases: no key; `--wandb offline` needs none", "wandb login")


def _clock(results: Path) -> Finding:
    """Do this machine's clock and that of the results' storage agree?"""
    folder = files.nearest_folder(results)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".checkup-") as stream:
            stream.write(b"now")
            stream.flush()
            skew = Path(stream.name).stat().st_mtime - time.time()
    except OSError as error:
        return Finding("unknown", f"{folder}: {error.strerror}")
    if abs(skew) > LARGEST_SKEW:
        way_out = "set both by NTP (timedatectl set-ntp true)"
        return Finding("fails", f"the storage's clock is {skew:+.0f} s from this machine's; leases go by both", way_out)
    return Finding("works", f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}, {abs(skew):.1f} s from the storage's")


CHECKS: Mapping[str, Check] = {
    "versions": _versions,
    "device": _device,
    "matrices": _matrices,
    "memory": _memory,
    "bf16": _bf16,
    "compiler": _compiler,
    "disk": _disk,
    "shared memory": _shared_memory,
    "open files": _open_files,
    "Ray": _ray,
    "Inception": _inception,
    "trackers": _trackers,
    "clock": _clock,
}
"""All of them, in the order in which they are made. One more is one function and one line here."""


def findings(results: Path) -> Generator[tuple[str, Finding]]:
    """What each check finds, once it does. One that breaks has found nothing, and says why."""
    for name, check in CHECKS.items():
        try:
            yield name, check(results.absolute())
        except Exception as error:  # noqa: BLE001 - it is what a user gets to see of a broken machine
            yield name, Finding("unknown", f"{type(error).__name__}: {error}".partition("\n")[0])
