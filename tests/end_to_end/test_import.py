"""A starter-code checkpoint, through the command line, becomes a trial that `best` can choose."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cpcnn_core import data
from cpcnn_core.config import PROTOCOL, ConfigError, DataConfig, TrialConfig, field_names
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.starter import export_starter, read_state_dict
from orchestrator import best, trial
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.training import importing

SIZES = {"model.fusion": "block_mild", "model.nr_filters": 4, "model.nr_logistic_mix": 2, "model.nr_resnet": 1}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A submission's file: its own name for the label's parameters, sizes that nobody states."""
    torch.manual_seed(0)
    model = ConditionalPixelCNN(TrialConfig.from_flat(SIZES).model, data.load(DataConfig()).image_shape, 10)
    export_starter(tmp_path / "plain.pth", model)
    tensors = {k.replace("fusion.block_mild.e", "bias"): v for k, v in read_state_dict(tmp_path / "plain.pth").items()}
    torch.save({"model_state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "s.pth")
    return tmp_path / "s.pth"


def test_imported_evaluated_recorded_and_exported(tmp_path: Path, checkpoint: Path) -> None:
    results = tmp_path / "results"
    arguments = [
        *["import", str(checkpoint), "--fusion", "block_mild", "--rename", "bias=fusion.block_mild.e"],
        *["--set", "data.name=digits", "--set", "eval.train_images=20", "--results", str(results)],
    ]
    for _ in range(2):  # importing twice is one trial
        done = CliRunner().invoke(trial.app, arguments)
        assert done.exit_code == 0, done.output
        assert "val_acc" in done.output
    store = Store(results / "imported")
    assert (store.read_sweep() or SweepRecord()).kind == "imported"
    (latest,) = store.latest_attempts().rows()
    assert latest["state"] == "COMPLETE"
    assert {name: latest[name] for name in SIZES} == SIZES
    assert len(latest["source"]) == 64
    (epoch,) = store.epochs().rows()
    assert epoch["train_bpd"] is None
    assert len(store.predictions_of(latest["trial_id"], 1)) == 300

    out = tmp_path / "winner"
    chosen = CliRunner().invoke(best.app, ["--metric", "val_acc", "--results", str(results), "--out", str(out)])
    assert chosen.exit_code == 0, chosen.output
    assert json.loads((out / "config.json").read_text())["source"] == latest["source"]
    held = json.loads((out / "metrics.json").read_text())
    assert sum(map(sum, held["confusion"])) == 300
    assert "trained" not in held
    written = datetime.fromisoformat(held["imported"]["started"])
    assert abs(written - latest["started"]) < timedelta(milliseconds=1)
    card = (out / "model_card.md").read_text()
    assert latest["source"] in card
    assert "- `model.nr_filters`: 4" in card
    assert "`train." not in card
    assert "trained by" not in card
    submitted, exported = read_state_dict(checkpoint), read_state_dict(out / "conditional_pixelcnn.pth")
    assert set(submitted) == set(exported)
    assert all(torch.equal(tensor, exported[name]) for name, tensor in submitted.items())


def test_a_file_of_another_form_comes_back_in_that_form(tmp_path: Path, checkpoint: Path) -> None:
    """Other names, a table for all blocks, too many classes, half precision, what is no weights, a NumPy scalar."""
    own = {
        f"net.{name.removeprefix('module.')}": tensor.half()
        for name, tensor in torch.load(checkpoint)["model_state_dict"].items()
        if "bias." not in name or name.endswith(".bias")
    }
    table = torch.randn(12, 8).half()
    content = own | {"net.emb.weight": table, "net.steps": torch.tensor(3)}
    torch.save({"net": content, "epoch": np.int64(3)}, tmp_path / "own.pth")
    arguments = [
        *["import", str(tmp_path / "own.pth"), "--fusion", "block_mild", "--rename", "net.*=*", "--drop", "*.steps"],
        *["--rename", "net.emb.weight=fusion.block_mild.e.*.weight", "--results", str(tmp_path / "results")],
        *["--set", "data.name=digits", "--set", "eval.train_images=0"],
    ]
    refused = CliRunner().invoke(trial.app, arguments)
    assert refused.exit_code == 2
    assert "(the file's net.emb.weight) has 12, the data has 10; --first-classes takes the first 10" in refused.output
    done = CliRunner().invoke(trial.app, [*arguments, "--first-classes"])
    assert done.exit_code == 0, done.output
    assert f"{len(own) + 1} tensors of float16 are kept as float32" in done.output
    assert "of net.emb.weight (12, 8) the first classes are taken, (10, 8)" in done.output
    out = tmp_path / "winner"
    chosen = CliRunner().invoke(
        best.app, ["--metric", "val_acc", "--results", str(tmp_path / "results"), "--out", str(out)]
    )
    assert chosen.exit_code == 0, chosen.output
    exported = read_state_dict(out / "conditional_pixelcnn.pth")
    wanted = {name: tensor.float() for name, tensor in (own | {"net.emb.weight": table[:10]}).items()}
    assert set(exported) == set(wanted)
    assert all(torch.equal(tensor, exported[name]) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (f"protocol={PROTOCOL}", f"this release measures by protocol {PROTOCOL}"),
        ("source=" + "0" * 64, "SHA-256 of the file"),
        ("train.epochs=7", "nothing is trained"),
        ("train.lr=5", "nothing is trained"),
        ("model.nr_filters=20", "read off the file's shapes"),
        ("model.nr_resnet=2", "read off the file's shapes"),
        ("model.nr_logistic_mix=3", "read off the file's shapes"),
        ("model.fusion=none", "--fusion says it"),
        ("model.dropout=0.1", "nothing is trained"),
        ("eval.every=2", "evaluated once"),
    ],
)
def test_a_setting_that_the_file_decides_or_that_has_no_effect_is_refused_by_name(
    tmp_path: Path, checkpoint: Path, setting: str, reason: str
) -> None:
    results = tmp_path / "results"
    arguments = ["import", str(checkpoint), "--fusion", "block_mild", "--rename", "bias=fusion.block_mild.e"]
    settings = ["--set", "data.name=digits", "--set", setting]
    done = CliRunner().invoke(trial.app, [*arguments, *settings, "--results", str(results)])
    assert done.exit_code == 2, done.output
    said = " ".join(done.output.split())
    assert f"--set {setting.partition('=')[0]}: cannot be set for an import" in said
    assert reason in said
    assert not results.exists()


def test_every_field_may_be_set_for_an_import_or_is_refused_with_a_reason() -> None:
    for name in field_names():
        allowed = name.startswith(("data.", "eval.", "model.label_")) or name == "seed"
        allowed &= name != "eval.every"
        with nullcontext() if allowed else pytest.raises(ConfigError, match=f"--set {name}: cannot be set"):
            importing.check_settings({name: 1})


def test_an_option_that_the_shapes_deny_is_refused(tmp_path: Path) -> None:
    sizes = SIZES | {"model.fusion": "block_film", "model.fusion_options.block_film.hidden": 6}
    file = tmp_path / "film.pth"
    export_starter(file, ConditionalPixelCNN(TrialConfig.from_flat(sizes).model, (1, 8, 8), 10))
    arguments = ["import", str(file), "--fusion", "block_film", "--results", str(tmp_path / "results")]
    small = ["--set", "data.name=digits", "--set", "eval.train_images=0", "--set"]
    option = "model.fusion_options.block_film.hidden"
    done = CliRunner().invoke(trial.app, [*arguments, *small, f"{option}=7"])
    assert done.exit_code == 2
    assert f"--set {option}: 7 was given, and by its shapes" in " ".join(done.output.split())
    assert "has 6; leave it out" in " ".join(done.output.split())
    done = CliRunner().invoke(trial.app, [*arguments, *small, f"{option}=6"])
    assert done.exit_code == 0, done.output


def test_the_help_lists_the_fusions() -> None:
    said = CliRunner().invoke(trial.app, ["import", "--help"], env={"COLUMNS": "200"}).output
    words = {word.strip(",;.") for word in said.split()}
    assert words >= {*FUSIONS, "--drop", "--rename", "--first-classes"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--fusion", "block_mld"], "did you mean block_mild?"),
        (["--fusion", "stem_add"], "unused: bias."),
        (["--fusion", "block_mild", "--rename", "bias"], "--rename bias: expected OLD=NEW"),
        (["--fusion", "block_mild", "--rename", "bas=x"], "the file has no 'bas'"),
        (["--fusion", "block_mild", "--drop", "bas"], "--drop bas: the file has no such tensor"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_recorded(
    tmp_path: Path, checkpoint: Path, changed: list[str], message: str
) -> None:
    results = tmp_path / "results"
    arguments = ["import", str(checkpoint), "--set", "data.name=digits", "--results", str(results), *changed]
    done = CliRunner().invoke(trial.app, arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not list(results.rglob("*.parquet"))


def test_weights_that_are_not_finite_are_not_imported(tmp_path: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint)
    content["model_state_dict"]["module.nin_out.lin_a.bias"][3] = float("nan")
    torch.save(content, checkpoint)
    results = tmp_path / "results"
    arguments = ["import", str(checkpoint), "--fusion", "block_mild", "--rename", "bias=fusion.block_mild.e"]
    done = CliRunner().invoke(trial.app, [*arguments, "--set", "data.name=digits", "--results", str(results)])
    assert done.exit_code == 2
    assert f"{checkpoint}: 1 of" in done.output
    assert "NaN or infinite values: nin_out.lin_a.bias (1 of 6 values)" in done.output
    assert not list(results.rglob("*.parquet"))


def test_a_network_that_diverged_is_no_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    tensors = {
        name.removeprefix("module."): tensor
        for name, tensor in torch.load(checkpoint, weights_only=True)["model_state_dict"].items()
    }
    tensors["nin_out.lin_a.weight_g"].fill_(3e38)  # finite, and what comes out is not
    torch.save(tensors, checkpoint)
    results = tmp_path / "results"
    arguments = ["import", str(checkpoint), "--fusion", "block_mild", "--rename", "bias=fusion.block_mild.e"]
    done = CliRunner().invoke(trial.app, [*arguments, "--set", "data.name=digits", "--results", str(results)])
    assert done.exit_code == 2
    assert "s.pth: log p(image | class) is not finite for" in " ".join(done.output.split())
    assert not list(results.rglob("*.parquet"))
