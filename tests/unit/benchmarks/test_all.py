"""`python -m benchmarks.all`: every benchmark is in its table, and each failure is that of one row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import all as every
from tests.support import figures
from tests.support.paths import ROOT


def test_every_module_with_a_command_is_in_the_table() -> None:
    commands = {
        file.stem for file in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in file.read_text()
    }
    assert commands - {"all", "gpu"} == {*every.BENCHMARKS, *every.WITHOUT_FIGURES}
    for name, function in every.BENCHMARKS.items():
        assert function.__module__ == f"benchmarks.{name}"


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_table_and_a_file_of_all_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(every, "BENCHMARKS", {"one": figures.measured, "other": figures.lacks})
    out = tmp_path / f"figures.{ending}"
    result = CliRunner().invoke(every.app, ["--short", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "2.5" in result.output
    assert "needs images, not None" in result.output
    rows = list(csv.DictReader(out.read_text().splitlines())) if ending == "csv" else json.loads(out.read_text())
    assert [(row["benchmark"], row["name"], float(row["ratio"]), row["better"]) for row in rows] == [
        ("one", "a step", 2.5, "larger"),
        ("one", "a gap", 0.125, "smaller"),
    ]


def test_one_that_fails_is_named_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(every, "BENCHMARKS", {"broken": figures.fails, "one": figures.measured})
    result = CliRunner().invoke(every.app, [])
    assert result.exit_code == 1
    assert "FloatingPointError: diverged" in result.output
    assert "a slow one" in result.output


@pytest.mark.parametrize(
    ("options", "says"), [(["--only", "train"], "there are one"), (["--out", "x.txt"], "must end")]
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.setattr(every, "BENCHMARKS", {"one": figures.fails})
    result = CliRunner().invoke(every.app, options, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 2
    assert says in result.output
