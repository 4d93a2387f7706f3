"""`cpcnn doctor`: what is installed here; with --gpu, whether the device computes what it should."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import command_line as cli
from orchestrator.process import spot
from orchestrator.records import provenance

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS = 55.0  # that the checks may take in all
_FIRST = ("float32", "fusions", "bf16", "captured", "steps", "memory")  # in this process, one after another
_BESIDE = ("resumed", "compiled")  # in processes of their own, meanwhile: they take the longest

app = cli.command()


@app.command(epilog=cli.examples("doctor", "doctor --gpu"))
@cli.plain_errors()
@cli.stoppable()
def main(
    gpu: Annotated[
        bool,
        typer.Option(
            "--gpu",
            rich_help_panel=cli.SHOWN_PANEL,
            show_default="versions and device only",
            help="Compare what the GPU computes with the CPU; under a minute. docs/gpu.md.",
        ),
    ] = False,
) -> None:
    """Say what is installed and which device trains. Exit code 1 where a check of --gpu fails."""
    console = cli.console()
    for line in _installed():
        _say(console, line)
    if gpu and not _check(console):
        cli.fail("this machine computes something else than it should; docs/gpu.md says what to set", cli.FAILED)


def _installed() -> list[str]:
    """Versions and device in a few lines. Raise SpotError where the environment names an unknown cloud."""
    import torch

    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items() if version is not None)
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    asks = [str(source) for source in spot.sources()]
    return [
        versions,
        f"{provenance.cores()} cores; torch is {cuda}; {_devices()}",
        *(f"notice that this machine is taken away comes from {who}" for who in asks),
    ]


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU that torch can use, so that the CPU trains"
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return "; ".join(
        f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}" for gpu in found
    )


def _check(console: Console) -> bool:
    """Say what each check finds. Return whether all is right."""
    from cpcnn_core import device_checks

    where, until = device_checks.device(), time.monotonic() + _SECONDS
    if where.type == "cpu":
        _say(console, "There is no GPU, so that the CPU goes the same ways, with stand-ins for what a GPU alone has:")
    fine = True
    with ThreadPoolExecutor(len(_BESIDE)) as pool:
        beside = [(name, pool.submit(_apart, name, until)) for name in _BESIDE]
        for name in _FIRST:
            fine &= _said(console, name, _here(name))
        for name, answer in beside:
            fine &= _said(console, name, answer.result())
    return fine


def _here(name: str) -> tuple[bool | None, str]:
    """Whether the check is right, and what it says; None where it could not be made."""
    from cpcnn_core import device_checks

    try:
        found = device_checks.CHECKS[name](device_checks.device())
    except Exception as error:  # noqa: BLE001 - the other checks say what they say all the same
        return False, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return found.fine, found.said


def _apart(name: str, until: float) -> tuple[bool | None, str]:
    """The same in a process of its own, ended when the time is over."""
    command = [sys.executable, "-m", "cpcnn_core.device_checks", name]
    left = max(1.0, until - time.monotonic())
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=left, env=os.environ.copy())
    except subprocess.TimeoutExpired:
        return None, f"not done within a minute; `python -m benchmarks.gpu --only correct_{name}` takes its time"
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return False, last[0]
    from cpcnn_core import device_checks

    found = device_checks.Finding.of_json(done.stdout.splitlines()[-1])
    return found.fine, found.said


def _said(console: Console, name: str, found: tuple[bool | None, str]) -> bool:
    fine, said = found
    verdict = {True: "right", False: "WRONG", None: "open"}[fine]
    _say(console, f"{verdict:5}  {name}: {said}")
    return fine is not False


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
