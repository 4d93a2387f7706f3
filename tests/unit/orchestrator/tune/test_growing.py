from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.objectives.objective import Objective
from orchestrator.records.recording import Recording
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study
from orchestrator.tune import driver
from orchestrator.tune.plan import Plan, SweepError
from search_spaces import Space, choice, floats, ints
from tests.support.fakes import metrics

FIELDS: Space = {
    "model.fusion": choice({"none": {}, "input_concat": {"model.fusion_options.input_concat.dim": ints(8, 16)}}),
    "model.nr_filters": ints(8, 16, step=4),
    "train.lr": floats(1e-3, 1e-2),
}
SETTINGS = {"train.epochs": 2, "seed": 0, "model.nr_resnet": 2}


def space(fields: Space, settings: dict[str, object] | None = None) -> SearchSpace:
    return SearchSpace("a test", "", fields, settings or SETTINGS, 4, Objective("val_acc", "max"))


def agree(tmp_path: Path, grown: SearchSpace, *, extend: bool = True) -> None:
    begun = Plan("one", space(FIELDS), tmp_path, trials=2)
    begun.store.create()
    driver._agree(begun, begun.store)
    driver._agree(replace(begun, space=grown, extend=extend), begun.store)


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"model.nr_filters": ints(4, 24, step=2)}, {}),
        ({"train.lr": floats(1e-4, 1e-2, log=True)}, {}),
        ({"model.fusion": choice({**FIELDS["model.fusion"].branches, "stem_add": {}, "none": {}})}, {}),
        ({"model.dropout": floats(0.0, 0.5)}, {}),  # admits the default, which the trials had
        ({"model.nr_resnet": choice(1, 2)}, {"model.nr_resnet": ...}),  # admits what was fixed
        ({}, {"model.dropout": 0.5}),  # says what was the default
    ],
)
def test_a_space_that_only_grew_is_accepted_where_asked_for(
    tmp_path: Path, change: Space, settings: dict[str, object]
) -> None:
    kept = {key: value for key, value in {**SETTINGS, **settings}.items() if value is not ...}
    grown = space({**FIELDS, **change}, kept)
    with pytest.raises(SweepError, match="--extend"):
        agree(tmp_path, grown, extend=False)
    agree(tmp_path, grown)
    agree_again = Plan("one", grown, tmp_path, trials=2)
    driver._agree(agree_again, agree_again.store)  # from now on it is what was asked


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        ({"model.nr_filters": ints(12, 16, step=4)}, {}, "model.nr_filters has narrower bounds"),
        ({"model.nr_filters": ints(6, 18, step=4)}, {}, "model.nr_filters has other steps"),
        ({"train.lr": floats(1e-3, 1e-2, step=1e-3)}, {}, "train.lr has other steps"),
        ({"model.nr_filters": choice(8, 12, 16)}, {}, "model.nr_filters was ints and is choice"),
        ({"model.fusion": choice("input_concat")}, {}, "model.fusion has no 'none' any more"),
        (
            {"model.fusion": choice({"none": {}, "input_concat": {}})},
            {},
            "model.fusion_options.input_concat.dim under model.fusion=input_concat is gone",
        ),
        ({"model.dropout": floats(0.0, 0.4)}, {}, "model.dropout is new and does not admit 0.5"),
        ({}, {"train.epochs": 3}, "settings: train.epochs changed"),
        ({}, {"model.dropout": 0.25}, "settings: model.dropout was 0.5, its default"),
        ({}, {"model.nr_resnet": ...}, "settings: model.nr_resnet is gone"),
    ],
)
def test_a_space_that_lost_something_is_refused_with_what(
    tmp_path: Path, change: Space, settings: dict[str, object], says: str
) -> None:
    kept = {key: value for key, value in {**SETTINGS, **settings}.items() if value is not ...}
    with pytest.raises(SweepError, match="it did not only grow") as raised:
        agree(tmp_path, space({**FIELDS, **change}, kept))
    assert says in str(raised.value)


def test_an_extended_sweep_keeps_its_trials_and_asks_within_the_new_space(tmp_path: Path) -> None:
    plan = Plan("one", space({"model.nr_filters": ints(8, 9)}), tmp_path, trials=2)
    plan.store.create()
    driver._agree(plan, plan.store)
    study = Study(plan.space, plan.store, seed=0, trials=2)
    for _ in range(2):
        suggestion = study.next()
        assert suggestion is not None
        recording = Recording(plan.store, suggestion.config, suggestion.number)
        plan.store.add_epoch(suggestion.config.trial_id, 1, metrics(2))
        recording.finish("COMPLETE")
    study.close()
    grown = replace(plan, space=space({"model.nr_filters": ints(8, 10)}), extend=True, trials=3)
    driver._agree(grown, grown.store)
    assert (grown.store.folder / "study-1.db").exists()
    study = Study(grown.space, grown.store, seed=0, trials=3)
    assert study.finished == 2
    suggestion = study.next()
    assert suggestion is not None
    assert suggestion.config.model.nr_filters == 10
    assert study.next() is None
    study.close()
