"""Windows, as far as Linux can play it: what reads results, chooses, exports and trains alone does without POSIX."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.process import parent
from orchestrator.training.replicas import Replicated
from tests.support import old_results, pictures
from tests.support.paths import ROOT
from tests.support.windows import THEN

TINY = ["--epochs", "1"]
for setting in ("data.train_fraction=0.1", "eval.fid_images_per_class=2", "model.nr_filters=2", "model.nr_resnet=1"):
    TINY += ["--set", setting]

COMMANDS = {
    "status": ["--sweep", "two_fusions"],
    "spaces": [],
    "best": ["--metric", "val_acc", "--sweep", "two_fusions", "--set", "data.root=course", "--out", "chosen"],
    "export": ["chosen"],
    "report": ["--sweep", "two_fusions"],
    "new_space": ["mine.py"],
    "trial": ["digits", *TINY, "--name", "one"],
}


def test_readers_and_a_trial_by_hand_do_without_posix(tmp_path: Path) -> None:
    old_results.of_schema_3(tmp_path / "results")
    pictures.write_course(tmp_path / "course", old_results.SEED)
    typed = [part for command, given in COMMANDS.items() for part in (THEN, f"orchestrator.{command}", *given)][1:]
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-m", "tests.support.windows", *typed],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "chosen is as it was exported" in done.stdout
    assert (tmp_path / "results" / "report.html").is_file()
    assert len(list((tmp_path / "results" / "one" / "checkpoints").glob("*.lock"))) == 1
    assert not list((tmp_path / "results").rglob("*.tmp"))


def test_a_trial_of_several_processes_is_refused_where_none_inherits_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parent, "_HANDS_DOWN", False)
    with pytest.raises(parent.NotHereError, match=r"^a trial of 2 processes: is not to be had on Windows"):
        Replicated("any", 2, 1)
