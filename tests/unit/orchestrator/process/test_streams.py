"""Commands whose output nobody reads any more, or not now."""

from __future__ import annotations

import errno
import io
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.process import streams
from orchestrator.process.streams import Outlasting
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.views.progress import Progress
from tests.support.fakes import metrics

PROGRAM = """
import os, sys
from orchestrator.process import streams
streams.outlast()
streams.outlast()
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2, file.fileno()
    for number in range(3):
        print("line", number, "\\u2026", flush=True)
        print("warning", number, "\\u2026", file=sys.stderr)
    os.system("echo from a child; echo from a child >&2")
    file.write("done")
sys.exit(3)
"""


def run(tmp_path: Path, redirections: str, **environment: str) -> tuple[int, str]:
    """The program's exit code under a shell's redirections, and what reached the file."""
    out = tmp_path / "file"
    command = ["bash", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", PROGRAM, str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, stdin=subprocess.DEVNULL
    )
    assert "Traceback" not in done.stderr
    return done.returncode, out.read_text()


@pytest.mark.parametrize(
    "redirections",
    ["", ">/dev/full", ">&-", "2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1", "| true"],
)
def test_the_work_and_its_exit_code_do_not_depend_on_the_reader(tmp_path: Path, redirections: str) -> None:
    if redirections == "| true":
        redirections = "> >(true)"
    assert run(tmp_path, redirections) == (3, "done")


def test_a_letter_that_the_terminal_lacks_is_no_error(tmp_path: Path) -> None:
    assert run(tmp_path, "", PYTHONIOENCODING="ascii") == (3, "done")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            assert descriptor == reader  # which a test closes


def opened(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(Outlasting(descriptor)), line_buffering=True)


def test_once_the_reader_has_gone_all_is_swallowed(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = opened(writer)
    assert streams.failure(stream) is None
    assert not streams.is_gone(stream)
    os.close(reader)
    assert streams.is_gone(stream)
    for _ in range(3):
        print("a line", file=stream)
    failure = streams.failure(stream)
    assert failure is not None
    assert failure.errno == errno.EPIPE
    os.write(writer, b"what does not come through the stream\n")


def test_a_reader_that_stops_holds_nothing_up_and_gets_what_comes_once_it_reads_on(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    stream = opened(writer)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(streams, "STALL_SECONDS", 0.05)
    with streams.unheld():
        begun = time.monotonic()
        for number in range(3000):
            print(f"line {number:4d} {'.' * 90}", file=stream)
        assert time.monotonic() - begun < 30  # for ever, were they waited for
        read = b""
        while select.select([reader], [], [], 0)[0]:
            read += os.read(reader, 2**16)
        assert read.startswith(b"line    0")
        assert b"line 2999" not in read
        print("and on", file=stream)
        assert os.read(reader, 2**16).endswith(b"and on\n")
    assert streams.failure(stream) is None


def test_otherwise_a_slow_reader_gets_all_of_it(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = opened(writer)
    text = "".join(f"line {number}\n" for number in range(20_000))
    writing = threading.Thread(target=lambda: print(text, end="", flush=True, file=stream))
    writing.start()
    time.sleep(0.1)
    read = b""
    while len(read) < len(text):
        read += os.read(reader, 1000)
    writing.join()
    assert read.decode() == text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_view_of_a_sweep_falls_silent(pipe: tuple[int, int], terminal: bool) -> None:
    reader, writer = pipe
    console = Console(file=opened(writer), force_terminal=terminal)
    config = TrialConfig.from_flat({"train.epochs": 2})
    with Progress(console, Objective("val_acc", "max"), (), total=2) as view:
        view.started(1, config)
        os.close(reader)
        for number in (1, 2):
            view.epoch(number, config, metrics(1), 0.5)
            view.ended(number, config, "FAILED", None, "a reason")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results" / "one")
    store.create()
    store.write_sweep(
        SweepRecord.model_validate(
            {"name": "one", "runs": [], "asked": {"objective": Objective("val_acc", "max").describe()}}
        )
    )
    recording = Recording(store, TrialConfig.from_flat({"train.epochs": 1}), 0)
    recording.add(metrics(1), Place("here", "cpu", 1))
    recording.finish("COMPLETE")
    return tmp_path / "results"


def test_watching_ends_with_whoever_watches(results: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.status", "--watch", "--results", str(results)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline().startswith("one: 1 of 1 trials have ended")
        watching.stdout.close()
        assert watching.wait(60) == 0
        assert watching.stderr.read() == ""


def test_output_that_a_program_is_to_read_is_whole_or_the_command_fails(results: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.best", "--metric", "val_acc", "--json", "--no-export"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "--results", str(results)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "warning: stdout cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
