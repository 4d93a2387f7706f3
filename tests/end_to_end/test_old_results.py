"""A folder that an earlier version wrote is shown, chosen from, exported and reported, and loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cpcnn_core.config import PROTOCOL
from orchestrator import best, export, report, status
from orchestrator.records.store import Store
from tests.support import old_results
from tests.support.old_results import COMPLETE, INTERRUPTED
from tests.support.paths import ROOT, local
from tests.support.pictures import write_course

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("ray beside")]


@pytest.fixture
def old(tmp_path: Path) -> Store:
    return old_results.of_schema_3(tmp_path / "results")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_course(tmp_path / "pictures", old_results.SEED)


def called(app: typer.Typer, *arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_it_is_shown_and_reported(old: Store, tmp_path: Path) -> None:
    results = old.folder.parent
    shown = called(status.app, "--results", results)
    assert "two_fusions: 2 of 3 trials have ended (2 COMPLETE, 1 INTERRUPTED)" in shown
    assert f"{INTERRUPTED} INTERRUPTED: Ctrl-C" in shown
    called(report.app, "--results", results, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(trial_id in page for trial_id in (*COMPLETE, INTERRUPTED))
    assert "fusion.block_film.gamma_mean" in page


@pytest.mark.parametrize("trial_id", ["be8bcaa36bac", INTERRUPTED])
def test_each_trial_is_chosen_and_exported(old: Store, pictures: Path, trial_id: str, tmp_path: Path) -> None:
    where = f"trial_id == '{trial_id}' and started >= '2026-11-27' and protocol == 2"
    place = ("--set", f"data.root={pictures}")
    chosen = called(
        best.app,
        "--metric",
        "val_bpd",
        "--where",
        where,
        "--results",
        old.folder.parent,
        *place,
        "--out",
        tmp_path / "out",
    )
    assert f"of {trial_id}: val_bpd" in chosen
    called(export.app, tmp_path / "out", "--data-root", pictures)
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert "trained by commit `e2c2fa8" in card
    assert "2026-11-27T03:20:" in card


def test_the_same_command_says_that_another_release_goes_on_with_it(old: Store, pictures: Path, tmp_path: Path) -> None:
    before = contents(old)
    space = tmp_path / "two_fusions.py"
    space.write_text(old_results.SPACE)
    command = [sys.executable, "-m", "orchestrator.sweep", space, "--set", f"data.root={pictures}"]
    done = subprocess.run(
        [*command, "--results", old.folder.parent],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ.copy(),
        cwd=ROOT,
    )
    assert done.returncode == 2, done.stderr
    said = f"was begun under protocol 2, and this release trains and measures by protocol {PROTOCOL}"
    assert said in done.stderr
    assert "the release that began it (commit e2c2fa8" in done.stderr
    assert contents(old) == before


def contents(store: Store) -> dict[Path, bytes]:
    """What the folder holds, but for who holds it."""
    files = [file for file in local(store.folder).rglob("*") if file.is_file() and not file.name.startswith("driver-")]
    return {file: file.read_bytes() for file in files}
