"""What a plan says, without the probe, which trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
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


@pytest.mark.parametrize(
    ("settings", "share", "says"),
    [
        ({}, 0.05, "scoring: 300 validation and 512 training images under 10 classes, after each epoch"),
        (
            {"eval.every": 3, "eval.max_images": 60, "eval.train_images": 0},
            0.5,
            "scoring: 60 of 300 validation images under 10 classes, after every 3 epochs and after the last; eval.*",
        ),
    ],
)
def test_a_plan_says_what_is_scored_and_its_share_of_an_epoch(
    settings: dict[str, object], share: float, says: str
) -> None:
    config = TrialConfig.from_flat(settings)
    probe = probing.Probe(config, 1, 1, 10.0, 1, scoring_seconds=10.0 * share)
    assert fnmatchcase(dry_run._scoring([probe], trainer.dataset(config.data)), says)
    plan = Plan("one", SearchSpace("a test", "", {}, {}, 1, Objective("val_acc", "max")), Path(), 1)
    [column] = [each for each in dry_run._table(plan, [probe]).columns if each.head == "of it scoring"]
    assert list(column.cells) == [f"{share:.0%}"]


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        ({}, 300 + 512 + 300 / 10),
        ({"eval.every": 4}, (300 + 512) * 3 / 10 + 300 / 10),  # after epochs 4, 8 and 10
        ({"eval.max_images": 50, "eval.train_images": 100}, 50 + 100 + 50 / 10),
    ],
)
def test_the_cost_of_scoring_counts_what_is_scored_and_how_often(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], images: float
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(probing, "evaluate_some", lambda _, count: asked.append(count))
    monkeypatch.setattr(probing, "_seconds", lambda _, work: work() or 2.0)
    config = TrialConfig.from_flat({"model.nr_filters": 2, "model.nr_logistic_mix": 1, **settings})
    data = trainer.dataset(config.data)
    labelled = replace(data, test=data.validation)
    with probing.prepared(config, labelled) as run:
        assert probing._scoring_seconds(run, 1e-3) == pytest.approx(2.0 * images / asked[0])
