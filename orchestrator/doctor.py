"""`cpcnn doctor`: whether this machine will do; with --gpu, whether the device computes what it should."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import command_line as cli
from orchestrator.process import spot

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS = 55.0  # that the checks may take in all
_LONGEST = ("resumed", "compiled")  # beside the others, meanwhile

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
            show_default="what sweeps rest on",
            help="Compare what the GPU computes with the CPU; under a minute. docs/gpu.md.",
        ),
    ] = False,
    results: Annotated[
        Path,
        typer.Option(
            parser=cli.local,
            metavar="FOLDER",
            rich_help_panel=cli.RESULTS_PANEL,
            help="Where results are to lie, on this machine.",
        ),
    ] = Path("results"),
) -> None:
    """Look at what sweeps rest on, and say the way out of what will not work. Exit code 1 where something will not."""
    console = cli.console()
    asks = [str(source) for source in spot.sources()]  # before anything: an unknown cloud is a mistake
    if gpu:
        if not _check(console):
            cli.fail("this machine computes something else than it should; docs/gpu.md says what to set", cli.FAILED)
        return
    failed = _look(console, results)
    for who in asks:
        _say(console, f"notice that this machine is taken away comes from {who}")
    if failed:
        cli.fail(f"on this machine sweeps will not work: {', '.join(failed)}", cli.FAILED)


def _look(console: Console, results: Path) -> list[str]:
    """Say what each check finds. Return what will not work."""
    from orchestrator import checkup

    words = {"works": "ok", "without": "without", "fails": "FAILS", "unknown": "unknown"}
    failed = []
    for name, found in checkup.findings(results):
        way_out = f". Way out: {found.way_out}" if found.way_out else ""
        _say(console, f"{words[found.verdict]:7}  {name}: {found.said}{way_out}")
        if found.verdict == "fails":
            failed.append(name)
    return failed


def _check(console: Console) -> bool:
    """Say what each check finds. Return whether all is right."""
    from cpcnn_core import device_checks

    where, until = device_checks.device(), time.monotonic() + _SECONDS
    if where.type == "cpu":
        _say(console, "There is no GPU, so that the CPU goes the same ways, with stand-ins for what a GPU alone has:")
    others = [name for name in device_checks.CHECKS if name not in _LONGEST]
    fine = True
    with ExitStack() as started:
        beside = {name: started.enter_context(closing(_Checking([name], until))) for name in _LONGEST}
        for name, answer in _one_after_another(others, until):
            fine &= _said(console, name, answer)
        for name, checking in beside.items():
            for answer in checking.answers():
                fine &= _said(console, name, answer)
    return fine


Answer = tuple[bool | None, str]  # whether a check is right, None where it was not made in time; and what it says


def _one_after_another(names: Sequence[str], until: float) -> Generator[tuple[str, Answer]]:
    """What each check says, once it does.

    They share a process as long as it lasts. What ends it, as a fault of the device, is one check's alone: afterwards
    such a process gets nothing but errors, so that the others are made in a new one.
    """
    waiting = [*names]
    while waiting:
        with closing(_Checking(waiting, until)) as checking:
            for answer in checking.answers():
                yield waiting.pop(0), answer


class _Checking:
    """A process that makes checks, and is ended when the time is over."""

    def __init__(self, names: Sequence[str], until: float) -> None:
        self._names = [*names]
        self._until = until
        self._words = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - `close` closes it
        command = [sys.executable, "-m", "cpcnn_core.device_checks", *names]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._words, encoding="utf-8")
        self._timer = threading.Timer(max(0.0, until - time.monotonic()), self._process.kill)
        self._timer.daemon = True
        self._timer.start()

    def answers(self) -> Generator[Answer]:
        """One of each check in turn; the last is of the check that ended the process, or that time ended."""
        from cpcnn_core.device_checks import Finding

        made = 0
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found, made = Finding.of_json(line), made + 1
                yield found.fine, found.said
        code = self._process.wait()
        left = self._names[made:]
        if time.monotonic() >= self._until:
            for name in left:
                again = f"`python -m benchmarks.gpu --only correct_{name}` takes its time"
                yield None, f"not done within a minute; {again}"
        elif left:
            self._words.seek(0)
            yield False, (self._words.read().strip().splitlines()[-1:] or [f"exit code {code}"])[0]

    def close(self) -> None:
        """End the process where it still runs."""
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()
        self._words.close()


def _said(console: Console, name: str, answer: Answer) -> bool:
    fine, said = answer
    verdict = {True: "right", False: "WRONG", None: "open"}[fine]
    _say(console, f"{verdict:5}  {name}: {said}")
    return fine is not False


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
