"""What a sweep learns from earlier ones, and what it leaves aside."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.records.states import State
from orchestrator.records.store import Attempt, Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search import warm_start
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study
from orchestrator.tune import driver
from orchestrator.tune.plan import Plan, SweepError
from orchestrator.views.progress import Progress
from search_spaces import COURSE_GRADING, ints
from tests.support.fakes import metrics
from tests.support.times import at

SPACE = SearchSpace(
    "a test", "", {"model.nr_filters": ints(8, 11)}, {"train.epochs": 2, "seed": 5}, 4, Objective("val_acc", "max")
)
PROTOCOL = {"fid_extractor": "inception-192", "fid_images": 100, "fid_reference": "digits/validation 12ab"}


def store_of(tmp_path: Path, name: str) -> Store:
    store = Store(tmp_path / name)
    store.create()
    return store


def add(
    store: Store, state: State = "COMPLETE", *, measured: dict[str, Any] | None = None, epochs: int = 2, **settings: Any
) -> TrialConfig:
    given = {name.replace("__", "."): value for name, value in settings.items()}
    config = TrialConfig.from_flat({"train.epochs": 2, "seed": 5, "model.nr_filters": 8} | given)
    for epoch in range(1, epochs + 1):
        value = config.model.nr_filters / 100 + epoch / 1000
        store.add_epoch(config.trial_id, 1, metrics(epoch, **{"val_acc": value, **(measured or {})}))
    attempt = Attempt(trial_id=config.trial_id, attempt=1, number=None, state=state, started=at())
    store.write_attempt(attempt, config)
    return config


def test_only_what_the_space_admits_and_was_measured_alike_is_used(tmp_path: Path) -> None:
    old = store_of(tmp_path, "old")
    used = [
        add(old),
        add(old, model__nr_filters=9, seed=7, eval__batch_size=77),  # another seed and batch measure the same thing
        add(old, "PRUNED", model__nr_filters=10, epochs=1),
    ]
    add(old, model__nr_filters=12)
    add(old, train__epochs=3)
    add(old, model__dropout=0.3)
    add(old, data__train_fraction=0.5)
    add(old, "FAILED", seed=8)
    add(old, "RUNNING", seed=9)
    add(old, seed=10, measured={"val_acc": None})
    add(old, source="0" * 64)
    [source] = warm_start.gather(SPACE, [old])
    assert {name for name, _ in source.used} == {f"old/{config.trial_id}" for config in used}
    assert set(source.refused) == {
        "model.nr_filters is 12, which the space does not have",
        "train.epochs is 3, not 2",
        "model.dropout is 0.3, not 0.5",
        "data.train_fraction is 0.5, not 1",
        "it failed",
        "it has not ended",
        "it has no val_acc in any epoch",
        "it is an imported checkpoint, which no space gives",
    }
    said = source.summary(2)
    assert said.startswith("warm start from old: 3 trials used (1 of them known already), 8 not: 1 because ")
    assert said.endswith("; 3 others")


@pytest.mark.parametrize("metric", ["train_acc", "val_acc"])
def test_how_many_training_images_are_looked_at_matters_to_train_acc_alone(tmp_path: Path, metric: str) -> None:
    space = SearchSpace("a test", "", SPACE.fields, SPACE.settings, 4, Objective.of(metric))
    old = store_of(tmp_path, "old")
    add(old, measured={"train_acc": 0.5})
    add(old, model__nr_filters=9, eval__train_images=77, measured={"train_acc": 0.6})
    [source] = warm_start.gather(space, [old])
    assert len(source.used) == (1 if metric == "train_acc" else 2)
    assert list(source.refused) == (["eval.train_images is 77, not 512"] if metric == "train_acc" else [])


@pytest.mark.parametrize(
    ("setting", "reason"),
    [({"eval__every": 2}, None), ({"eval__max_images": 50}, "eval.max_images is 50, not null")],
)
def test_scores_of_fewer_epochs_mean_the_same_and_of_other_images_not(
    tmp_path: Path, setting: dict[str, int], reason: str | None
) -> None:
    old = store_of(tmp_path, "old")
    add(old, **setting, measured={"val_acc": 0.5})
    [source] = warm_start.gather(SPACE, [old])
    assert len(source.used) == (reason is None)
    assert list(source.refused) == ([] if reason is None else [reason])


@pytest.mark.parametrize("known", [True, False])
def test_a_fid_of_other_features_is_no_fid(tmp_path: Path, known: bool) -> None:
    space = SearchSpace(
        "a test", "", SPACE.fields, {**SPACE.settings, "eval.fid_every": 1}, 4, Objective.of(COURSE_GRADING)
    )
    old = store_of(tmp_path, "old")
    same = [
        add(old, measured={"fid": 40.0, **PROTOCOL}),
        add(old, model__nr_filters=9, measured={"fid": 40.0, **PROTOCOL}),
    ]
    newer = store_of(tmp_path, "newer")
    add(newer, measured={"fid": 4.0, **PROTOCOL, "fid_images": 25})
    add(newer, seed=1)  # without a FID
    protocol = ("inception-192", 100, "digits/validation 12ab") if known else None
    first, second = warm_start.gather(space, [old, newer], protocol)
    assert [source for source, _ in first.used] == sorted(f"old/{config.trial_id}" for config in same)
    assert second.used == []
    other, missing = second.refused
    assert other.startswith(
        "its FID has other features, images or reference (inception-192 of 25 images against digits"
    )
    assert other.endswith("not inception-192 of 100 images against digits/validation 12ab)")
    assert missing == "it has no val_acc and fid in any epoch"
    # an objective that reads no FID does not care
    assert len(warm_start.gather(SPACE, [newer])[0].used) == 2


def test_what_was_learnt_stays_learnt_counts_as_no_trial_and_is_not_run_again(tmp_path: Path) -> None:
    old, new = store_of(tmp_path, "old"), store_of(tmp_path, "new")
    same = add(old)
    add(old, model__nr_filters=9, seed=7)
    [source] = warm_start.gather(SPACE, [old])
    study = Study(SPACE, new, seed=0, trials=4)
    assert study.learn(source.used) == 2
    assert study.finished == 0
    study.close()
    study = Study(SPACE, new, seed=0, trials=4)
    assert study.learn(source.used) == 0  # told once, whatever happens to the driver
    ran = set()
    while (suggestion := study.next()) is not None:
        ran.add(suggestion.config.model.nr_filters)
        study.end(suggestion.number, "COMPLETE", {"epoch": 1, "val_acc": 0.5})
    assert ran == {9, 10, 11}  # 8 with this very seed is known; 9 was run on another seed
    assert same.trial_id not in study._known
    told = [trial.value for trial in study._study.trials if "earlier_sweep" in trial.user_attrs]
    assert sorted(value or 0 for value in told) == pytest.approx([0.082, 0.092])
    study.close()


def test_a_trial_that_has_begun_goes_on_though_another_sweep_has_finished_it(tmp_path: Path) -> None:
    old, new = store_of(tmp_path, "old"), store_of(tmp_path, "new")
    study = Study(SPACE, new, seed=0, trials=1)
    begun = study.next()
    assert begun is not None
    add(old, model__nr_filters=begun.config.model.nr_filters)
    study.learn(warm_start.gather(SPACE, [old])[0].used)
    study.close()
    study = Study(SPACE, new, seed=0, trials=1)
    assert study.next() == begun
    study.close()


def test_nsga2_breeds_from_what_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.samplers import NSGAIISampler

    from orchestrator.search import samplers

    monkeypatch.setattr(samplers, "NSGA2_POPULATION", 2)
    old = store_of(tmp_path, "old")
    for filters in (8, 9):
        add(old, model__nr_filters=filters, seed=7)
    space = SearchSpace("a test", "", SPACE.fields, SPACE.settings, 4, SPACE.objective, sampler="nsga2")
    study = Study(space, store_of(tmp_path, "new"), seed=0, trials=4)
    study.learn(warm_start.gather(space, [old])[0].used)
    study.next()
    key = NSGAIISampler._get_generation_key()
    assert [trial.system_attrs[key] for trial in study._study.trials][:3] == [0, 0, 1]
    study.close()


def test_the_driver_says_what_it_learnt_and_names_a_sweep_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(store_of(tmp_path, "digits-old"))
    monkeypatch.setattr(driver, "_tune", lambda *_: None)

    def run(*names: str) -> None:
        plan = Plan("new", SPACE, tmp_path, trials=2, trainer="tests.support.fakes:train", warm_start=names)
        with Progress(Console(width=200), SPACE.objective, SPACE.searched, total=2) as view:
            driver.run(plan, view)

    run("digits-old")
    assert "warm start from digits-old: 1 trials used\n" in capsys.readouterr().out
    run()
    assert "warm start" not in capsys.readouterr().out  # the study knows it
    Store(tmp_path / "new").set_study_aside()  # as --extend does, or the loss of the file
    run()
    assert "warm start from digits-old: 1 trials used\n" in capsys.readouterr().out
    assert (Store(tmp_path / "new").read_sweep() or SweepRecord()).warm_start == ["digits-old"]
    shutil.rmtree(tmp_path / "digits-old")
    Store(tmp_path / "new").set_study_aside()
    run()
    assert "warm start from digits-old: it is not in" in capsys.readouterr().out
    add(store_of(tmp_path, "digits-old"))
    with pytest.raises(SweepError, match=r"--warm-start digits-odl: no other sweep .* did you mean digits-old\?"):
        run("digits-odl")
