from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cpcnn_core import evaluate
from cpcnn_core.checkpoint import build_model, load_weights, save_weights
from cpcnn_core.config import TrialConfig
from cpcnn_core.data import to_model
from cpcnn_core.metrics import of_evaluation
from orchestrator import best
from orchestrator.choosing import decision as decisions
from orchestrator.choosing import evidence, selection
from orchestrator.choosing.candidates import Candidates, ChoiceError
from orchestrator.choosing.where import WhereError, parse
from orchestrator.exporting import folder as folder_of
from orchestrator.exporting import submission
from orchestrator.objectives.objective import Direction, Objective
from orchestrator.records import arrays
from orchestrator.records.store import Attempt, Store
from orchestrator.records.sweep_file import Asked, SweepRecord
from orchestrator.training import trainer
from tests.support.fakes import metrics
from tests.support.paths import local
from tests.support.times import at

CONFIG = TrialConfig.from_flat({"model.nr_filters": 2, "model.nr_logistic_mix": 1, "model.fusion": "stem_add"})


@dataclass(frozen=True)
class Measured:
    """Real weights, and what they measure."""

    weights: Path
    values: dict[str, float]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    data = trainer.dataset(CONFIG.data)
    model = build_model(CONFIG, data.image_shape, data.nr_classes)
    prior = evaluate.log_prior("uniform", data.train.labels, data.nr_classes)
    values = of_evaluation(evaluate.evaluate(model, data.validation, prior, batch_size=640))
    file = tmp_path_factory.mktemp("weights") / "weights-0001.safetensors"
    shape, classes = data.image_shape, data.nr_classes
    save_weights(
        file, model.state_dict(), config=CONFIG, image_shape=shape, nr_classes=classes, epoch=1, metrics=dict(values)
    )
    return Measured(file, values)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def add(
    results: Path,
    values: list[float | None],
    *,
    sweep: str = "one",
    config: TrialConfig = CONFIG,
    kept: tuple[int, ...] | None = None,
    started: str = "2025-01-01",
    scored: tuple[int, int] | tuple[None, None] = (None, None),
) -> Store:
    """A trial whose epochs have these val_acc, of so many images of so many, with no weights behind them."""
    store = Store(results / sweep)
    store.create()
    attempt = Attempt(
        trial_id=config.trial_id, attempt=1, number=0, state="COMPLETE", started=at(started), device="cpu"
    )
    store.write_attempt(attempt, config)
    for epoch, value in enumerate(values, start=1):
        keep = tuple(range(1, epoch + 1)) if kept is None else kept
        of = {"val_images": scored[0], "val_images_of": scored[1]}
        store.add_epoch(config.trial_id, 1, metrics(epoch, val_acc=value, kept_epochs=keep, **of))
    return store


def add_real(results: Path, measured: Measured, **recorded: float) -> Store:
    """A trial of one epoch with real weights."""
    store = Store(results / "one")
    store.create()
    attempt = Attempt(trial_id=CONFIG.trial_id, attempt=1, number=0, state="COMPLETE", started=at(), device="cpu")
    store.write_attempt(attempt, CONFIG)
    store.add_epoch(CONFIG.trial_id, 1, metrics(1, **(measured.values | recorded)))
    folder = local(store.checkpoint_folder(CONFIG.trial_id))
    folder.mkdir(parents=True)
    (folder / measured.weights.name).write_bytes(measured.weights.read_bytes())
    return store


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(best.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def epochs(results: Path, metric: str = "val_acc", where: str = "", mode: Direction | None = None) -> Candidates:
    conditions = parse(where) if where else ()
    return decisions.read(selection.select(results, ()), metric, mode=mode, conditions=conditions)


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh process takes seconds to start; one test has it."""
    if "fresh" not in request.keywords:
        monkeypatch.setattr(folder_of, "verify_in_fresh_process", folder_of.verify)
        monkeypatch.setattr(submission, "PER_CLASS", 1)
    monkeypatch.setattr(submission, "measure", lambda *_: "not measured")


def test_a_network_that_diverged_is_not_exported(results: Path, measured: Measured) -> None:
    store = add_real(results, measured)
    file = local(store.checkpoint_folder(CONFIG.trial_id)) / measured.weights.name
    held = load_weights(file)
    with torch.no_grad():
        held.model.nin_out.conv.parametrizations.weight.original0.fill_(3e38)
    data = trainer.dataset(CONFIG.data)
    save_weights(
        file,
        held.model.state_dict(),
        config=CONFIG,
        image_shape=data.image_shape,
        nr_classes=data.nr_classes,
        epoch=1,
        metrics=dict(measured.values),
    )
    out = results.parent / "winner"
    code, output = call("--metric", "val_acc", "--results", results, "--out", out)
    assert code == 2
    assert f"{file.name}: log p(image | class) is not finite for 300 of 300 images" in output
    assert not out.exists()
    assert [path.name for path in results.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("metric", ["val_bpd", "val_acc"])
def test_what_an_earlier_version_recorded_of_a_network_that_diverged_is_no_value(results: Path, metric: str) -> None:
    """A likelihood that float32 had swallowed: 0 bits, and predictions that are not finite."""
    diverged = CONFIG.with_settings({"seed": 1})
    for config, bpd in ((CONFIG, 3.0), (diverged, 0.0)):
        store = add(results, [0.5], config=config)
        store.add_epoch(config.trial_id, 1, metrics(1, val_acc=0.5, val_bpd=bpd))
        rows = [[-math.log(2) * bpd * 64, -200.0 if bpd else math.nan]] * 2
        store.write_predictions(config.trial_id, 1, images=["a", "b"], labels=[0, 1], log_likelihood=rows)
    decision = decisions.choose(epochs(results, metric))
    assert decision.trial_id == CONFIG.trial_id
    standing = next(one for one in decision.standings() if one.chosen)
    assert standing.interval is not None
    assert all(math.isfinite(end) for end in standing.interval)
    assert {one.trial_id for one in decision.standings()} == {CONFIG.trial_id}


@pytest.mark.parametrize(
    ("asked", "option"),
    [
        (("--metric", "test_acc", "--mode", "max"), "--metric"),
        (("--metric", "val_acc", "--where", "test_acc > 0.5"), ""),
    ],
)
def test_nothing_is_chosen_by_the_test_images(results: Path, asked: tuple[str, ...], option: str) -> None:
    store = add(results, [0.5])
    store.add_epoch(CONFIG.trial_id, 1, metrics(1, test_acc=0.75))
    code, output = call(*asked, "--results", results)
    assert code == 2
    said = "test_acc is of the test images, by which nothing is chosen"
    assert f"{option or '--where test_acc > 0.5'}{' test_acc' if option else ''}: {said}" in " ".join(output.split())


def test_the_winner_is_exported_with_weights_configuration_and_metrics(results: Path, measured: Measured) -> None:
    add_real(results, measured)
    out = results.parent / "winner"
    code, output = call("--metric", "val_acc", "--results", results, "--out", out)
    assert code == 0, output
    assert f"{measured.values['val_acc']:.6f} recorded" in output
    assert load_weights(out / "weights.safetensors").config == CONFIG
    assert TrialConfig.from_tree(json.loads((out / "config.json").read_text())) == CONFIG
    held = json.loads((out / "metrics.json").read_text())
    assert held["recorded"]["val_bpd"] == pytest.approx(held["measured_again"]["val_bpd"], abs=1e-9)
    assert held["trial_id"] == CONFIG.trial_id
    accuracy = held["accuracy"]
    assert accuracy["validation"]["value"] == pytest.approx(measured.values["val_acc"])
    assert accuracy["train"]["images"] <= accuracy["train"]["of"]
    labels, rows = trainer.dataset(CONFIG.data).test.labels.tolist(), submission.read_predictions(out)
    right = sum(str(label) == predicted for label, (_, predicted) in zip(labels, rows, strict=True))
    assert accuracy["test"] == {"value": right / len(rows), "images": len(rows), "of": len(rows), "reason": None}
    assert f"| Test | {accuracy['test']['value']:.4f} | {len(rows)} |" in (out / "model_card.md").read_text()
    assert [path.name for path in results.parent.iterdir() if path.name.startswith(".")] == []

    before = (out / "metrics.json").stat().st_mtime_ns
    code, output = call("--metric", "val_acc", "--results", results, "--out", out)
    assert (code, before) == (2, (out / "metrics.json").stat().st_mtime_ns)
    assert "exists; --force replaces it" in output
    assert call("--metric", "val_acc", "--results", results, "--out", out, "--force")[0] == 0
    assert (out / "metrics.json").stat().st_mtime_ns > before


def test_weights_that_are_damaged_or_not_finite_are_not_exported(results: Path, measured: Measured) -> None:
    folder = add_real(results, measured).checkpoint_folder(CONFIG.trial_id)
    file, out = folder / measured.weights.name, results.parent / "winner"
    content = file.read_bytes()
    index = {"format": 1, "trial_id": CONFIG.trial_id, "history": [], "states": {}, "weights": {}}
    index["weights"] = {file.name: hashlib.sha256(content).hexdigest()}
    (folder / "index.json").write_bytes(json.dumps(index).encode())
    file.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
    code, output = call("--metric", "val_acc", "--results", results, "--out", out)
    assert (code, out.exists()) == (2, False)
    assert f"{file}: damaged, its SHA-256 is not the one that index.json beside it records" in output

    file.write_bytes(content[:-4] + b"\xff" * 4)  # a NaN
    index["weights"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    (folder / "index.json").write_bytes(json.dumps(index).encode())
    code, output = call("--metric", "val_acc", "--results", results, "--out", out)
    assert (code, out.exists()) == (2, False)
    assert f"{file}: 1 of" in output
    assert "NaN or infinite values" in output
    assert [path.name for path in results.parent.iterdir() if path.name.startswith(".")] == []


def test_force_replaces_exports_and_nothing_else(results: Path, measured: Measured) -> None:
    add_real(results, measured)
    thesis = results.parent / "thesis"
    thesis.mkdir()
    (thesis / "metrics.json").write_text("years of work")
    code, output = call("--metric", "val_acc", "--results", results, "--out", thesis, "--force")
    assert code == 2
    assert "holds something that is no export of ours" in output
    assert [path.read_text() for path in thesis.iterdir()] == ["years of work"]
    (thesis / "metrics.json").unlink()
    assert call("--metric", "val_acc", "--results", results, "--out", thesis, "--force")[0] == 0


def test_a_place_that_no_folder_can_have_is_said_in_words(results: Path, measured: Measured) -> None:
    add_real(results, measured)
    thesis = results.parent / "thesis"
    thesis.write_text("years of work")
    code, output = call("--metric", "val_acc", "--results", results, "--out", thesis, "--force")
    assert (code, "is a file" in output, thesis.read_text()) == (2, True, "years of work")
    code, output = call("--metric", "val_acc", "--results", results, "--out", thesis / "winner")
    assert (code, "cannot be written: File exists" in output) == (2, True)


@pytest.mark.parametrize("metric", ["val_acc", "val_bpd"])
def test_weights_that_do_not_give_the_recorded_metric_are_not_exported(
    results: Path, measured: Measured, metric: str
) -> None:
    add_real(results, measured, **{metric: measured.values[metric] + 2e-4})
    out = results.parent / "winner"
    code, output = call("--metric", metric, "--results", results, "--out", out)
    assert code == 1
    assert f"{metric} was recorded as {measured.values[metric] + 2e-4:.6f}" in output
    assert "nothing was exported" in output
    assert sorted(path.name for path in results.parent.iterdir()) == ["results"]


def test_a_metric_that_evaluation_does_not_give_is_backed_by_those_that_it_gives(
    results: Path, measured: Measured
) -> None:
    add_real(results, measured, train_bpd=3.0, val_bpd=measured.values["val_bpd"] + 2e-4)
    code, output = call("--metric", "train_bpd", "--results", results)
    assert code == 1
    assert "val_bpd was recorded" in output


def test_a_checkpoint_that_is_gone_is_named(results: Path) -> None:
    add(results, [0.5])
    code, output = call("--metric", "val_acc", "--results", results)
    assert code == 2
    assert "weights-0001.safetensors: the table names this checkpoint, but it is gone" in output


def test_only_epochs_whose_weights_are_kept_can_win_and_a_better_one_is_mentioned(results: Path) -> None:
    add(results, [0.5, 0.9, 0.7], kept=(1, 3))
    decision = decisions.choose(epochs(results))
    assert decision.epoch == 3
    assert any("0.9000 in epoch 2" in note for note in decision.notes)


def test_of_equals_the_earliest_wins(results: Path) -> None:
    early, late = CONFIG.with_settings({"seed": 1}), CONFIG.with_settings({"seed": 2})
    add(results, [0.9, 0.9], config=late, started="2025-01-02")
    add(results, [0.1, 0.9, 0.9], config=early, started="2025-01-01")
    decision = decisions.choose(epochs(results))
    assert (decision.trial_id, decision.epoch) == (early.trial_id, 2)


def test_the_mode_follows_the_metric_unless_told(results: Path) -> None:
    add(results, [0.2, 0.8])
    assert epochs(results, "val_bpd").objective.direction == "min"
    assert epochs(results, "val_bpd", mode="max").objective.direction == "max"
    with pytest.raises(ChoiceError, match="--mode max or --mode min"):
        epochs(results, "train_seconds")


@pytest.mark.parametrize("values", [[None, None], []])
def test_a_metric_that_is_null_everywhere_chooses_nothing(results: Path, values: list[float | None]) -> None:
    add(results, values)
    code, output = call("--metric", "val_acc", "--results", results)
    assert code == 2
    assert ("null in every epoch" if values else "no trial has finished an epoch") in output


def test_no_kept_weights_choose_nothing(results: Path) -> None:
    store = add(results, [0.5])
    store.add_epoch(CONFIG.trial_id, 1, metrics(1, checkpoint=None, kept_epochs=()))
    with pytest.raises(ChoiceError, match="no epoch with a val_acc has its weights on disk"):
        decisions.choose(epochs(results))


def test_an_unknown_metric_or_sweep_is_named_with_the_nearest(results: Path) -> None:
    add(results, [0.5])
    code, output = call("--metric", "val_ac", "--results", results)
    assert (code, "did you mean val_acc?" in output) == (2, True)
    code, output = call("--metric", "val_acc", "--results", results, "--sweep", "on")
    assert (code, "did you mean one?" in output) == (2, True)


def test_a_folder_without_sweeps_says_how_to_run_one(results: Path) -> None:
    code, output = call("--metric", "val_acc", "--results", results)
    assert code == 2
    assert "holds no sweep" in output
    assert "orchestrator.sweep" in output


def test_trials_on_different_data_are_not_compared(results: Path) -> None:
    add(results, [0.5])
    add(results, [0.6], sweep="two", config=CONFIG.with_settings({"data.image_size": 16}))
    both = ["--metric", "val_acc", "--results", results, "--sweep", "one", "--sweep", "two"]
    code, output = call(*both)
    assert code == 2
    assert "saw different data" in output
    assert "one: data.image_size null; two: data.image_size 16" in output
    assert "--sweep" in output
    assert "different data" not in call(*both[:-2])[1]


def test_values_of_different_validation_images_are_not_compared(results: Path) -> None:
    some, all_of_them = (CONFIG.with_settings({"eval.max_images": most}) for most in (40, None))
    add(results, [0.5], config=some, scored=(40, 180))
    add(results, [0.6, 0.7], config=all_of_them, scored=(180, 180))
    code, output = call("--metric", "val_acc", "--results", results)
    assert code == 2
    assert "are of different validation images (eval.max_images)" in output
    assert "one: 40 of them; one: all" in output
    assert "--where 'val_images == 40'" in output
    for images, value in ((40, 0.5), (180, 0.7)):
        assert epochs(results, where=f"val_images == {images}").values.max() == value
    with pytest.raises(ChoiceError, match="different validation images"):
        epochs(results, "train_bpd", where="val_acc > 0.1")
    assert len(epochs(results, "train_bpd")) == 3


@pytest.mark.parametrize(("metric", "refused"), [("val_acc", True), ("fid", False)])
def test_a_score_is_of_the_images_that_its_metrics_are_of(results: Path, metric: str, refused: bool) -> None:
    store = add(results, [], config=CONFIG)
    store.write_sweep(SweepRecord(asked=Asked(objective=Objective(metric, "max").describe())))
    scored = {"val_images": 40, "val_images_of": 180}
    for epoch, of in ((1, {}), (2, scored)):
        store.add_epoch(CONFIG.trial_id, 1, metrics(epoch, score=epoch / 4, kept_epochs=(epoch,), **of))
    if refused:
        with pytest.raises(ChoiceError, match="different validation images"):
            epochs(results, "score")
    else:
        assert list(epochs(results, "score").values) == [0.25, 0.5]


def test_more_images_to_score_than_there_are_is_all_of_them(results: Path) -> None:
    add(results, [0.5], config=CONFIG.with_settings({"eval.max_images": 1000}), scored=(180, 180))
    add(results, [0.7])  # of a release that did not say
    assert len(epochs(results)) == 2


def test_a_broken_table_is_named_and_passed_over(results: Path) -> None:
    store = add(results, [0.5])
    (store.epochs_folder / "broken.parquet").write_bytes(b"PAR1")
    _, output = call("--metric", "val_acc", "--results", results)
    assert "broken.parquet: not readable as Parquet, passed over" in output
    assert "it is gone" in output


def judged(results: Path, hits: dict[int, list[int]], sweep: str = "one") -> Store:
    """Trials, by seed, whose epochs classify so many of 200 images rightly, the easiest first."""
    for seed, counts in hits.items():
        config = CONFIG.with_settings({"seed": seed})
        store = add(results, [count / 200 for count in counts], config=config, sweep=sweep)
        for epoch, count in enumerate(counts, start=1):
            log_p = [[-1.0, -2.0] if image < count else [-2.0, -1.0] for image in range(200)]
            images = [str(image) for image in range(200)]
            store.write_predictions(config.trial_id, epoch, images=images, labels=[0] * 200, log_likelihood=log_p)
    return store


def test_what_takes_too_much_memory_has_no_interval_and_that_is_said(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(results, {1: [120, 150]})
    monkeypatch.setattr(evidence, "_MOST_NUMBERS", 399)
    code, output = call("--metric", "val_acc", "--results", results, "--no-export")
    assert code == 0, output
    assert "No interval: val_acc of 2 classes, 200 images and 2 epochs takes more memory than there may be" in output


def test_the_table_says_how_sure_it_is(results: Path) -> None:
    judged(results, {1: [120, 150], 2: [100, 110], 3: [140, 149]})
    code, output = call("--metric", "val_acc", "--results", results, "--no-export", "--json", "--rule", "max")
    assert code == 0, output
    held = json.loads(output)
    first, second, third = held["best"]
    assert [one["value"] for one in (first, second, third)] == [0.75, 0.745, 0.55]
    low, high = first["interval"]
    assert low == pytest.approx(0.75 - 0.06, abs=0.01)  # 1.96 (.75 .25 / 200)^.5
    assert high == pytest.approx(0.75 + 0.06, abs=0.01)
    # The easiest images first: one hit more is one hit more in every redraw that has its image.
    assert first["probability_best"] > second["probability_best"] > third["probability_best"] == 0
    assert [one["indistinguishable"] for one in held["best"]] == [True, True, False]
    assert 0.72 < held["corrected"]["value"] < 0.7501
    assert sum(one["chosen"] for one in held["best"]) == 1


def test_predictions_that_do_not_give_the_table_s_value_are_no_evidence(results: Path) -> None:
    store = judged(results, {1: [120]})
    store.add_epoch(CONFIG.with_settings({"seed": 1}).trial_id, 1, metrics(1, val_acc=0.9, kept_epochs=(1,)))
    decision = decisions.choose(epochs(results))
    assert decision.verdict is None
    assert any("give another val_acc than the table" in note for note in decision.notes)


def test_several_sweeps_are_chosen_from_together(results: Path) -> None:
    judged(results, {1: [120]}, sweep="one")
    judged(results, {2: [130]}, sweep="two")
    judged(results, {3: [190]}, sweep="three")
    code, output = call(
        "--metric", "val_acc", "--results", results, "--sweep", "one", "--sweep", "two", "--no-export", "--json"
    )
    assert code == 0
    assert [one["sweep"] for one in json.loads(output)["best"]] == ["two", "one"]
    assert (
        len(
            json.loads(call("--metric", "val_acc", "--results", results, "--no-export", "--json", "--top", "2")[1])[
                "best"
            ]
        )
        == 2
    )


def test_a_sweep_that_has_only_begun_is_no_obstacle(results: Path) -> None:
    judged(results, {1: [120]}, sweep="one")
    Store(results / "two").create()
    assert len(epochs(results, where="model.nr_filters == 2")) == 1


def test_scores_of_different_objectives_are_never_mixed(results: Path) -> None:
    for sweep, limit in (("one", 30), ("two", 40), ("three", 30)):
        config = CONFIG.with_settings({"seed": limit})
        store = add(results, [0.5], sweep=sweep, config=config)
        store.add_epoch(config.trial_id, 1, metrics(1, score=0.5))
        objective = {"metric": "val_acc", "direction": "max", "limits": {"fid": limit}}
        store.write_sweep(SweepRecord.model_validate({"asked": {"objective": objective}}))
    with pytest.raises(ChoiceError, match="different objectives"):
        decisions.read(selection.select(results, ["one", "two", "three"]), "score")
    assert len(decisions.read(selection.select(results, ["one", "three"]), "score")) == 2


def fids(results: Path, values: list[float | None], *, sweep: str = "one", seed: int = 0, **measured: object) -> None:
    config = CONFIG.with_settings({"seed": seed})
    store = add(results, [], sweep=sweep, config=config)
    given = {"fid_extractor": "classifier-1", "fid_images": 100, "fid_reference": "digits/validation-1"} | measured
    for epoch, value in enumerate(values, start=1):
        alike = given if value is not None else {}
        store.add_epoch(
            config.trial_id, 1, metrics(epoch, fid=value, val_acc=0.5 + epoch / 10, kept_epochs=(1, 2, 3), **alike)
        )


def test_accuracy_within_a_bound_on_fid(results: Path) -> None:
    fids(results, [20.0, 40.0, None])
    assert epochs(results, where="fid <= 30").epoch.tolist() == [1]
    assert epochs(results, where="fid <= 50 and val_acc > 0.65").epoch.tolist() == [2]
    assert len(epochs(results, where="model.nr_filters == 2")) == 3
    with pytest.raises(ChoiceError, match=r"--where fid <= 1: no epoch meets it.*the nearest is 20; 1 without a value"):
        epochs(results, where="fid <= 1")


@pytest.mark.parametrize("other", [{"fid_images": 200}, {"fid_extractor": "inception-192"}, {"fid_reference": "x"}])
@pytest.mark.parametrize(("metric", "where"), [("fid", ""), ("val_acc", "fid < 30")])
def test_fids_that_were_not_measured_alike_are_never_mixed(
    results: Path, other: dict[str, Any], metric: str, where: str
) -> None:
    fids(results, [20.0], seed=1)
    fids(results, [10.0], seed=2, **other)
    with pytest.raises(ChoiceError, match="were not measured alike"):
        epochs(results, metric, where)
    one_kind = f"{where} and " if where else ""
    assert (
        len(
            epochs(
                results,
                metric,
                f"{one_kind}fid_images == 100 and fid_extractor == 'classifier-1' and fid_reference != 'x'",
            )
        )
        == 1
    )
    assert len(epochs(results, "val_acc")) == 2  # accuracies compare all the same
    alike = "fid_images == 100 and fid_extractor == 'classifier-1' and fid_reference != 'x'"
    assert len(epochs(results, "val_acc", alike)) == 1  # and a condition holds though no FID is compared


def test_a_fid_has_its_interval_from_its_standard_error_or_none_with_the_reason(results: Path) -> None:
    fids(results, [20.0, 10.0])
    decision = decisions.choose(epochs(results, "fid"))
    assert decision.epoch == 2
    assert any("no standard error of fid was recorded" in note for note in decision.notes)
    fids(results, [20.0, 10.0], fid_standard_error=1.0)
    described: Any = decisions.describe(decisions.choose(epochs(results, "fid")), top=1)
    assert described["best"][0]["interval"] == pytest.approx([8.04, 11.96], abs=0.15)


def test_the_smallest_model_of_those_that_are_as_good(results: Path) -> None:
    store = judged(results, {1: [150], 2: [149], 3: [60]})
    for seed, size in ((1, 300), (2, 200), (3, 100)):
        folder = local(store.checkpoint_folder(CONFIG.with_settings({"seed": seed}).trial_id))
        folder.mkdir(parents=True)
        (folder / "weights-0001.safetensors").write_bytes(b"x" * size)
    chosen = decisions.choose(epochs(results), "smallest").trial_id
    assert chosen == CONFIG.with_settings({"seed": 2}).trial_id


def test_an_ensemble_of_models_that_err_on_different_images_gains(results: Path) -> None:
    images = [str(image) for image in range(300)]
    for seed in range(3):
        config = CONFIG.with_settings({"seed": seed})
        store = add(results, [200 / 300], config=config)
        wrong = range(100 * seed, 100 * seed + 100)
        log_p = [[-2.0, -1.0] if image in wrong else [-1.0, -2.0] for image in range(300)]
        store.write_predictions(config.trial_id, 1, images=images, labels=[0] * 300, log_likelihood=log_p)
    arguments = ("--metric", "val_acc", "--results", results, "--no-export", "--json", "--ensemble")
    held = json.loads(call(*arguments, "3")[1])["ensemble"]
    assert held["ensemble"] == 1.0
    assert held["gain"] == pytest.approx(1 / 3, abs=0.1)
    code, output = call(*arguments, "4")
    assert (code, "only 3 trials can be judged" in output) == (2, True)


@pytest.mark.parametrize(
    "text", ["fid", "fid <", "fid < 3 or kid < 1", "fid < x", "__import__('os')", "fid < 3 and", "(fid < 3)", "1 < fid"]
)
def test_a_condition_is_read_and_never_run(text: str) -> None:
    with pytest.raises(WhereError, match="--where"):
        parse(text)


def test_a_condition_on_a_misspelt_column_names_the_nearest(results: Path) -> None:
    add(results, [0.5])
    with pytest.raises(WhereError, match="did you mean val_acc"):
        epochs(results, where="val_ac > 0")
    with pytest.raises(WhereError, match="text in quotes"):
        epochs(results, where="model.fusion == 3")
    with pytest.raises(WhereError, match="compared with 1 and 0"):
        epochs(results, where="train.flip == 'true'")
    assert len(epochs(results, where="train.flip == 0")) == 1


@pytest.mark.fresh
def test_the_exported_folder_holds_all_that_is_handed_in_and_is_checked_afresh(
    results: Path, measured: Measured
) -> None:
    add_real(results, measured)
    out = results.parent / "winner"
    code, output = call("--metric", "val_acc", "--results", results, "--out", out)
    assert code == 0, output
    data = trainer.dataset(CONFIG.data)
    rows = (out / "submission_with_paths.csv").read_text().splitlines()
    logits = np.load(out / "logits.npy")
    assert logits.shape == (len(data.test), 10)
    assert rows == [f"{name},{row.argmax()}" for name, row in zip(data.test.names, logits, strict=True)]
    assert (out / "submission.csv").read_text().splitlines() == ["id,label", *rows]  # no fid: it was not measured
    names = sorted(path.name for path in (out / "samples").iterdir())
    assert len(names) == 250
    assert names[0] == "Class0_image_01.png"
    assert names[-1] == "Class9_image_25.png"
    with Image.open(out / "samples" / names[0]) as image:
        assert (image.size, image.mode) == ((8, 8), "L")
    card = (out / "model_card.md").read_text()
    assert CONFIG.trial_id in card
    assert "not measured" in card
    assert "`model.py`" in card
    assert labels_of_the_file_alone(out, data.test.images) == logits.argmax(axis=1).tolist()
    listed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert listed == {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {"SHA256SUMS"}

    (out / "submission.csv").write_text("id,label\n")
    with pytest.raises(folder_of.MismatchError, match=r"submission.csv: is not the file that was exported"):
        folder_of.verify(out)


def labels_of_the_file_alone(out: Path, images: torch.Tensor) -> list[int]:
    """What the exported model.py predicts, in a process that starts beside it."""
    torch.save(to_model(images), out.parent / "images.pt")
    program = (
        "import torch; from model import get_label, load; net = load('conditional_pixelcnn.pth'); "
        "print(get_label(net, torch.load('../images.pt'), 'cpu').tolist())"
    )
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    labels: list[int] = json.loads(done.stdout)
    return labels


def test_a_submission_in_the_course_s_form(tmp_path: Path) -> None:
    names = ("test/0000021.jpg", "test/0000007.jpg")
    made = submission.Predictions(names, torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64), ("0", "1"))
    submission.write_predictions(tmp_path, made, 12.5)
    assert (tmp_path / "submission.csv").read_text() == "id,label\n0000021.jpg,1\n0000007.jpg,0\nfid,12.5\n"
    assert (tmp_path / "submission_with_paths.csv").read_text() == "test/0000021.jpg,1\ntest/0000007.jpg,0\n"


def test_no_id_stands_twice_in_a_submission(tmp_path: Path) -> None:
    names = ("test/a/1.jpg", "test/b/1.jpg", "test/c/2.jpg")
    made = submission.Predictions(names, torch.eye(3, dtype=torch.float64), ("a, b", "1", "0"))
    submission.write_predictions(tmp_path, made, None)
    assert (
        tmp_path / "submission.csv"
    ).read_text() == 'id,label\ntest/a/1.jpg,"a, b"\ntest/b/1.jpg,1\ntest/c/2.jpg,0\n'
    assert submission.read_predictions(tmp_path) == made.rows


def test_best_answers_without_torch_ray_optuna_or_pandas(results: Path) -> None:
    judged(results, {1: [120, 150], 2: [100, 110]})
    code = (
        "import sys; from orchestrator.best import app; app(sys.argv[1:], standalone_mode=False);"
        "assert not {'torch', 'ray', 'optuna', 'pandas'} & set(sys.modules)"
    )
    asked = ["--metric", "val_acc", "--where", "val_acc > 0.5", "--results", str(results), "--no-export"]
    subprocess.run([sys.executable, "-c", code, *asked], check=True, timeout=300)


@pytest.mark.parametrize("null", [[], [1], [0, 1, 2, 3, 4]])
def test_columns_are_read_as_pandas_would_read_them(null: list[int]) -> None:
    held = [None if at in null else at - 2 for at in range(5)]
    chunked = pa.chunked_array([held[:2], [], held[1:]], pa.int64()).slice(1)  # offsets, and a chunk without anything
    found = arrays.numbers(chunked)
    np.testing.assert_array_equal(found, chunked.to_pandas().astype(float).to_numpy())
    assert arrays.valid(chunked).tolist() == (~np.isnan(found)).tolist()
    assert arrays.integers(chunked, -9).tolist() == [-9 if value is None else value for value in chunked.to_pylist()]
    assert arrays.numbers(chunked.cast(pa.float32())).tolist() == pytest.approx(found.tolist(), nan_ok=True)
    assert arrays.bools(pc.equal(chunked, chunked)).all()
    assert chunked.filter(arrays.mask(arrays.valid(chunked))).to_pylist() == [
        v for v in chunked.to_pylist() if v is not None
    ]


def test_equal_copies_are_told_from_one_another_by_nothing(results: Path) -> None:
    judged(results, {seed: [120, 130] for seed in range(1, 6)})
    code, output = call("--metric", "val_acc", "--results", results, "--no-export")
    assert code == 0, output
    assert "5 of 5 trials cannot be told from the best (*)" in output
    assert "their P(best) adds up to 1.00" in output
    held = json.loads(call("--metric", "val_acc", "--results", results, "--no-export", "--json")[1])
    assert (held["indistinguishable"], held["judged"]) == (5, 5)
    assert {round(one["probability_best"], 9) for one in held["best"]} == {0.2}
    assert all(one["indistinguishable"] for one in held["best"])
    order = [one["trial_id"] for one in held["best"]]
    assert order == sorted(order)  # began at the same time, so that neither rounding nor chance orders them


@pytest.mark.parametrize("seed", range(4))
def test_what_is_printed_of_the_set_agrees_with_the_probabilities(results: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [str(image) for image in range(300)]
    for trial, accuracy in enumerate((0.78, 0.74, 0.73, 0.5)):
        config = CONFIG.with_settings({"seed": trial, "train.epochs": 4})
        hits = rng.random((4, 300)) < accuracy
        store = add(results, hits.mean(axis=1).tolist(), config=config)
        for epoch, correct in enumerate(hits, start=1):
            log_p = [[-1.0, -2.0] if hit else [-2.0, -1.0] for hit in correct]
            store.write_predictions(config.trial_id, epoch, images=images, labels=[0] * 300, log_likelihood=log_p)
    held = json.loads(call("--metric", "val_acc", "--results", results, "--no-export", "--json")[1])
    inside = [one["probability_best"] for one in held["best"] if one["indistinguishable"]]
    assert len(inside) == held["indistinguishable"]
    assert sum(inside) >= 0.95 - 1e-9
    assert (max(one["probability_best"] for one in held["best"]) >= 0.95) <= (len(inside) == 1)


def test_a_choice_outside_the_set_says_why(results: Path) -> None:
    store = judged(results, {1: [190], 2: [100]})
    best_one = CONFIG.with_settings({"seed": 1})
    store.add_epoch(best_one.trial_id, 1, metrics(1, val_acc=0.95, checkpoint=None, kept_epochs=()))
    _, output = call("--metric", "val_acc", "--results", results, "--no-export")
    assert "1 of 2 trials cannot be told from the best" in output
    assert "The choice is not among them: the weights of their best epochs are not on disk." in output
    assert "The best value, val_acc 0.9500 in epoch 1 of" in output


def test_close_values_are_told_apart_and_none_is_rounded_to_a_bound(results: Path) -> None:
    for seed, value in enumerate((0.99996, 0.99994, 0.5)):
        config = CONFIG.with_settings({"seed": seed, "train.lr": 0.00123456 + seed * 1e-9})
        add(results, [value], config=config)
    _, output = call("--metric", "val_acc", "--results", results, "--no-export")
    shown = output.split()
    assert [value for value in shown if value in {"0.99996", "0.9999", "0.5000"}] == ["0.99996", "0.9999", "0.5000"]
    assert [value for value in shown if value.startswith("0.00123")] == ["0.00123456", "0.001234561", "0.001234562"]
    assert "1.0000" not in output


@pytest.mark.parametrize("table", ["trials", "epochs"])
def test_what_could_not_be_read_is_named_where_nothing_can_be_chosen(results: Path, table: str) -> None:
    store = add(results, [0.5])
    store.compact(at_least=1)
    file = results / "one" / table / "compacted.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    for arguments in ((), ("--sweep", "one"), ("--where", "val_acc > 0"), ("--metric", "val_acc.cat")):
        said = CliRunner().invoke(best.app, ["--metric", "val_acc", *arguments, "--results", str(results)])
        assert said.exit_code == 2, said.output
        assert f"{file}: not readable as Parquet" in said.output, arguments
        if table == "trials" and "val_acc.cat" not in arguments:
            assert f"has no row of {CONFIG.trial_id}" in said.output


def test_a_broken_sweep_json_is_warned_of_by_whoever_does_without_it(results: Path, measured: Measured) -> None:
    add_real(results, measured)
    (results / "one" / "sweep.json").write_text("{")
    arguments = ["--metric", "val_acc", "--sweep", "one", "--results", str(results), "--no-export"]
    said = CliRunner().invoke(best.app, arguments)
    assert said.exit_code == 0, said.output
    assert "sweep.json: not readable as JSON" in said.output
    assert "move it away" in said.output
    bare = CliRunner().invoke(best.app, ["--metric", "val_acc", "--results", str(results), "--no-export"])
    assert bare.exit_code == 2
    assert "one: its sweep.json cannot be read; move it away" in bare.output
