from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core.config import PROTOCOL, TrialConfig
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.labels import ENCODINGS
from cpcnn_core.sources import SOURCES
from orchestrator.machines.resources import Resources
from orchestrator.objectives.objective import Objective
from orchestrator.search import shipped, space_file
from orchestrator.search.scheduling import Schedule
from orchestrator.search.settings import parse_settings
from orchestrator.search.space import SearchSpace, SpaceError, at_random, read
from search_spaces import COURSE_GRADING, Choice, Distribution, choice, floats, ints

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


def test_a_name_like_presets_is_the_file_s_own_unless_it_is_a_mapping(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        'from search_spaces import ints\npreset, reset = "small", 3\nspace = {"model.nr_filters": ints(8, 9)}\n'
    )
    assert read(own).fields
    own.write_text('from search_spaces import ints\npreset = {"cpu": {}}\nspace = {"model.nr_filters": ints(8, 9)}\n')
    with pytest.raises(SpaceError, match="did you mean presets"):
        read(own)


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
    for other in ("1", str(PROTOCOL + 1), "true", "null", "two"):
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
    one, other = (space_of(tmp_path, BRANCHED, "data.name=folder", f"data.root={root}") for root in ("here", "there"))
    assert one.settings["data.root"] == str(Path("here").absolute())
    assert one.describe() == other.describe()


ASKED = [(path, preset) for path in SPACES for preset in (None, *space_file.read(path).presets)]


@pytest.mark.parametrize(("path", "preset"), ASKED, ids=[f"{path.stem}-{preset}" for path, preset in ASKED])
def test_every_space_that_ships_is_sound_and_says_what_it_asks_and_so_is_every_preset(
    path: Path, preset: str | None
) -> None:
    needs_a_folder = SOURCES[str(space_file.read(path).settings["data.name"])].root is not None
    space = read(path, ["data.root=anywhere"] if needs_a_folder else [], preset=preset)
    assert "?" in space.question
    assert "Cost" in space.question
    assert f"--preset {preset}" in space.question or preset is None
    assert space.trials <= space.size
    space.default()


def test_what_the_reports_asked_can_be_looked_at_on_a_cpu() -> None:
    of_course = [path for path in SPACES if space_file.read(path).settings["data.name"] == "cpen455"]
    assert len(of_course) >= 6
    for path in of_course:
        small = read(path, ["data.root=anywhere"], preset="cpu")
        large = read(path, ["data.root=anywhere"])
        assert small.settings["data.image_size"] == 16
        assert max(config.model.nr_filters for config in small.extremes()) <= 24
        assert small.epochs < large.epochs
        assert set(small.searched) <= set(large.searched)


def test_the_courses_space_holds_what_the_reports_used() -> None:
    space = read(Path("search_spaces/cpen455.py"), ["data.root=anywhere"])
    fusions = space.fields["model.fusion"]
    assert isinstance(fusions, Choice)
    assert set(fusions.options) >= FUSIONS.keys()
    largest = {"model.nr_resnet": 5, "model.nr_filters": 160, "model.nr_logistic_mix": 10, "model.dropout": 0.5}
    for encoding in ENCODINGS:
        used = space.default().with_settings({**largest, "model.label_encoding": encoding, "train.lr": 5e-3})
        assert space.params_of(used) is not None
    assert space.params_of(used.with_settings({"train.class_loss_weight": 0.001, "train.class_loss_others": 1}))


def test_the_courses_grading_is_asked_as_the_course_grades() -> None:
    space = read(Path("search_spaces/cpen455.py"), ["data.root=anywhere"], preset="grading")
    assert space.objective == Objective.of(COURSE_GRADING)
    asked = space.default().eval
    assert (asked.fid_extractor, asked.fid_reference, asked.fid_images_per_class) == ("inception-192", "test_files", 25)
    assert asked.every == asked.fid_every == space.schedule.grace_epochs == 5
    assert read(Path("search_spaces/cpen455.py"), ["data.root=anywhere"]).fields == space.fields


def root_of(name: str) -> list[str]:
    """What a shipped space needs to be told of its data; the digits need nothing."""
    return [] if name == "digits" else ["data.root=anywhere"]


def test_a_shipped_space_scores_images_wherever_it_draws_some() -> None:
    asked = {
        (one.name, preset): read(shipped.file(one.name), root_of(one.name), preset=preset).default().eval
        for one in shipped.every()
        for preset in (None, *one.presets)
    }
    assert len(asked) > 10
    assert [place for place, each in asked.items() if each.fid_every % each.every] == []  # a score needs both


# ------------------------------------------------------------------------------------------------------- presets

PRESETS = f"""{BRANCHED}
scheduler = "median"
presets = {{
    "small": {{"settings": {{"model.nr_filters": 8, "train.epochs": 1}}, "trials": 3}},
    "wide": {{
        "space": {{"model.nr_filters": ints(8, 32, step=8), "train.epochs": choice(1, 2)}},
        "objective": "val_acc",
        "scheduler": "none",
        "sampler": "random",
        "resources": {{"cpus": 1}},
        "stall_minutes": 3,
    }},
    "dim": {{"settings": {{"model.fusion_options.input_concat.dim": 16}}}},
}}
"""


def test_a_preset_says_what_is_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "question.py"
    path.write_text(HEAD + PRESETS)
    plain, small, wide, dim = (read(path, preset=preset) for preset in (None, "small", "wide", "dim"))
    assert plain.describe() == space_of(tmp_path, BRANCHED).describe()
    path.write_text(HEAD + PRESETS)
    assert (small.trials, small.epochs, small.default().model.nr_filters) == (3, 1, 8)
    assert "model.nr_filters" not in small.searched
    assert (small.objective, small.schedule) == (plain.objective, plain.schedule)
    assert wide.searched == (*plain.searched, "train.epochs")
    assert {config.model.nr_filters for config in wide.extremes()} >= {8, 32}
    assert (wide.trials, wide.objective.metric, wide.schedule.name, wide.sampler) == (5, "val_acc", "none", "random")
    assert (wide.resources, wide.stall_minutes) == (Resources(cpus=1), 3.0)
    assert {config.flat().get("model.fusion_options.input_concat.dim") for config in dim.extremes()} == {None, 16}


def test_a_preset_is_what_the_same_settings_are(tmp_path: Path) -> None:
    path = tmp_path / "question.py"
    path.write_text(HEAD + PRESETS)
    preset, given = read(path, preset="small"), read(path, ["model.nr_filters=8", "train.epochs=1"])
    assert preset.describe() == given.describe() != read(path).describe()
    assert preset.default().trial_id == given.default().trial_id


def test_settings_come_after_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "question.py"
    path.write_text(HEAD + PRESETS)
    space = read(path, ["train.epochs=4"], preset="small")
    assert (space.default().train.epochs, space.default().model.nr_filters) == (4, 8)


@pytest.mark.parametrize(
    ("presets", "says"),
    [
        ('{"smal": {}}', "--preset small: there is no such preset; did you mean smal?"),
        ("{}", "--preset small: there is no such preset; the file has none"),
        ('{"small": {"setings": {}}}', "presets.small.setings: no such field; did you mean settings?"),
        ('{"small": {"trials": None}}', "presets.small.trials is None; it must be a whole number of at least 1"),
        ('{"small": {"objective": None}}', "presets.small.objective: None is neither the name of a metric nor"),
        ('{"small": {"trials": 0}}', "presets.small.trials is 0; it must be a whole number of at least 1"),
        ('{"small": {"objective": "val_ac"}}', "presets.small.objective: 'val_ac' is no metric; did you mean val_acc?"),
        ('{"small": {"scheduler": "ash"}}', "presets.small.scheduler: 'ash' is no scheduler; did you mean asha?"),
        ('{"small": {"space": {"train.lr": 3}}}', "presets.small.space['train.lr'] is 3; it must be choice(...)"),
        ('{"small": {"settings": {"train.lr": [3]}}}', "presets.small.settings['train.lr'] is [3]; it must be one"),
        ('{"small": 3}', "presets.small"),
        ("3", "presets is 3; it must be a mapping from names to what differs"),
        ('{"a b": {}}', "presets: the key 'a b' must be a name of letters, digits, _ and -"),
        (
            '{"small": {"settings": {"train.epoch": 3}}}',
            "question.py, preset small: settings: train.epoch: no such field; did you mean train.epochs?",
        ),
        ('{"small": {"settings": {"train.epochs": 0}}}', "question.py, preset small: train.epochs: 0 is not allowed"),
        (
            '{"small": {"space": {"model.nr_filters": ints(0, 8)}}}',
            "question.py, preset small: space['model.nr_filters'] = ints(0, 8): model.nr_filters: 0 is not allowed",
        ),
    ],
)
def test_a_mistake_in_a_preset_is_named(tmp_path: Path, presets: str, says: str) -> None:
    path = tmp_path / "question.py"
    path.write_text(f"{HEAD}{BRANCHED}\npresets = {presets}")
    with pytest.raises(SpaceError) as raised:
        read(path, preset="small")
    assert says in str(raised.value)


def test_a_field_that_a_preset_searches_is_fixed_no_longer(tmp_path: Path) -> None:
    text = BRANCHED + "\npresets = {'longer': {'space': {'train.epochs': ints(2, 4)}}}"
    path = tmp_path / "question.py"
    path.write_text(HEAD + text)
    assert read(path, preset="longer").epochs == 4
    assert "train.epochs" not in read(path, preset="longer").settings


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
