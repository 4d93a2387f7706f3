"""A trial is its configuration, the content of its data and the protocol: no other is ever taken for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpcnn_core.checkpoint import load_weights
from cpcnn_core.config import PROTOCOL, ConfigError, Scalar, TrialConfig, field_names
from orchestrator import best, status, trial
from orchestrator.choosing.confirming import Finalist
from orchestrator.records.mixtures import Held, MixtureError
from orchestrator.records.store import Store, config_of
from orchestrator.records.sweep_file import Asked, SweepRecord
from orchestrator.search import growth, warm_start
from orchestrator.search.space import SpaceError, read
from orchestrator.training import trainer
from orchestrator.tune import driver
from orchestrator.tune.plan import Plan
from tests.support import old_results
from tests.support.fakes import NoView
from tests.support.pictures import write_course

OLD_TRIALS = {"71a511c4e3cc": "none", "e70f652de265": "block_film"}

SPACE = '''"""Which?"""
from search_spaces import choice
space = {"model.fusion": choice("none", "stem_add")}
settings = {"data.name": "cpen455", "data.image_size": 8, "model.nr_filters": 4, "model.nr_logistic_mix": 1,
            "train.epochs": 1, "train.batch_size": 4, "eval.train_images": 0}
trials = 2
'''


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    return write_course(tmp_path / "cats", 0)


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    return write_course(tmp_path / "dogs", 1)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "which.py"
    file.write_text(SPACE)
    return file


def relabel(root: Path) -> None:
    rows = (root / "train.csv").read_text().splitlines()
    (root / "train.csv").write_text("\n".join([*rows[:-1], f"{rows[-1].partition(',')[0]},0"]))


# ------------------------------------------------------------------------------------------------------ the trial's id


def test_every_setting_but_the_data_s_place_is_part_of_the_id() -> None:
    other: dict[str, object] = {
        "data.digest": "0" * 32, "protocol": 1, "source": "0" * 64, "train.adam_eps": 1e-7, "seed": 1,
        "data.quantize": False,
    }  # fmt: skip
    plain = TrialConfig()
    for name, value in other.items():
        assert plain.with_settings({name: value}).trial_id != plain.trial_id, name
    assert set(other) <= set(field_names())
    here, there = (TrialConfig.from_flat({"data.name": "folder", "data.root": root}) for root in ("here", "there"))
    assert here.trial_id == there.trial_id


def test_the_course_s_pixels_are_unrounded_and_the_digits_as_they_were() -> None:
    course = {"data.name": "cpen455", "data.root": "."}
    assert TrialConfig.from_flat(course).data.quantize is False
    assert TrialConfig.from_flat({**course, "data.quantize": True}).data.quantize is True
    assert TrialConfig().data.quantize is True


def test_a_trial_of_this_protocol_keeps_its_id() -> None:
    """Raise PROTOCOL where this changes: the same configuration would stand for other numbers."""
    assert PROTOCOL == 3
    assert TrialConfig().trial_id == "dc1349eb3c5a"


# ---------------------------------------------------------------------------------------------------------- other data


NAMES = ("cats", "dogs", "corrected")


def run_trial(space: Path, root: Path, results: Path, name: str) -> str:
    trainer._loaded.cache_clear()  # each command is a process of its own
    arguments = [str(space), "--set", f"data.root={root}", "--results", str(results), "--name", name]
    result = CliRunner().invoke(trial.app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_same_command_on_other_images_or_labels_is_another_trial(
    space: Path, cats: Path, dogs: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    assert "All epochs were there already" not in run_trial(space, cats, results, "cats")
    assert "All epochs were there already" in run_trial(space, cats, results, "cats")
    assert "All epochs were there already" not in run_trial(space, dogs, results, "dogs")
    relabel(dogs)
    assert "All epochs were there already" not in run_trial(space, dogs, results, "corrected")
    rows = [row for name in NAMES for row in Store(results / name).latest_attempts().rows()]
    assert len({row["trial_id"] for row in rows}) == len({row["data.digest"] for row in rows}) == 3
    assert {row["protocol"] for row in rows} == {PROTOCOL}
    named = [argument for name in NAMES for argument in ("--sweep", name)]
    chosen = CliRunner().invoke(best.app, ["--metric", "val_acc", *named, "--results", str(results)])
    assert chosen.exit_code == 2, chosen.output
    for row in rows:
        assert row["data.digest"][:12] in chosen.output


def begun(space: Path, root: Path, results: Path) -> Plan:
    """A sweep that has been begun on the data at `root`."""
    asked = read(space, [f"data.root={root}"])
    plan = Plan("which", asked, results, trials=2)
    plan.store.create()
    driver._agree(driver._with_one_data_set(plan, Held.of(plan.store)), plan.store)
    return plan


@pytest.mark.parametrize("change", ["other folder", "corrected label"])
def test_a_sweep_does_not_go_on_with_other_data(
    space: Path, cats: Path, dogs: Path, tmp_path: Path, change: str
) -> None:
    plan = begun(space, cats, tmp_path / "results")
    before = trainer.digest(plan.space.default().data)
    record = plan.store.read_sweep() or SweepRecord()
    assert record.settings["data.digest"] == before
    assert record.asked is not None
    assert record.asked.protocol == PROTOCOL
    root = dogs
    if change == "corrected label":
        relabel(cats)
        root = cats
        trainer._loaded.cache_clear()
    again = replace(plan, space=read(space, [f"data.root={root}"]))
    after = trainer.digest(again.space.default().data)
    with pytest.raises(MixtureError, match=f"other data: their digest is {before}, that of the data at .* is {after}"):
        driver.run(again, NoView())


def test_a_sweep_goes_on_where_its_data_has_moved_to(space: Path, cats: Path, tmp_path: Path) -> None:
    plan = begun(space, cats, tmp_path / "results")
    moved = cats.rename(tmp_path / "moved")
    trainer._loaded.cache_clear()
    again = replace(plan, space=read(space, [f"data.root={moved}"]))
    same = driver._with_one_data_set(again, Held.of(plan.store))
    assert same.space.describe() == driver._with_one_data_set(again, Held.of(plan.store)).space.describe()
    driver._agree(same, plan.store)


def test_a_trial_s_process_refuses_other_data_than_its_configuration_names(cats: Path, dogs: Path) -> None:
    settings = {"data.name": "cpen455", "data.root": str(cats), "data.image_size": 8, "train.batch_size": 4}
    config = trainer.identified(TrialConfig.from_flat(settings))
    trainer.check(config)
    with pytest.raises(ValueError, match=r"data\.digest: the data is another than the one asked for"):
        trainer.check(config.with_settings({"data.root": str(dogs)}))


@pytest.mark.parametrize(
    "field",
    [
        "data.name",
        "data.root",
        "data.digest",
        "data.image_size",
        "data.channels",
        "data.dataset",
        "data.image_column",
        "data.label_column",
        "data.validation_share",
        "data.test_share",
        "data.split_seed",
        "eval.max_images",
        "protocol",
        "source",
    ],
)
def test_what_all_trials_of_a_sweep_share_cannot_be_searched(tmp_path: Path, field: str) -> None:
    file = tmp_path / "mixed.py"
    file.write_text(f"from search_spaces import choice\nspace = {{{field!r}: choice('a', 'b')}}\n")
    with pytest.raises(SpaceError, match=f"{field} cannot be searched"):
        read(file)


def test_a_question_is_the_same_where_a_default_of_how_the_data_is_cut_is_stated() -> None:
    digest = {"data.digest": "a" * 32}
    settings: list[dict[str, Scalar]] = [{}, {"data.validation_share": 0.1, "data.split_seed": 0}]
    plain, stated = (Asked(settings=digest | each) for each in settings)
    assert plain.identifying() == stated.identifying()
    assert list(growth.refusals(plain, {}, stated, {})) == list(growth.refusals(stated, {}, plain, {})) == []
    assert stated.as_json()["settings"] == digest | settings[1]  # which the card of a model names
    other = Asked(settings={"data.digest": "b" * 32} | settings[1])
    assert other.identifying() != stated.identifying()
    assert Asked(settings=settings[0]).identifying() != Asked(settings=settings[1]).identifying()


# ------------------------------------------------------------------------------------------------------- sweeps of 0.1


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """A sweep as release 0.1 left it."""
    return old_results.of_0_1(tmp_path / "results")


def test_an_old_sweep_s_rows_and_weights_have_the_ids_that_they_had(old: Store) -> None:
    rows = {row["trial_id"]: row for row in old.latest_attempts().rows()}
    assert {name: row["model.fusion"] for name, row in rows.items()} == OLD_TRIALS
    for name, row in rows.items():
        config = config_of(row)
        assert (config.protocol, config.trial_id) == (1, name)
        null = config_of({**row, "protocol": None, "data.digest": None, "train.adam_eps": None})  # beside new rows
        assert null == config
    [weights] = (old.checkpoint_folder("e70f652de265") / name for name in ("weights-0002.safetensors",))
    assert isinstance(weights, Path)
    assert load_weights(weights).config.trial_id == "e70f652de265"


def test_an_old_sweep_is_shown_chosen_from_and_exported(old: Store) -> None:
    results = str(old.folder.parent)
    shown = CliRunner().invoke(status.app, ["--results", results])
    assert "2 of 2 trials have ended (2 COMPLETE)" in shown.output
    chosen = CliRunner().invoke(best.app, ["--metric", "val_acc", "--results", results])
    assert chosen.exit_code == 0, chosen.output
    assert "val_acc 0.170000 recorded, 0.170000 measured again" in chosen.output


def plan_of(old: Store, tmp_path: Path) -> Plan:
    asked = json.loads((old.folder / "sweep.json").read_text())["asked"]
    file = tmp_path / "two_fusions.py"
    file.write_text(
        "from search_spaces import choice\n"
        f"space = {{'model.fusion': choice('none', 'block_film')}}\nsettings = {asked['settings']!r}\n"
        "trials = 2\nsampler = 'grid'\nscheduler = 'none'\n"
    )
    assert isinstance(old.folder, Path)
    return Plan("two_fusions", read(file), old.folder.parent, trials=2)


def test_going_on_with_an_old_sweep_needs_the_old_release(old: Store, tmp_path: Path) -> None:
    with pytest.raises(MixtureError, match=r"begun under protocol 1, .* by protocol 3.*commit 288e41b.*another --name"):
        driver.run(plan_of(old, tmp_path), NoView())


def test_training_on_from_old_trials_is_refused_naming_both_protocols(old: Store, tmp_path: Path) -> None:
    row = old.latest_attempts().rows()[0]
    with pytest.raises(ConfigError, match=r"recorded under protocol 1, and this release trains by protocol 3"):
        trainer.check(config_of(row))
    names = set(field_names())
    settings = {name: value for name, value in row.items() if name in names}
    with pytest.raises(ConfigError, match="recorded under protocol 1"):
        Finalist("two_fusions", row["trial_id"], 0.1, settings).run(5)
    replayed = CliRunner().invoke(trial.app, ["replay", row["trial_id"], "--results", str(old.folder.parent)])
    assert replayed.exit_code == 2
    assert "recorded under protocol 1" in replayed.output
    space = driver._with_one_data_set(plan_of(old, tmp_path), Held.of(Store(tmp_path / "new"))).space
    [source] = warm_start.gather(space, [old])
    assert not source.used
    assert "2 because it was recorded under protocol 1, not 3" in source.summary(0)


def test_sweep_json_of_a_new_sweep_names_protocol_digest_and_classes(space: Path, cats: Path, tmp_path: Path) -> None:
    plan = begun(space, cats, tmp_path / "results")
    record = json.loads((tmp_path / "results" / "which" / "sweep.json").read_text())
    held = record["asked"]
    assert (held["protocol"], len(held["settings"]["data.digest"])) == (PROTOCOL, 32)
    assert tuple(record["class_names"]) == trainer.dataset(plan.space.default().data).class_names
    assert plan.store.read_sweep()
