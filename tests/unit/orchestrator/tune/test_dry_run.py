"""What a plan says, without the probe, which trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from cpcnn_core.keeping import KEPT_BEST_BY, kept_epochs
from cpcnn_core.metrics import OF_IMAGES
from orchestrator.objectives.objective import Objective
from orchestrator.records.recording import Recording
from orchestrator.records.states import MEANINGS, State
from orchestrator.search.space import SearchSpace
from orchestrator.training import trainer
from orchestrator.tune import dry_run, probing
from orchestrator.tune.plan import Plan
from search_spaces import Distribution, choice, ints
from tests.support import probes
from tests.support.fakes import metrics


def sizes(fields: Mapping[str, Distribution]) -> list[tuple[int, int]]:
    space = SearchSpace("a test", "", fields, {"model.nr_logistic_mix": 2}, 4, Objective("val_acc", "max"))
    found = probing.extremes(space.extremes(), trainer.dataset(TrialConfig().data))
    return [(config.model.nr_resnet, config.model.nr_filters) for config in found]


def test_the_smallest_and_the_largest_network_are_found() -> None:
    assert sizes({"model.nr_resnet": ints(1, 2), "model.nr_filters": ints(4, 8)}) == [(1, 4), (2, 8)]
    assert sizes({"train.epochs": ints(1, 2), "model.nr_filters": choice(4), "model.nr_resnet": choice(1)}) == [
        (1, 4),
        (1, 4),
    ]


def test_they_are_found_where_no_branch_is_the_smallest_in_everything() -> None:
    branches = {
        "none": {"model.nr_resnet": 1, "model.nr_filters": 16},
        "stem_add": {"model.nr_resnet": 2, "model.nr_filters": 4},
    }
    assert sizes({"model.fusion": choice(branches)}) == [(2, 4), (1, 16)]


@pytest.mark.parametrize("fid_every", [0, 1])
def test_room_is_planned_for_the_weights_of_every_epoch_that_may_be_the_best_by_some_metric(fid_every: int) -> None:
    config = TrialConfig.from_flat({"train.epochs": 20, "eval.fid_every": fid_every, "train.keep_every": 4})
    measured = [name for name in KEPT_BEST_BY if fid_every or name not in OF_IMAGES]
    protocol = {"fid_extractor": "classifier", "fid_images": 20, "fid_reference": "validation"} if fid_every else {}
    history = [  # each metric is at its best in an epoch of its own
        metrics(
            epoch,
            **{name: float((best == epoch) == (KEPT_BEST_BY[name] == "max")) for best, name in enumerate(measured, 1)},
            **protocol,
            sample_seconds=1.0 if fid_every else None,
        )
        for epoch in range(1, 21)
    ]
    assert probing._kept_weights(config) == len(kept_epochs(history, config.train, range(1, 21)))


@pytest.mark.parametrize("state", MEANINGS)
def test_a_plan_counts_what_the_sweep_would_take_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    fields = {"model.nr_filters": ints(4, 8)}
    settings = {"model.nr_logistic_mix": 2, "model.nr_resnet": 1}
    space = SearchSpace("a test", "", fields, settings, 1, Objective("val_acc", "max"))
    plan = Plan("one", space, tmp_path, 1)
    plan.store.create()
    Recording(plan.store, space.default(), 0).finish(state)
    monkeypatch.setattr(dry_run, "rehearse", probes.rehearse)
    monkeypatch.setattr(dry_run, "_ray_seconds", lambda: 5.0)
    console = Console(record=True, width=200)
    dry_run.show(console, plan)
    ends = state in ("COMPLETE", "PRUNED", "FAILED", "STOPPED")
    assert ("nothing is left to run" if ends else "disk: at most 1 B") in console.export_text()
