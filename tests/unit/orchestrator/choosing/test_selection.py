"""Which sweeps a choice is made among: the latest question's, of the same data; and the others, with the reason."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cpcnn_core.config import PROTOCOL, TrialConfig
from orchestrator import best, report
from orchestrator.choosing import decision as decisions
from orchestrator.choosing import selection
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.records.kinds import IMPORTED, KINDS, introduce, kind_of
from orchestrator.records.store import Attempt, Store
from orchestrator.records.sweep_file import Run, SweepRecord
from tests.support.times import at
from tests.unit.orchestrator.test_best import CONFIG, add, call

ASKED: dict[str, Any] = {
    "protocol": PROTOCOL,
    "space": {"train.lr": "floats(0.0001, 0.01, log=True)"},
    "settings": {"data.digest": "a" * 32, "seed": 0, "train.epochs": 2},
    "sampler": "tpe",
    "objective": {"metric": "val_acc", "direction": "max"},
    "seed": 0,
}
DIGESTS = {"data.digest": "a" * 32}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def sweep(
    results: Path, name: str, day: int, value: float = 0.5, *, data: dict[str, Any] = DIGESTS, **changes: Any
) -> Store:
    """A sweep that was asked on that day, with one trial; `changes` are of what it asked."""
    config = CONFIG.with_settings({**data, "seed": day})
    store = add(results, [value], sweep=name, config=config, started=f"2026-01-{day:02}")
    asked = ASKED | changes
    store.write_sweep(
        SweepRecord.model_validate(
            {"asked": asked, "created": "2026-01-01", "runs": [{"started": f"2026-01-{day:02}T00:00:00"}]}
        )
    )
    return store


def imported(results: Path, name: str, value: float = 0.99, seed: int = 99) -> Store:
    config = CONFIG.with_settings({**DIGESTS, "source": "b" * 64, "seed": seed})
    return add(results, [value], sweep=name, config=config)


def names(selected: selection.Selection) -> list[str]:
    return [store.folder.name for store in selected.stores]


def test_the_latest_question_is_chosen_from_whatever_its_seed_sampler_and_name(results: Path) -> None:
    sweep(results, "old", 9, space={"train.lr": "floats(0.1, 1.0)"})
    sweep(results, "one", 10)
    sweep(results, "two", 12, seed=7, sampler="random", settings={**ASKED["settings"], "seed": 7})
    sweep(results, "metric", 11, objective={"metric": "val_bpd", "direction": "min"})
    sweep(results, "setting", 11, settings={**ASKED["settings"], "train.epochs": 3})
    selected = selection.select(results, ())
    assert names(selected) == ["one", "two"]
    assert selected.left_out == dict.fromkeys(["metric", "old", "setting"], "another question")
    assert selected.sentence == (
        "Chosen from one and two. Left out: metric, old and setting (another question). --sweep NAME chooses from what "
        "it names."
    )
    # Resumed, the old question is the latest one.
    store = Store(results / "old")
    record = store.read_sweep() or SweepRecord()
    store.write_sweep(record.model_copy(update={"runs": [*record.runs, Run(started="2026-01-13T00:00:00")]}))
    assert names(selection.select(results, ())) == ["old"]


@given(st.permutations(["a", "b", "c"]), st.lists(st.booleans(), min_size=3, max_size=3))
def test_what_is_chosen_from_does_not_depend_on_the_sweeps_names(order: list[str], same: list[bool]) -> None:
    folders = [
        selection._Folder(
            Store(Path(name)),
            SweepRecord.model_validate({"asked": ASKED | ({} if alike else {"space": {}}), "created": str(day)}),
            "sweep",
        )
        for day, (name, alike) in enumerate(zip(order, same, strict=True))
    ]
    latest = max(folders, key=lambda folder: folder.asked)
    assert latest.name == order[-1]
    assert [folder.question == latest.question for folder in folders] == [alike == same[-1] for alike in same]


def test_other_data_and_another_protocol_are_left_out_with_what_differs(results: Path) -> None:
    sweep(results, "dogs", 10, data={"data.digest": "d" * 32})
    sweep(results, "small", 11, data={**DIGESTS, "data.image_size": 16})
    sweep(results, "old", 12, data={**DIGESTS, "protocol": 1}, protocol=1)
    sweep(results, "cats", 13)
    sweep(results, "more-cats", 9)
    selected = selection.select(results, ())
    assert names(selected) == ["cats", "more-cats"]
    assert selected.left_out == {
        "dogs": f"data.digest {'d' * 12} instead of data.digest {'a' * 12}",
        "old": f"protocol 1 instead of protocol {PROTOCOL}",
        "small": "data.image_size 16 instead of data.image_size null",
    }


def test_imports_replays_confirmations_and_trials_by_hand_are_left_out_and_named(results: Path) -> None:
    sweep(results, "digits", 10)
    sweep(results, "digits-confirm-12345678", 11).write_sweep(
        SweepRecord.model_validate({"confirmation": {}, "asked": ASKED, "created": "2027"})
    )
    imported(results, "imported").write_sweep(SweepRecord.model_validate({"question": IMPORTED, "runs": []}))
    add(results, [0.9], sweep="digits-replays")
    add(results, [0.9], sweep="digits-trials").write_sweep(
        SweepRecord.model_validate({"question": "Which?", "runs": []})
    )
    Store(results / "begun").create()
    Store(results / "begun").write_sweep(SweepRecord.model_validate({"asked": ASKED, "created": "2028"}))
    (results / "digits-2" / "trials").mkdir(parents=True)
    (results / "digits-2" / "sweep.json").write_text("{")
    selected = selection.select(results, ())
    assert names(selected) == ["digits"]
    assert selected.left_out == {
        "begun": "no epoch yet",
        "digits-2": "its sweep.json cannot be read; move it away, and its command writes it anew",
        "digits-confirm-12345678": "confirms a choice",
        "digits-replays": "replays",
        "digits-trials": "trials run by hand",
        "imported": "imported checkpoints",
    }
    for name in ("digits-replays", "imported", "digits-confirm-12345678"):  # unless asked for
        asked_for = selection.select(results, ["digits", name])
        assert (names(asked_for), asked_for.sentence, asked_for.imports) == (["digits", name], None, True)


def test_where_there_is_no_sweep_the_next_kind_is_chosen_from(results: Path) -> None:
    add(results, [0.9], sweep="x-replays")
    assert names(selection.select(results, ())) == ["x-replays"]
    imported(results, "given").write_sweep(SweepRecord.model_validate({"question": IMPORTED}))
    assert names(selection.select(results, ())) == ["given"]
    add(results, [0.5], sweep="a-trials", config=CONFIG.with_settings(DIGESTS), started="2026-01-01")
    add(results, [0.5], sweep="b-trials", config=CONFIG.with_settings({"data.digest": "d" * 32}), started="2026-01-02")
    add(results, [0.6], sweep="c-trials", config=CONFIG.with_settings({"data.digest": "d" * 32, "seed": 3}))
    selected = selection.select(results, ())
    assert names(selected) == ["b-trials", "c-trials"]
    assert (selected.sentence or "").startswith(
        "Chosen from b-trials and c-trials (trials run by hand; no sweep has an epoch). Left out: a-trials (data.digest"
    )
    sweep(results, "z", 1)
    assert names(selection.select(results, ())) == ["z"]


def test_imported_checkpoints_in_a_sweep_s_folder_are_left_out_unless_it_is_named(results: Path) -> None:
    sweep(results, "digits", 10)
    imported(results, "digits")
    bare = decisions.read(selection.select(results, ()), "val_acc")
    assert bare.values.tolist() == [0.5]
    assert bare.notes == ("Left out: 1 imported of 2 trials in digits, which --sweep digits takes in",)
    named = decisions.read(selection.select(results, ["digits"]), "val_acc")
    assert (sorted(named.values.tolist()), named.notes) == ([0.5, 0.99], ())
    imported(results, "only")
    with pytest.raises(ChoiceError, match=r"Left out: 1 imported of 1 trials in only"):
        decisions.read(selection.Selection((Store(results / "only"),), "trials"), "val_acc")


def test_best_and_report_say_what_they_chose_from(results: Path) -> None:
    sweep(results, "digits", 10)
    sweep(results, "old", 9, space={})
    arguments = ["--metric", "val_acc", "--results", results, "--no-export"]
    said = "Chosen from digits. Left out: old (another question). --sweep NAME chooses from what it names."
    code, output = call(*arguments)
    assert (code, said in output, "the best 1 of 1 trials" in output) == (0, True, True)
    held = json.loads(call(*arguments, "--json")[1])
    assert (held["sweeps"], held["left_out"]) == (["digits"], {"old": "another question"})
    assert "Chosen from" not in call(*arguments, "--sweep", "old")[1]
    done = CliRunner().invoke(report.app, ["--results", str(results)])
    assert said in " ".join(done.output.split())
    page = (results / "report.html").read_text()
    assert said in page
    assert "<h1>digits</h1>" in page


def test_a_mixture_that_is_asked_for_is_refused_and_both_sides_are_named(results: Path) -> None:
    sweep(results, "cats", 10)
    sweep(results, "dogs", 11, data={"data.digest": "d" * 32})
    sweep(results, "old", 12, data={"protocol": 1})
    for command in (best.app, report.app):
        for pair, said in (
            (["cats", "dogs"], f"(cats: data.digest {'a' * 12}; dogs: data.digest {'d' * 12})"),
            (
                ["cats", "old"],
                f"cats: data.digest {'a' * 12}, protocol {PROTOCOL}; old: data.digest not recorded, protocol 1",
            ),
        ):
            chosen = [text for name in pair for text in ("--sweep", name)]
            metric = ["--metric", "val_acc", "--results", str(results)]
            done = CliRunner().invoke(command, [*metric, *chosen])
            output = " ".join(done.output.split())
            assert (done.exit_code, "saw different data" in output, said in output) == (2, True, True), output


def test_data_that_changed_under_one_folder_is_told_apart_by_a_condition(results: Path) -> None:
    for seed, digest in ((1, "a" * 32), (2, "d" * 32)):
        add(results, [seed / 10], sweep="x-trials", config=CONFIG.with_settings({"data.digest": digest, "seed": seed}))
    code, output = call("--metric", "val_acc", "--results", results, "--no-export")
    [_, where] = shlex.split(output.partition("or a kind with ")[2].partition(", and give")[0])
    assert (code, where.startswith('data.digest == "')) == (2, True), output
    code, output = call("--metric", "val_acc", "--results", results, "--no-export", "--where", where)
    assert (code, "the best 1 of 1 trials" in output) == (0, True), output


def test_rows_of_before_the_protocol_was_recorded_are_of_the_first(results: Path) -> None:
    old = Path("tests/data/results-0.1/two_fusions")
    (results / "old").parent.mkdir()
    (results / "old").symlink_to(old.absolute())
    assert kind_of("old", Store(results / "old").read_sweep()) == "sweep"
    assert names(selection.select(results, ())) == ["old"]
    code, output = call("--metric", "val_acc", "--results", results, "--no-export", "--where", "protocol == 1")
    assert (code, "the best 2 of 2 trials" in output) == (0, True), output
    add(results, [0.5], sweep="new")
    both = ["--metric", "val_acc", "--results", results, "--sweep", "old", "--sweep", "new"]
    code, output = call(*both)
    assert code == 2
    assert f"different protocols, which no metric compares (old: protocol 1; new: protocol {PROTOCOL})" in output
    assert call(*both, "--no-export", "--where", f"protocol == {PROTOCOL}")[0] == 0


@pytest.mark.parametrize("metric", ["val_acc", "val_f1", "val_class_nll", "val_ece", "train_acc"])
def test_metrics_of_classification_compare_whether_pixels_are_rounded(results: Path, metric: str) -> None:
    rounded(results)
    assert len(decisions.read(selection.select(results, ()), metric)) == 2


@pytest.mark.parametrize(("metric", "where"), [("val_bpd", ""), ("train_bpd", ""), ("val_acc", "val_bpd < 9")])
def test_likelihoods_of_rounded_and_other_pixels_do_not(results: Path, metric: str, where: str) -> None:
    rounded(results)
    arguments = ["--metric", metric, "--results", results, "--no-export"]
    code, output = call(*arguments, *(["--where", where] if where else []))
    assert code == 2
    assert "of different pixels, and do not compare (one: data.quantize=true; two: data.quantize=false)" in output
    assert "code length" in output
    one_kind = " and ".join([*([where] if where else []), "data.quantize == 1"])
    assert call(*arguments, "--where", one_kind)[0] == 0


def rounded(results: Path) -> None:
    for name, quantize in (("one", True), ("two", False)):
        add(results, [0.5], sweep=name, config=CONFIG.with_settings({"data.quantize": quantize}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_says_what_it_is(tmp_path: Path, kind: Any) -> None:
    store = Store(tmp_path / "x-replays")
    introduce(store, kind, "Why?", "space.py")
    assert kind_of("x-replays", store.read_sweep()) == kind
    introduce(store, "sweep", "Another?")
    assert (store.read_sweep() or SweepRecord()).question == "Why?"


@pytest.mark.parametrize(
    ("name", "held", "kind"),
    [
        ("x", {"asked": ASKED}, "sweep"),
        ("x", {"confirmation": {}, "asked": ASKED}, "confirmation"),
        ("x", {"question": IMPORTED}, "imported"),
        ("x", {"question": "Which?"}, "trials"),
        ("x", {"kind": "of a later version", "asked": ASKED}, "sweep"),
        ("x", None, "trials"),
        ("x-replays", None, "replays"),
    ],
)
def test_what_folders_of_before_are_is_guessed(name: str, held: dict[str, Any] | None, kind: str) -> None:
    assert kind_of(name, None if held is None else SweepRecord.model_validate(held)) == kind


def test_a_condition_that_nothing_meets_says_how_many_it_rules_out_and_by_how_little(results: Path) -> None:
    add(results, [0.5, 0.8, None])
    add(results, [0.6], config=CONFIG.with_settings({"model.nr_filters": 4, "train.lr": 0.002}))

    def refused(where: str) -> str:
        code, output = call("--metric", "val_acc", "--results", results, "--no-export", "--where", where)
        assert code == 2, output
        return output

    assert (
        "--where val_acc > 0.9: no epoch meets it. Of 3 epochs with a val_acc, val_acc > 0.9 rules out all (the "
        in (refused("val_acc > 0.9"))
    )
    assert "the nearest is 0.8)" in refused("val_acc > 0.9")
    assert "the nearest is 0.002)" in refused("train.lr == 0.0021")
    both = refused("val_acc > 0.7 and model.nr_filters == 4")
    assert "val_acc > 0.7 rules out 2, model.nr_filters == 4 rules out 2. Each is met by some epoch" in both
    assert "rules out all (there is stem_add)" in refused("model.fusion == 'none'")
    assert "fid < 30 rules out all, since none has a fid" in refused("fid < 30")
    close = refused("val_acc > 0.8000000001")
    assert "val_acc > 0.8000000001 rules out all (the nearest is 0.8)" in close


def test_an_epoch_without_the_metric_is_no_matter_of_conditions(results: Path) -> None:
    add(results, [None])
    for where in ("", "model.nr_filters == 2", "model.nr_filters == 3"):
        condition = ["--where", where] if where else []
        _, output = call("--metric", "val_acc", "--results", results, *condition)
        assert "--metric val_acc: null in every epoch of every trial; nothing to choose by" in output


def test_a_configuration_of_an_import_is_shown_as_far_as_it_is_known(results: Path) -> None:
    sweep(results, "digits", 10)
    imported(results, "imported")
    chosen = ["--sweep", "digits", "--sweep", "imported"]
    held = json.loads(call("--metric", "val_acc", "--results", results, "--no-export", "--json", *chosen)[1])
    first, second = held["best"]
    assert (first["sweep"], first["settings"]["source"]) == ("imported", "b" * 64)
    assert {"train.lr", "train.epochs", "seed", "model.dropout"} <= set(second["settings"]) - set(first["settings"])
    assert first["settings"]["model.nr_filters"] == 2
    output = call("--metric", "val_acc", "--results", results, "--no-export", *chosen)[1]
    assert f"Chosen by --rule max: imported checkpoint {first['trial_id']}." in output
    assert TrialConfig().train.lr == second["settings"]["train.lr"]


def test_what_could_not_be_chosen_anyway_is_not_counted_among_what_conditions_rule_out(results: Path) -> None:
    add(results, [0.5, 0.8])
    failed = CONFIG.with_settings({"seed": 5})
    store = add(results, [0.95], config=failed)
    attempt = Attempt(trial_id=failed.trial_id, attempt=1, number=0, state="FAILED", started=at(), error="diverged")
    store.write_attempt(attempt, failed)
    imported(results, "one", value=0.9)
    arguments = ["--metric", "val_acc", "--results", results, "--no-export", "--where", "val_acc > 0.99"]
    assert "Of 2 epochs with a val_acc, val_acc > 0.99 rules out all (the nearest is 0.8)" in call(*arguments)[1]
    assert "Of 3 epochs" in call(*arguments, "--sweep", "one")[1]
