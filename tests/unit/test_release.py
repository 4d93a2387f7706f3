"""A release: its version and its changelog agree, and what is built holds what users need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from datetime import date
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

from cpcnn_core.config import TrialConfig
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION: str = PROJECT["project"]["version"]
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return folder


def files() -> set[str]:
    """All of the checkout but what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in names.splitlines() if (ROOT / name).exists()}


def test_the_newest_dated_head_of_the_changelog_is_of_this_version() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "Unreleased"
    version, day = heads[1].split(" - ")
    assert version == VERSION
    assert date.fromisoformat(day)


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        about = Parser().parsestr(file.read(f"cpcnn_sweeps-{VERSION}.dist-info/METADATA").decode())
    held = {name for name in names if ".dist-info/" not in name}
    assert held == {name for name in files() if name.split("/")[0] in PACKAGES}
    assert {f"{package}/py.typed" for package in PACKAGES if package != "cluster"} <= held
    assert "cluster/gpu.yaml" in held
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert (about["Version"], about["Requires-Python"]) == (VERSION, "<3.15,>=3.11")


@pytest.fixture
def installed(built: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has the wheel and no checkout: it comes before what is installed here."""
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
    return {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}


SCRIPT = "import sys; sys.argv[0] = 'cpcnn'; from orchestrator.cpcnn import main; sys.exit(main())"  # as pip writes it


@pytest.mark.unmeasured
def test_with_the_wheel_alone_a_space_is_searched_by_its_name(installed: dict[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    def typed(*arguments: str) -> str:
        command = [sys.executable, "-c", SCRIPT, *arguments]
        done = subprocess.run(
            command, cwd=empty, env=installed, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ("--set", "data.train_fraction=0.03", "--set", "eval.train_images=0", "--trials", "1")
    said = typed("sweep", "digits", "--dry-run", *small)
    assert str(tmp_path / "installed" / "search_spaces" / "digits.py") in said
    assert "1 trials into" in said
    assert "digits\n" in typed("spaces")
    typed("new-space", "mine.py")
    assert sorted(file.name for file in empty.iterdir()) == ["mine.py"]


def test_the_wheel_has_the_command(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith("entry_points.txt")]
        points = file.read(name).decode()
    assert "[console_scripts]\ncpcnn = orchestrator.cpcnn:main" in points


def test_the_source_distribution_holds_the_checkout(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert names - {"PKG-INFO"} == files()


def test_a_release_changes_no_trials_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TrialConfig().trial_id
    monkeypatch.setattr(metadata, "version", lambda name: "99.9")
    assert TrialConfig().trial_id == before == "dc1349eb3c5a"
