"""`python -m benchmarks.gpu`: all of it, the smallest sizes, on a CPU; and what becomes of a part that goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import gpu, side_by_side
from cpcnn_core import device_checks, memory
from cpcnn_core.device_checks import Finding
from tests.support.paths import ROOT

# One process makes the toy run, and not each that has a test of it; and none compiles beside another that does.
pytestmark = [pytest.mark.xdist_group("compiler"), pytest.mark.unmeasured]

Parts = dict[str, dict[str, Any]]


def run(out: Path | None, *arguments: str) -> tuple[int, Parts]:
    done = CliRunner().invoke(gpu.app, [*(["--out", str(out)] if out else []), *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    parts: Parts = json.loads((out or Path("results/benchmarks/gpu-toy.json")).read_text())["parts"]
    return done.exit_code, parts


def program(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a shell's script be what this program starts as Python."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def rows(*found: dict[str, Any]) -> gpu.Rows:
    yield from found


# --- all of it ---


@dataclass(frozen=True)
class Toy:
    """What a whole toy run left."""

    code: int
    parts: Parts
    processes: int


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """One run of all parts, into the default file."""
    started: list[object] = []

    class Counted(subprocess.Popen):  # type: ignore[type-arg]  # of str and of bytes
        def __init__(self, *arguments: Any, **options: Any) -> None:  # Any: Popen's
            started.append(self)
            super().__init__(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # for the processes that the parts start
        patch.chdir(tmp_path_factory.mktemp("toy"))
        patch.setattr(subprocess, "Popen", Counted)
        code, parts = run(None, "--toy")
        patch.undo()
        yield Toy(code, parts, len(started))


def test_every_part_goes_through_on_a_machine_without_a_gpu(toy: Toy) -> None:
    assert {name: part["error"] for name, part in toy.parts.items() if "error" in part} == {}
    assert toy.code == 0
    assert list(toy.parts) == list(gpu.PARTS)
    assert {f"correct_{check}" for check in device_checks.CHECKS} <= set(toy.parts)


def test_trials_at_once_are_timed_and_why_there_is_no_mps_is_said(toy: Toy) -> None:
    *timed, mps = toy.parts["side_by_side"]["found"]
    assert [row["trials"] for row in timed] == [1, 2]
    assert all(row["steps_per_s"] > 0 for row in timed)
    if not torch.cuda.is_available():
        assert mps["how"] == "MPS"
        assert mps["note"].startswith("no ")


def test_a_toy_run_is_short(toy: Toy) -> None:
    # The start of a process takes longer than what it does: two that are timed, one that is killed, one that goes on.
    assert toy.processes <= 4


# --- parts that go wrong ---


def test_a_part_that_goes_wrong_ends_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def found(name: str, *, fails: bool = False) -> gpu.Rows:
        calls.append(name)
        yield {"name": name}
        if fails and calls.count(name) == 1:
            raise RuntimeError("CUDA error")

    fails, fine = gpu.Part(lambda _: found("one", fails=True), 1), gpu.Part(lambda _: found("two"), 1)
    monkeypatch.setattr(gpu, "PARTS", {"one": fails, "two": fine})
    code, parts = run(tmp_path / "gpu.json", "--toy")
    assert code == 1
    assert parts["one"]["error"] == "RuntimeError: CUDA error"
    assert parts["one"]["found"] == [{"name": "one"}]  # what was found before stays
    assert parts["two"]["found"] == [{"name": "two"}]
    code, parts = run(tmp_path / "gpu.json", "--toy")
    assert code == 0
    assert calls == ["one", "two", "one"]
    assert parts["one"]["found"] == [{"name": "one"}]
    assert "error" not in parts["one"]


def test_a_row_that_failed_leaves_the_others_and_has_the_part_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"trials": 1, "steps_per_s": 9.0}, {"trials": 2, "error": "out of memory"}]
    monkeypatch.setattr(gpu, "PARTS", {"one": gpu.Part(lambda _: rows(*found), 1)})
    code, parts = run(tmp_path / "gpu.json", "--toy")
    assert code == 1
    assert parts["one"]["found"] == found
    assert parts["one"]["error"] == "1 of 2 rows failed, the first with out of memory"
    found.pop()
    assert run(tmp_path / "gpu.json", "--toy")[0] == 0


def test_no_part_begins_once_the_minutes_are_over(tmp_path: Path) -> None:
    code, parts = run(tmp_path / "gpu.json", "--toy", "--minutes", "0", "--only", "steps")
    assert code == 1
    assert parts["steps"]["error"] == "not begun: 0 minutes were over; the same command goes on"


def test_no_part_goes_on_once_the_minutes_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "python", monkeypatch, "exec sleep 60")
    started = time.monotonic()
    code, parts = run(tmp_path / "gpu.json", "--minutes", "0.005", "--only", "steps", "--only", "fid")
    assert time.monotonic() - started < 30
    assert code == 1
    assert parts["steps"]["error"].startswith("TimeoutError: not done in 0.")
    assert parts["fid"]["error"].startswith("not begun: ")


def test_a_part_that_takes_too_long_leaves_its_rows_and_nothing_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # -m benchmarks.gpu --part NAME --out FILE
    script = f"""trap 'touch {tmp_path}/ended; exit 143' TERM
echo '[{{"trials": 1}}]' > "$6"
while true; do sleep 0.05; done"""
    program(tmp_path / "python", monkeypatch, script)
    monkeypatch.setattr(gpu, "PARTS", {"one": gpu.Part(lambda _: rows(), 1.0)})
    found = gpu.outcome("one", toy=False, apart=True, seconds=60)
    assert found == {"error": "TimeoutError: not done in 1 s", "found": [{"trials": 1}]}
    assert (tmp_path / "ended").exists()


def test_a_part_that_is_ended_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = f"""
import runpy, sys, time
from pathlib import Path
from cpcnn_core import device_checks

def check(_):
    Path({str(tmp_path)!r}, "begun").touch()
    try:
        time.sleep(600)
    finally:
        Path({str(tmp_path)!r}, "ended").touch()

device_checks.CHECKS["float32"] = check
sys.argv = ["gpu", "--part", "correct_float32", "--out", {str(tmp_path / "found.json")!r}]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
    process = subprocess.Popen([sys.executable, "-c", script], text=True)
    try:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        gpu._end(process)
    assert (tmp_path / "ended").exists()


def test_a_part_is_a_process_of_its_own_whose_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = gpu.outcome("correct_float32", toy=True, apart=True, seconds=600)
    assert found["found"][0]["fine"] is True
    program(tmp_path / "python", monkeypatch, "echo 'Segmentation fault' >&2; exit 139")
    found = gpu.outcome("correct_float32", toy=True, apart=True, seconds=600)
    assert found == {"error": "RuntimeError: ended with exit code 139: Segmentation fault"}


def test_what_is_not_right_is_an_error_with_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Finding("float32", False, "off by a hundredth", {})
    monkeypatch.setattr(device_checks, "CHECKS", {"float32": lambda _: wrong})
    code, parts = run(tmp_path / "gpu.json", "--toy", "--only", "correct_float32")
    assert code == 1
    assert parts["correct_float32"]["error"] == "AssertionError: off by a hundredth"


# --- figures that are not this run's ---


def test_figures_of_another_machine_are_set_aside(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"machine": {"gpu": "another"}, "toy": True, "parts": {"steps": {"found": []}}}))
    code, parts = run(out, "--toy", "--only", "correct_float32")
    assert code == 0
    assert list(parts) == ["correct_float32"]
    assert len(list(tmp_path.glob("gpu-*.json"))) == 1


def test_a_toys_figures_are_never_taken_for_measured_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(scale: gpu.Scale) -> gpu.Rows:
        yield {"toy": scale.toy}

    monkeypatch.setattr(gpu, "PARTS", {"one": gpu.Part(find, 1)})
    monkeypatch.setattr(gpu, "_in_process", lambda name, out, *, toy, **_: gpu.found_here(name, out, toy=toy))
    for arguments, toy in ((["--toy"], True), ([], False), (["--toy"], True)):
        code, parts = run(tmp_path / "gpu.json", *arguments)
        assert (code, parts["one"]["found"]) == (0, [{"toy": toy}])
    monkeypatch.chdir(tmp_path)
    run(None, "--toy")  # of a file of its own, unless one is named
    assert not Path("results/benchmarks/gpu.json").exists()


# --- several trials at once ---

WORKER = """mkdir {folder}/$$
[ "$(ls -d {folder}/[0-9]* | wc -l)" = 2 ] && echo 'torch.OutOfMemoryError: CUDA out of memory' >&2 && exit 1
echo ready
while read go; do echo 2.5; done"""


def test_a_trial_that_ends_is_the_error_of_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "python", monkeypatch, WORKER.format(folder=tmp_path))  # the second one has no room
    one, two, three = side_by_side.rows([((1, 4, 1), 2)], (1, 2, 3), 0.1, {}, "processes")
    assert one["steps_per_s"] == 2.5
    assert two == {
        "how": "processes",
        "config": "1/4/1",
        "trials": 2,
        "error": "WorkerError: one of 2 trials ended with exit code 1: torch.OutOfMemoryError: CUDA out of memory",
    }
    assert three["steps_per_s"] == 7.5


def test_mps_is_ended_whatever_ends_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / side_by_side.MPS_DAEMON, monkeypatch, f'echo "$@" $(timeout 1 cat) >> {tmp_path}/daemon')
    program(tmp_path / "python", monkeypatch, "echo ready; while read go; do echo 2.5; done")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = side_by_side.under_mps([((1, 4, 1), 2)], (1, 2), 0.1)
    assert next(found)["steps_per_s"] == 2.5
    with pytest.raises(SystemExit):
        found.throw(SystemExit(143))
    assert (tmp_path / "daemon").read_text().splitlines() == ["-d", "quit"]


def test_memory_of_a_context_is_what_packing_a_sweep_takes_it_for(monkeypatch: pytest.MonkeyPatch) -> None:
    free, taken = 64 * 2**30, 100 * 2**20
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    monkeypatch.setattr(gpu, "step", lambda *_: {"config": "1/40/5", "peak_bytes": taken})
    found = next(gpu.packing(gpu.Scale.of_toy()))
    assert found["fit"] == free // (taken + memory.CONTEXT_BYTES)
