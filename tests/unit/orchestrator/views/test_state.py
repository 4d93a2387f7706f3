"""`status --json`: one object, whose keys docs/sweeps.md has, each with its meaning."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from orchestrator import status
from orchestrator.records.store import Attempt
from orchestrator.views import state
from tests.support.paths import ROOT
from tests.support.times import at
from tests.unit.orchestrator.test_best import CONFIG, add


def asked(results: Path) -> dict[str, Any]:  # Any: JSON
    done = CliRunner().invoke(status.app, ["--results", str(results), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_the_page_has_every_key() -> None:
    section = (ROOT / "docs" / "sweeps.md").read_text().split("## Watching a sweep")[1].split("\n## ")[0]
    keys = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert keys == [field.name for field in fields(state.SweepState)]
    assert f"`version`, {state.VERSION} now" in section


def test_it_says_how_a_sweep_stands(tmp_path: Path) -> None:
    results = tmp_path / "results"
    store = add(results, [0.5, 0.6])
    running, failed = CONFIG.with_settings({"seed": 7}), CONFIG.with_settings({"seed": 8})
    store.write_attempt(
        Attempt(trial_id=running.trial_id, attempt=1, number=1, state="RUNNING", started=at(), host="here"), running
    )
    store.write_attempt(
        Attempt(trial_id=failed.trial_id, attempt=1, number=2, state="FAILED", started=at(), error="disk full"), failed
    )
    found = asked(results)
    assert found["version"] == state.VERSION
    [sweep] = found["sweeps"]
    assert sweep["states"] == {"COMPLETE": 1, "FAILED": 1, "RUNNING": 1}
    assert (sweep["trials_ended"], sweep["driver"], sweep["driver_alive"]) == (2, None, None)
    epochs = running.train.epochs
    assert sweep["running"] == [{"trial_id": running.trial_id, "epoch": 0, "epochs": epochs, "host": "here"}]
    assert sweep["failed"] == [{"trial_id": failed.trial_id, "state": "FAILED", "reason": "disk full"}]
    assert sweep["warnings"] == []


def test_the_sentence_is_short() -> None:
    best = state.BestTrial("0123456789ab", 3, "val_acc", 0.9, {})
    made = state.SweepState(
        "digits", "sweep", None, "pid 1", False, 10, 4, {"COMPLETE": 4}, 2.0, 120.0, None, best, (), (), (), ()
    )
    assert made.sentence == (
        "digits: 4 of 10 trials have ended (4 COMPLETE); about 2 min 0 s left; best so far: val_acc 0.9000 of "
        "0123456789ab; its driver is gone, and the same command goes on where it stood"
    )
