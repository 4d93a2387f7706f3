"""`python -m benchmarks.gpu`: all of it, the smallest sizes, on a CPU; and what becomes of a part that goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import gpu
from cpcnn_core import device_checks
from cpcnn_core.device_checks import Finding


def run(out: Path, *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    done = CliRunner().invoke(gpu.app, ["--out", str(out), *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    parts: dict[str, dict[str, object]] = json.loads(out.read_text())["parts"]
    return done.exit_code, parts


@pytest.mark.xdist_group("compiler")
def test_every_part_goes_through_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    code, parts = run(tmp_path / "gpu.json", "--toy")
    assert {name: part["error"] for name, part in parts.items() if "error" in part} == {}
    assert code == 0
    assert list(parts) == list(gpu.PARTS)


def test_a_part_that_goes_wrong_ends_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def found(name: str, *, fails: bool = False) -> gpu.Rows:
        calls.append(name)
        if fails and calls.count(name) == 1:
            raise RuntimeError("CUDA error")
        return [{"name": name}]

    fails, fine = gpu.Part(lambda _: found("one", fails=True), 1), gpu.Part(lambda _: found("two"), 1)
    monkeypatch.setattr(gpu, "PARTS", {"one": fails, "two": fine})
    code, parts = run(tmp_path / "gpu.json", "--toy")
    assert code == 1
    assert parts["one"]["error"] == "RuntimeError: CUDA error"
    assert parts["two"]["found"] == [{"name": "two"}]
    code, parts = run(tmp_path / "gpu.json", "--toy")
    assert code == 0
    assert calls == ["one", "two", "one"]
    assert parts["one"]["found"] == [{"name": "one"}]


def test_no_part_begins_once_the_minutes_are_over(tmp_path: Path) -> None:
    code, parts = run(tmp_path / "gpu.json", "--toy", "--minutes", "0", "--only", "steps")
    assert code == 1
    assert parts["steps"]["error"] == "not begun: 0 minutes were over; the same command goes on"


def test_a_part_is_a_process_of_its_own_whose_end_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.measured("correct_float32", toy=True, apart=True)[0]["fine"] is True
    monkeypatch.setattr(gpu, "PARTS", {"unknown": gpu.Part(lambda _: [], 60)})  # which the process does not know
    with pytest.raises(RuntimeError, match="ended with exit code 2: "):
        gpu.measured("unknown", toy=True, apart=True)


def test_figures_of_another_machine_are_set_aside(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"machine": {"gpu": "another"}, "parts": {"steps": {"found": []}}}))
    code, parts = run(out, "--toy", "--only", "correct_float32")
    assert code == 0
    assert list(parts) == ["correct_float32"]
    assert len(list(tmp_path.glob("gpu-*.json"))) == 1


def test_what_is_not_right_is_an_error_with_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Finding("float32", False, "off by a hundredth", {})
    monkeypatch.setattr(device_checks, "CHECKS", {"float32": lambda _: wrong})
    code, parts = run(tmp_path / "gpu.json", "--toy", "--only", "correct_float32")
    assert code == 1
    assert parts["correct_float32"]["error"] == "AssertionError: off by a hundredth"
