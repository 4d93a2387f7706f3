from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cpcnn_core import evaluate
from cpcnn_core.checkpoint import build_model, load_weights, save_weights
from cpcnn_core.config import TrialConfig
from orchestrator import best, leaderboard, training
from orchestrator.best import ChoiceError
from orchestrator.objective import Objective
from orchestrator.store import Attempt, Store
from tests.fakes import metrics

ACCURACY = Objective("val_acc", "max")
CONFIG = TrialConfig.from_flat({"model.nr_filters": 2, "model.nr_logistic_mix": 1, "model.fusion": "stem_add"})


@dataclass(frozen=True)
class Measured:
    """Real weights, and what they measure."""

    weights: Path
    values: dict[str, float]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    data = training.dataset(CONFIG.data)
    model = build_model(CONFIG, data.image_shape, data.nr_classes)
    prior = evaluate.log_prior("uniform", data.train.labels, data.nr_classes)
    values = evaluate.evaluate(model, data.validation, prior, batch_size=640).metrics()
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
) -> Store:
    """A trial whose epochs have these val_acc, with no weights behind them."""
    store = Store(results / sweep)
    store.create()
    attempt = Attempt(trial_id=config.trial_id, attempt=1, number=0, state="COMPLETE", started=started, device="cpu")
    store.write_attempt(attempt, config)
    for epoch, value in enumerate(values, start=1):
        keep = tuple(range(1, epoch + 1)) if kept is None else kept
        store.add_epoch(config.trial_id, 1, metrics(epoch, val_acc=value, kept_epochs=keep))
    return store


def add_real(results: Path, measured: Measured, **recorded: float) -> Store:
    """A trial of one epoch with real weights."""
    store = Store(results / "one")
    store.create()
    attempt = Attempt(trial_id=CONFIG.trial_id, attempt=1, number=0, state="COMPLETE", started="2025", device="cpu")
    store.write_attempt(attempt, CONFIG)
    store.add_epoch(CONFIG.trial_id, 1, metrics(1, **(measured.values | recorded)))
    folder = store.checkpoint_folder(CONFIG.trial_id)
    folder.mkdir(parents=True)
    (folder / measured.weights.name).write_bytes(measured.weights.read_bytes())
    return store


def call(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(best.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def entries(results: Path) -> list[leaderboard.Entry]:
    return leaderboard.read(best.chosen_sweeps(results, None))[0]


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
    assert [path.name for path in results.parent.iterdir() if path.name.startswith(".")] == []

    before = (out / "metrics.json").stat().st_mtime_ns
    code, output = call("--metric", "val_acc", "--results", results, "--out", out)
    assert (code, before) == (2, (out / "metrics.json").stat().st_mtime_ns)
    assert "exists; --force replaces it" in output
    assert call("--metric", "val_acc", "--results", results, "--out", out, "--force")[0] == 0
    assert (out / "metrics.json").stat().st_mtime_ns > before


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
    winner, note = best.choose(entries(results), ACCURACY)
    chosen = winner.best(ACCURACY, kept=True)
    assert chosen is not None
    assert chosen["epoch"] == 3
    assert note is not None
    assert "0.9000 in epoch 2" in note
    assert "0.7000 in epoch 3" in note


def test_of_equals_the_earliest_wins(results: Path) -> None:
    early, late = CONFIG.with_settings({"seed": 1}), CONFIG.with_settings({"seed": 2})
    add(results, [0.9, 0.9], config=late, started="2025-01-02")
    add(results, [0.1, 0.9, 0.9], config=early, started="2025-01-01")
    winner, note = best.choose(entries(results), ACCURACY)
    assert (winner.trial_id, note) == (early.trial_id, None)
    chosen = winner.best(ACCURACY, kept=True)
    assert chosen is not None
    assert chosen["epoch"] == 2


def test_the_mode_follows_the_metric_unless_told(results: Path) -> None:
    add(results, [0.2, 0.8])
    assert best.objective_of("val_bpd", None, entries(results)).direction == "min"
    assert best.objective_of("val_bpd", "max", entries(results)).direction == "max"
    with pytest.raises(ChoiceError, match="--mode max or --mode min"):
        best.objective_of("train_seconds", None, entries(results))


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
        best.choose(entries(results), ACCURACY)


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
    code, output = call("--metric", "val_acc", "--results", results)
    assert code == 2
    assert "--sweep" in output
    assert call("--metric", "val_acc", "--results", results, "--sweep", "one")[1].count("different data") == 0


def test_a_broken_table_is_named_and_passed_over(results: Path) -> None:
    store = add(results, [0.5])
    (store.epochs_folder / "broken.parquet").write_bytes(b"PAR1")
    _, output = call("--metric", "val_acc", "--results", results)
    assert "broken.parquet: not readable as Parquet, passed over" in output
    assert "it is gone" in output
