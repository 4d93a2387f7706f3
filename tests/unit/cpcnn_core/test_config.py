"""A configuration is valid, canonical and says what is wrong with one that is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cpcnn_core.config import ADDED, ConfigError, TrialConfig, field_names
from cpcnn_core.fusion import FUSIONS

BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"model.nr_filters": 0}, ["model.nr_filters", "0", "greater than or equal to 1"]),
    ({"model.nr_filter": 4}, ["model.nr_filter", "did you mean model.nr_filters?"]),
    ({"nr_filters": 4}, ["did you mean model.nr_filters?"]),
    ({"model.fusion": "block_flm"}, ["model.fusion", "'block_flm'", "did you mean block_film?"]),
    ({"model.fusion": "none+stem_add"}, ["model.fusion", "none+stem_add"]),
    ({"model.fusion": "stem_add+stem_add"}, ["model.fusion", "twice"]),
    ({"model.fusion_options.block_film.hidden": 8}, ["model.fusion_options.block_film", "'none'"]),
    (
        {"model.fusion": "block_film", "model.fusion_options.block_film.hiden": 8},
        ["model.fusion_options.block_film.hiden", "8", "did you mean hidden?"],
    ),
    (
        {"model.fusion": "stem_add", "model.fusion_options.stem_add.dim": 8},
        ["model.fusion_options.stem_add.dim", "8", "no options"],
    ),
    (
        {"model.fusion": "input_concat", "model.fusion_options.input_concat.dim": 0},
        ["model.fusion_options.input_concat.dim", "0", "greater than or equal to 1"],
    ),
    ({"model.label_dim": 8}, ["model.label_dim", "one_hot"]),
    ({"model.label_encoding": "sinusoidal", "model.label_dim": 7}, ["model.label_dim", "7", "even"]),
    ({"model.dropout": 1.0}, ["model.dropout", "1.0"]),
    ({"train.accumulate": 3}, ["train.accumulate", "3", "train.batch_size 32"]),
    ({"train.weight_decay": 0.1}, ["train.weight_decay", "adamw"]),
    ({"train.epochs": 2, "train.warmup_epochs": 3}, ["train.warmup_epochs", "train.epochs 2"]),
    ({"train.lr": float("nan")}, ["train.lr", "nan"]),
    ({"data.name": "cpen455"}, ["data.root", "--set data.root=PATH"]),
    ({"data.root": "x"}, ["data.root", "'x'", "digits, which does not read it", "data.name=cpen455, csv, folder"]),
    ({"data.test_share": 0.2}, ["data.test_share", "0.2", "no meaning for digits", "drop it, or choose data.name=csv"]),
    ({"data.name": "folder", "data.root": "x", "data.image_column": "y"}, ["data.image_column", "'y'", "for folder"]),
    ({"data.image_size": 30}, ["data.image_size", "30", "multiple of 4"]),
    ({"data.channels": 2}, ["data.channels", "2"]),
    ({"seed": -1}, ["seed", "-1"]),
    ({"train.class_loss_others": 1}, ["train.class_loss_others", "1", "train.class_loss_weight"]),
    (
        {"model.fusion": "block_film", "model.fusion_options.block_film.levels": "full+eighth"},
        ["model.fusion_options.block_film.levels", "full+eighth", "half", "quarter"],
    ),
    (
        {
            "model.fusion": "block_mild",
            "model.fusion_options.block_mild.passes": "up",
            "model.fusion_options.block_mild.levels": "half",
            "model.fusion_options.block_mild.every": 2,
        },
        ["model.fusion_options.block_mild", "levels=half", "every=2", "leave no block", "model.nr_resnet 1"],
    ),
    (
        {"model.fusion": "block_film", "model.fusion_options.block_film.gamma_clamp": 0.0},
        ["model.fusion_options.block_film.gamma_clamp", "0.0", "greater than 0"],
    ),
]


@pytest.mark.parametrize(("settings", "expected"), BAD, ids=lambda value: str(value)[:60])
def test_a_bad_setting_gives_one_error_naming_field_value_and_way_out(
    settings: dict[str, Any], expected: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig.from_flat(settings)
    for part in expected:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_a_later_release_added_is_no_part_of_an_id_where_it_changes_nothing() -> None:
    """The ids that protocol 2 gave before those settings were there, and still gives."""
    second = {"protocol": 2}
    assert TrialConfig.from_flat(second).trial_id == "4ed600187854"
    with_loss = TrialConfig.from_flat(second | {"model.fusion": "block_film", "train.class_loss_weight": 0.5})
    assert with_loss.trial_id == "712fbb1b82c6"
    assert with_loss.with_settings({"train.class_loss_others": 1}).trial_id != with_loss.trial_id
    assert TrialConfig.from_flat({"model.norm": "channel"}).trial_id != TrialConfig().trial_id
    for name, neutral in ADDED.items():
        assert TrialConfig().flat()[name] == neutral
        row = TrialConfig().flat() | {name: None}  # as it stands in one table with later rows
        assert TrialConfig.from_record(row) == TrialConfig()


def test_every_bad_field_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig.from_flat({"model.nr_filters": 0, "train.lr": -1})
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["model.nr_filters", "train.lr"]


def test_flat_names_every_field_and_builds_the_same_config() -> None:
    config = TrialConfig.from_flat({"model.fusion": "block_film", "model.fusion_options.block_film.hidden": 8})
    assert set(field_names()) | {"model.fusion_options.block_film.hidden"} == set(config.flat())
    assert TrialConfig.from_flat(config.flat()) == config


@given(st.sampled_from(sorted(FUSIONS)), st.integers(1, 9), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_the_trial_id_follows_from_the_settings_alone(fusion: str, resnet: int, filters: int, seed: int) -> None:
    settings: dict[str, Any] = {
        "model.fusion": fusion,
        "model.nr_resnet": resnet,
        "model.nr_filters": filters,
        "seed": seed,
    }
    config = TrialConfig.from_flat(settings)
    assert config.trial_id == TrialConfig.from_flat(dict(reversed(settings.items()))).trial_id
    assert config.trial_id == TrialConfig.from_tree(config.model_dump(mode="json")).trial_id
    assert config.trial_id != config.with_settings({"seed": (seed + 1) % 2**32}).trial_id
    assert config.trial_id != config.with_settings({"model.nr_filters": filters + 1}).trial_id
    assert len(config.trial_id) == 12


def test_where_the_data_lies_is_no_part_of_the_identity() -> None:
    here, there = (TrialConfig.from_flat({"data.name": "cpen455", "data.root": root}) for root in ("/a", "/b"))
    assert here.trial_id == there.trial_id


@pytest.mark.parametrize(
    "field",
    [
        "data.dataset",
        "data.image_column",
        "data.label_column",
        "data.validation_share",
        "data.test_share",
        "data.split_seed",
    ],
)
def test_how_the_data_is_read_and_cut_is_part_of_the_identity_until_the_digest_says_what_that_gave(field: str) -> None:
    stated = {"data.dataset": "d", "data.image_column": "i", "data.label_column": "l", "data.split_seed": 3}
    name = {"data.dataset": "torchvision", "data.image_column": "hf", "data.label_column": "hf"}.get(field, "folder")
    required = {"data.dataset": "MNIST"} if name == "torchvision" else {}
    plain = TrialConfig.from_flat({"data.name": name, "data.root": "/a", **required})
    other = plain.with_settings({field: stated.get(field, 0.3)})
    assert other.trial_id != plain.trial_id
    digests = [{"data.digest": letter * 32} for letter in "ab"]
    assert len({each.with_settings(digests[0]).trial_id for each in (plain, other)}) == 1
    assert len({other.with_settings(digest).trial_id for digest in digests}) == 2


def test_a_record_may_name_a_folder_that_its_data_never_was_read_from() -> None:
    assert TrialConfig.from_record(TrialConfig().flat() | {"data.root": "/ignored"}) == TrialConfig()
    with pytest.raises(ConfigError, match="data: 3"):
        TrialConfig.from_tree({"data": 3})


def test_a_number_means_the_same_whether_written_as_integer_or_float() -> None:
    assert TrialConfig.from_flat({"train.lr": 1}).trial_id == TrialConfig.from_flat({"train.lr": 1.0}).trial_id


def test_an_option_of_a_fusion_means_the_same_whether_read_as_integer_or_float() -> None:
    name = "model.fusion_options.block_film.hidden"
    whole, real = (TrialConfig.from_flat({"model.fusion": "block_film", name: value}) for value in (8, 8.0))
    assert whole.trial_id == real.trial_id
    assert repr(real.flat()[name]) == "8"


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        TrialConfig().seed = 3
