from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core.config import PROTOCOL, TrialConfig
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import Objective
from orchestrator.search.scheduling import Schedule
from orchestrator.search.settings import parse_settings
from orchestrator.search.space import SearchSpace, SpaceError, at_random, read
from search_spaces import Choice, Distribution, choice, floats, ints

HEAD = "from search_spaces import choice, floats, ints\n"
SPACES = sorted(path for path in Path("search_spaces").glob("*.py") if path.name != "__init__.py")


def space_of(tmp_path: Path, text: str, *given: str) -> SearchSpace:
    path = tmp_path / "question.py"
    path.write_text(HEAD + text)
    return read(path, given)


BRANCHED = """
space = {
    "model.fusion": choice({
        "none": {},
        "input_concat": {"model.fusion_options.input_concat.dim": ints(8, 64, log=True)},
        "block_film": {"train.lr": 1e-4},
    }),
    "model.nr_filters": choice(8, 16),
}
settings = {"train.epochs": 2}
trials = 5
objective = "val_bpd"
"""


def test_a_file_may_import_all_words(tmp_path: Path) -> None:
    path = tmp_path / "question.py"
    path.write_text('from search_spaces import *\nspace = {"model.nr_filters": ints(8, 16)}')
    assert read(path).size == 9


@pytest.mark.parametrize(
    ("text", "given", "metric"),
    [
        ("", (), "val_acc"),
        ("settings = {'eval.fid_every': 2}", (), "score"),
        ("", ("eval.fid_every=1",), "score"),
        ("settings = {'eval.fid_every': 2}", ("eval.fid_every=0",), "val_acc"),
        ("settings = {'eval.fid_every': 2}\nobjective = 'val_bpd'", (), "val_bpd"),
    ],
)
def test_a_file_without_an_objective_wants_accuracy_and_fid_where_fid_is_measured(
    tmp_path: Path, text: str, given: tuple[str, ...], metric: str
) -> None:
    objective = space_of(tmp_path, f'space = {{"model.nr_filters": ints(8, 16)}}\n{text}', *given).objective
    assert objective.metric == metric
    assert objective.reads == (("val_acc", "fid") if metric == "score" else (metric,))


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    space = space_of(tmp_path, '"""Which one?"""\n' + BRANCHED)
    assert space.trials == 5
    assert (space.objective.metric, space.objective.direction) == ("val_bpd", "min")
    assert space.settings == {"train.epochs": 2, "seed": 0}
    assert space.searched == ("model.fusion", "model.fusion_options.input_concat.dim", "model.nr_filters")


def test_how_trials_are_run_is_read_and_is_no_part_of_the_question(tmp_path: Path) -> None:
    plain = space_of(tmp_path, BRANCHED)
    assert (plain.schedule, plain.resources, plain.stall_minutes) == (Schedule(name="asha"), Resources(), 30.0)
    more = 'scheduler = {"name": "median", "grace_epochs": 1}\nresources = {"gpus": 0.5}\nstall_minutes = 5'
    space = space_of(tmp_path, f"{BRANCHED}\n{more}")
    assert (space.schedule, space.resources, space.stall_minutes) == (
        Schedule(name="median", grace_epochs=1),
        Resources(gpus=0.5),
        5.0,
    )
    assert space.describe() == plain.describe()


@pytest.mark.parametrize(
    ("text", "epochs"),
    [
        ('space = {"model.nr_filters": ints(8, 9)}', TrialConfig().train.epochs),
        ('space = {"model.nr_filters": ints(8, 9)}\nsettings = {"train.epochs": 7}', 7),
        ('space = {"train.epochs": choice(3, 9, 5)}', 9),
        (
            'space = {"model.fusion": choice({"none": {"train.epochs": 4}, "stem_add": {"train.epochs": ints(2, 6)}})}',
            6,
        ),
    ],
)
def test_the_longest_trial_of_a_space(tmp_path: Path, text: str, epochs: int) -> None:
    assert space_of(tmp_path, text).epochs == epochs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('space = {"model.nr_filters": ints(8, 9)}\nscheduler = "ash"', ["scheduler", "did you mean asha?"]),
        ('space = {"model.nr_filters": ints(8, 9)}\nresources = {"gpu": 1}', ["resources", "did you mean gpus?"]),
        ('space = {"model.nr_filters": ints(8, 9)}\nstall_minutes = -1', ["stall_minutes is -1", "0 for never"]),
        ('space = {"model.nr_filter": ints(8, 16)}', ["model.nr_filter", "did you mean model.nr_filters?"]),
        ('space = {"model.nr_filters": ints(0, 16)}', ["space['model.nr_filters']", "ints(0, 16)", "0 is not allowed"]),
        ('space = {"model.nr_filters": floats(8.0, 16.0)}', ["model.nr_filters", "is not allowed", "integer"]),
        ('space = {"model.fusion": choice("none", "stem_ad")}', ["stem_ad", "did you mean stem_add?"]),
        ('space = {"model.dropout": floats(0.0, 1.0)}', ["model.dropout", "1.0 is not allowed"]),
        (
            'space = {"model.fusion": choice({"input_concat": {"model.fusion_options.input_concat.dim": ints(0, 8)}})}',
            ["input_concat.dim", "0 is not allowed"],
        ),
        (
            'space = {"model.fusion": choice({"none": {"model.fusion_options.input_concat.dim": ints(1, 8)}})}',
            ["has no part 'input_concat'"],
        ),
        ('space = {"model.nr_filters": 16}', ["model.nr_filters", "16", "belongs into settings"]),
        ("space = {}\nsetings = {}", ["setings", "did you mean settings?"]),
        ('space = {}\nsettings = {"train.epoch": 3}', ["settings", "train.epoch", "did you mean train.epochs?"]),
        ('space = {"train.lr": floats(1e-4, 1e-2)}\nsettings = {"train.lr": 1e-3}', ["train.lr stands both"]),
        ('space = {}\nobjective = "val_ac"', ["objective", "val_ac", "did you mean val_acc?"]),
        ("space = {}\ntrials = 0", ["trials is 0"]),
        ("settings = {}", ["`space` is missing"]),
        ('space = {"model.nr_filters": ints(9, 3)}', ["question.py:2", "ints(9, 3)", "above the high one"]),
        ("space = {", ["question.py:", "SyntaxError"]),
        ("raise SystemExit(3)", ["question.py:2", "SystemExit: 3"]),
        ('space = {"train.batch_size": choice(16, 20), "train.accumulate": choice(1, 8)}', ["8 does not divide", "20"]),
        (
            'space = {"model.fusion": choice({"none": {"train.lr": 0.1}}), "train.lr": floats(1e-4, 1e-2)}',
            ["train.lr is set twice"],
        ),
    ],
)
def test_a_mistake_is_named_before_anything_starts(tmp_path: Path, text: str, says: list[str]) -> None:
    with pytest.raises(SpaceError) as raised:
        space_of(tmp_path, text)
    assert "question.py" in str(raised.value)
    for part in says:
        assert part in str(raised.value)


def test_a_missing_file_is_named_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text("space = {}")
    with pytest.raises(SpaceError, match=r"digit\.py: there is no such space file; did you mean .*digits\.py\?"):
        read(tmp_path / "digit.py")


def test_a_field_exists_only_under_its_option(tmp_path: Path) -> None:
    space = space_of(tmp_path, BRANCHED)
    rng = random.Random(0)
    for _ in range(100):
        flat = space.configure(at_random(rng)).flat()
        assert ("model.fusion_options.input_concat.dim" in flat) == (flat["model.fusion"] == "input_concat")
        assert (flat["train.lr"] == 1e-4) == (flat["model.fusion"] == "block_film")


def test_every_configuration_of_a_finite_space_is_listed_once(tmp_path: Path) -> None:
    space = space_of(tmp_path, BRANCHED.replace("ints(8, 64, log=True)", "ints(8, 10)"))
    ids = [config.trial_id for config in space.all()]
    assert len(ids) == len(set(ids)) == space.size == (1 + 3 + 1) * 2


def test_a_continuous_field_makes_the_space_infinite(tmp_path: Path) -> None:
    assert space_of(tmp_path, 'space = {"train.lr": floats(1e-4, 1e-2)}').size == float("inf")


def test_settings_are_json_scalars_or_strings() -> None:
    given = ["a=1", "b=1e-3", "c=true", "d=null", "e=stem_add", 'f="7"', "g=x=y"]
    assert parse_settings(given) == {"a": 1, "b": 1e-3, "c": True, "d": None, "e": "stem_add", "f": "7", "g": "x=y"}


@pytest.mark.parametrize("bad", ["epochs", "=3", "a=[1]"])
def test_a_setting_without_key_or_scalar_is_refused(bad: str) -> None:
    with pytest.raises(SpaceError, match="--set"):
        parse_settings([bad])


def test_a_protocol_is_not_chosen(tmp_path: Path) -> None:
    assert parse_settings([f"protocol={PROTOCOL}"]) == {"protocol": PROTOCOL}
    for other in ("1", "3", "true", "null", "two"):
        with pytest.raises(
            SpaceError, match=f"--set protocol={other}: .* cannot be chosen; this release trains by protocol {PROTOCOL}"
        ):
            parse_settings([f"protocol={other}"])
    text = 'space = {"train.lr": floats(1e-4, 1e-2)}\nsettings = {"protocol": 1}'
    with pytest.raises(SpaceError, match="settings: protocol: 1 cannot be chosen; this release trains by"):
        space_of(tmp_path, text)


def test_setting_a_searched_field_fixes_it_and_keeps_its_branch(tmp_path: Path) -> None:
    space = space_of(tmp_path, BRANCHED, "model.fusion=input_concat", "model.nr_filters=12", "train.epochs=3")
    assert space.searched == ("model.fusion_options.input_concat.dim",)
    assert space.default().flat()["model.nr_filters"] == 12
    assert space.default().train.epochs == 3


def test_setting_a_field_of_a_branch_leaves_the_other_options_alone(tmp_path: Path) -> None:
    space = space_of(tmp_path, BRANCHED, "model.fusion_options.input_concat.dim=20")
    assert space.size == 3 * 2
    assert {str(c.flat().get("model.fusion_options.input_concat.dim")) for c in space.all()} == {"None", "20"}


def test_a_bad_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"train\.epochs: 0 is not allowed"):
        space_of(tmp_path, BRANCHED, "train.epochs=0")
    with pytest.raises(SpaceError, match=r"--set train\.epoch: no such field; did you mean train\.epochs"):
        space_of(tmp_path, BRANCHED, "train.epoch=1")


def test_the_default_trial_takes_the_default_where_the_space_has_it_else_what_comes_first(tmp_path: Path) -> None:
    text = (
        'space = {"model.nr_filters": ints(8, 16), "train.lr": floats(1e-4, 1e-2), "model.fusion": choice("stem_add")}'
    )
    flat = space_of(tmp_path, text).default().flat()
    assert (flat["model.nr_filters"], flat["train.lr"], flat["model.fusion"]) == (8, TrialConfig().train.lr, "stem_add")


def test_a_field_under_two_options_has_two_parameters(tmp_path: Path) -> None:
    text = """space = {"model.fusion": choice({
        "none": {"train.lr": floats(1e-4, 1e-3)}, "stem_add": {"train.lr": floats(1e-3, 1e-2)}})}"""
    space = space_of(tmp_path, text)
    config = space.configure(lambda name, d: "stem_add" if isinstance(d, Choice) else 5e-3)
    params = space.params_of(config)
    assert params is not None
    assert set(params) == {"model.fusion", "train.lr where model.fusion=stem_add"}


@given(seed=st.integers(0, 2**32))
def test_parameters_and_configuration_determine_each_other(seed: int) -> None:
    fields = {
        "model.fusion": choice({"none": {}, "input_concat": {"model.fusion_options.input_concat.dim": ints(8, 64)}}),
        "train.lr": floats(1e-4, 1e-2, log=True),
        "model.nr_filters": ints(8, 40, step=8),
    }
    space = SearchSpace("a test", "", fields, {"train.epochs": 2}, 3, None)
    config = space.configure(at_random(random.Random(seed)))
    params = space.params_of(config)
    assert params is not None
    assert space.configure(lambda name, _: params[name][0]) == config
    assert space.params_of(config.with_settings({"train.epochs": 3})) is None
    assert space.params_of(config.with_settings({"model.nr_filters": 12})) is None


def test_a_relative_data_root_is_made_absolute_and_is_no_part_of_the_question(tmp_path: Path) -> None:
    one = space_of(tmp_path, BRANCHED, "data.root=here")
    assert one.settings["data.root"] == str(Path("here").absolute())
    assert one.describe() == space_of(tmp_path, BRANCHED).describe()


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_that_ships_is_sound_and_says_what_it_asks(path: Path) -> None:
    space = read(path, ["data.root=anywhere"])
    assert "?" in space.question
    assert "Cost" in space.question
    space.default()


@pytest.mark.parametrize(
    "call",
    [
        lambda: choice(),
        lambda: choice("a", "a"),
        lambda: choice({"a": 3}),
        lambda: choice([1], 2),
        lambda: ints(1.5, 3),
        lambda: ints(1, 10, step=4),
        lambda: ints(0, 4, log=True),
        lambda: floats(0.0, 1.0, log=True),
        lambda: floats(0.0, float("inf")),
        lambda: floats(True, 2.0),
    ],
)
def test_the_vocabulary_refuses_what_means_nothing(call: object) -> None:
    with pytest.raises((ValueError, TypeError), match=r"choice\(|ints\(|floats\("):
        call()


def test_whole_numbers_for_a_field_of_floats_are_recognised_again() -> None:
    fields: dict[str, Distribution] = {
        "train.warmup_epochs": choice(0, 1),
        "model.dropout": choice(0, 0.1),
        "train.epochs": ints(2, 3),
    }
    asked = SearchSpace("a test", "", fields, {}, 4, Objective("val_acc", "max"))
    for config in asked.all():
        params = asked.params_of(config)
        assert params is not None
        picked = {name: value for name, (value, _) in params.items()}
        assert picked == {name: config.flat()[name] for name in fields}
        assert [type(picked["train.epochs"]), type(picked["train.warmup_epochs"])] == [int, int]
    assert asked.default().flat()["train.warmup_epochs"] == 0


@pytest.mark.parametrize(
    ("objective", "reads"),
    [
        ("'val_bpd'", "val_bpd"),
        ("'train_loss'", "train_loss"),
        ("desirability(val_acc=goal(0, 1), val_bpd=goal(8, 0))", "val_bpd"),
        ("constrained('val_acc', val_bpd=4)", "val_bpd"),
        ("'val_acc'", None),
    ],
)
def test_rounding_is_searched_only_by_what_compares(tmp_path: Path, objective: str, reads: str | None) -> None:
    words = "from search_spaces import constrained, desirability, goal\n"
    text = f"{words}space = {{'data.quantize': choice(True, False)}}\nobjective = {objective}"
    if reads is None:
        space_of(tmp_path, text)
    else:
        with pytest.raises(SpaceError, match=f"data.quantize cannot be searched under an objective that reads {reads}"):
            space_of(tmp_path, text)
