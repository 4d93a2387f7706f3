"""A sweep that Python runs: an error in the callback ends it, and the same call goes on with it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import ray  # before a sweep is run, as a program may that uses it itself

import orchestrator
from orchestrator.exporting import pictures
from orchestrator.python import running
from orchestrator.tune.plan import Plan
from search_spaces import choice
from tests.support.paths import ROOT

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("ray beside")]


def test_a_sweep_whose_callback_fails_goes_on_with_the_same_call(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.end_to_end.test_python", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


def main(folder: Path) -> None:
    """The program: simulated trials, which have no weights that pictures could be drawn with."""
    assert not ray.is_initialized()
    told: list[tuple[str, int]] = []

    def fails(_config: orchestrator.TrialConfig, _metrics: orchestrator.EpochMetrics) -> None:
        raise LookupError("the disk is full")

    def on_epoch(config: orchestrator.TrialConfig, metrics: orchestrator.EpochMetrics) -> None:
        told.append((config.trial_id, metrics.epoch))

    def run(heard: running.OnEpoch, epochs: int = 2) -> orchestrator.Results:
        return orchestrator.run_sweep(
            {"model.fusion": choice("none", "stem_add")},
            name="mine",
            results=folder,
            settings={"train.epochs": epochs},
            scheduler="none",
            on_epoch=heard,
            quiet=True,
        )

    with pytest.raises(LookupError, match="the disk is full"):
        run(fails)
    left = orchestrator.load_results(folder, "mine").trials
    assert set(left["state"]) == {"INTERRUPTED"}
    assert all("on_epoch: the disk is full" in why for why in left["stopped"])
    results = run(on_epoch)
    assert list(results.trials["state"]) == ["COMPLETE"] * 2
    assert len(results.epochs) == 4
    assert len(told) == len(set(told))
    assert {one for one, epoch in told if epoch == 2} == set(results.trials["trial_id"])
    with pytest.raises(orchestrator.UserError, match=r"asked something else; give run_sweep\(..., name=...\) another"):
        run(on_epoch, epochs=3)


if __name__ == "__main__":
    with (
        patch.object(running, "Plan", partial(Plan, trainer="tests.support.fakes:train")),
        patch.object(pictures, "draw_missing", lambda *_: None),
    ):
        main(Path(sys.argv[1]))
