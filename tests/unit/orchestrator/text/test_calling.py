"""What is said to who types a command where the project's packages are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.text import calling
from tests.support.paths import ROOT

LACKS = """
import sys

class Lacks:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Lacks())
"""


def typed(*arguments: str, without: str | None = None, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A command in the repository, by a Python that has no packages at all, or all but one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    bare = ["-S"] if without is None else []
    if without is not None:
        (tmp_path / "sitecustomize.py").write_text(LACKS.format(missing=without))
        environment["PYTHONPATH"] = str(tmp_path)
    command = [sys.executable, *bare, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", ["best", "sweep", "trial", "status", "report", "export", "fid", "track"])
def test_without_the_environment_a_command_says_how_to_get_it(tmp_path: Path, command: str) -> None:
    result = typed("-m", f"orchestrator.{command}", "--metric", "val acc", tmp_path=tmp_path)
    (line,) = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert line.startswith(f"error: {sys.executable} lacks the package ")
    assert f"type uv run python -m orchestrator.{command} --metric 'val acc'" in line


@pytest.mark.parametrize("missing", ["torch", "pydantic", "rich"])
def test_so_it_does_where_one_package_is_missing(tmp_path: Path, missing: str) -> None:
    arguments = ("-m", "orchestrator.trial", "search_spaces/digits.py", "--results", str(tmp_path))
    result = typed(*arguments, without=missing, tmp_path=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith(f"error: {sys.executable} lacks the package {missing}, ")
    assert len(result.stderr.splitlines()) == 1


def test_any_other_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    result = typed("-m", "orchestrator.best", without="cpcnn_core.errors", tmp_path=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "No module named 'cpcnn_core.errors'" in result.stderr


def test_who_imports_the_package_keeps_their_hook(tmp_path: Path) -> None:
    result = typed("-c", "import sys, orchestrator; print(sys.excepthook is sys.__excepthook__)", tmp_path=tmp_path)
    assert result.stdout == "True\n"


def test_the_environment_is_named_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "__file__", str(tmp_path / "a b" / "orchestrator" / "text" / "calling.py"))
    monkeypatch.chdir(tmp_path)
    assert "activate" not in calling.without_environment("typer")
    activate = tmp_path / "a b" / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    assert calling.without_environment("typer").endswith("first: source 'a b/.venv/bin/activate'")
