"""A sweep that Python runs: an error in the callback ends it, and the same call goes on with it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

import orchestrator
from orchestrator.exporting import pictures
from orchestrator.python import running
from orchestrator.tune.plan import Plan
from search_spaces import choice
from tests.support.paths import ROOT

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("ray")]


def test_a_sweep_whose_callback_fails_goes_on_with_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(running, "Plan", partial(Plan, trainer="tests.support.fakes:train"))
    monkeypatch.setattr(pictures, "draw_missing", lambda *_: None)  # what simulated trials have no weights for
    told: list[tuple[str, int]] = []
    full = False

    def on_epoch(config: orchestrator.TrialConfig, metrics: orchestrator.EpochMetrics) -> None:
        if full:
            raise LookupError("the disk is full")
        told.append((config.trial_id, metrics.epoch))

    def run(epochs: int = 2) -> orchestrator.Results:
        return orchestrator.run_sweep(
            {"model.fusion": choice("none", "stem_add")},
            name="mine",
            results=tmp_path,
            settings={"train.epochs": epochs},
            scheduler="none",
            on_epoch=on_epoch,
            quiet=True,
        )

    full = True
    with pytest.raises(LookupError, match="the disk is full"):
        run()
    left = orchestrator.load_results(tmp_path, "mine").trials
    assert set(left["state"]) == {"INTERRUPTED"}
    assert all("on_epoch: the disk is full" in why for why in left["stopped"])
    full = False
    results = run()
    assert list(results.trials["state"]) == ["COMPLETE"] * 2
    assert len(results.epochs) == 4
    assert len(told) == len(set(told))
    assert {one for one, epoch in told if epoch == 2} == set(results.trials["trial_id"])
    with pytest.raises(orchestrator.UserError, match=r"asked something else; give run_sweep\(..., name=...\) another"):
        run(epochs=3)
