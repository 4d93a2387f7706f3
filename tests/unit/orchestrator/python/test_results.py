"""The Python API on a folder of results: what the commands say of it, as values and DataFrames."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import orchestrator
from cpcnn_core.config import TrialConfig
from orchestrator.choosing import decision, pinned
from orchestrator.python.results import UnreadableWarning
from orchestrator.records.store import Store
from orchestrator.training import by_hand
from tests.support.paths import ROOT
from tests.support.stores import tiny_store
from tests.support.training import SETTINGS, tiny_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps of one and two trials, of two epochs each."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        for sweep, fusions in (("one", ["none"]), ("two", ["stem_add", "block_film"])):
            store = tiny_store(results / sweep, patch)
            for fusion in fusions:
                config = TrialConfig.from_flat(SETTINGS | {"model.fusion": fusion, "train.epochs": 2})
                assert by_hand.train(config, store, None, on_epoch=lambda _: None, on_progress=lambda *_: None) is None
    return results


def test_the_public_names_are_documented_typed_and_no_modules() -> None:
    assert sorted(orchestrator.__all__) == sorted(orchestrator._PUBLIC)
    modules = {path.stem for path in (ROOT / "orchestrator").iterdir()}
    for name in orchestrator.__all__:
        found = getattr(orchestrator, name)
        assert name not in modules
        assert name in dir(orchestrator)
        assert inspect.getdoc(found)
        for member, value in vars(found).items() if inspect.isclass(found) else ():
            if inspect.isfunction(value) and not member.startswith("_") and found.__module__.startswith("orchestrator"):
                assert inspect.getdoc(value), f"{name}.{member}"
    with pytest.raises(AttributeError, match="run_sweeps"):
        orchestrator.run_sweeps  # noqa: B018


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "import sys, json, orchestrator; dir(orchestrator); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "pandas", "numpy", "optuna", "pydantic", "rich"} & set(json.loads(done.stdout))


def test_tables_have_a_row_each_and_the_sweeps_name(folder: Path) -> None:
    both = orchestrator.load_results(folder)
    assert list(both.trials["sweep"]) == ["one", "two", "two"]
    assert len(both.attempts) == 3
    assert both.epochs.groupby("trial_id")["epoch"].max().tolist() == [2, 2, 2]
    alone = orchestrator.load_results(str(folder), "two")
    assert set(alone.epochs["sweep"]) == {"two"}
    pd.testing.assert_frame_equal(
        alone.trials.drop(columns="sweep"), Store(folder / "two").latest_attempts().frame, check_like=True
    )


def test_an_empty_folder_has_empty_tables(tmp_path: Path) -> None:
    empty = orchestrator.load_results(tmp_path)
    assert list(empty.trials.columns) == ["sweep"]
    assert len(empty.epochs) == 0


def test_a_file_that_cannot_be_read_is_a_warning(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "one"
    copy.parent.mkdir()
    subprocess.run(["cp", "-r", str(folder / "one"), str(copy)], check=True)
    [file] = Store(copy).trials_folder.glob("*.parquet")
    Path(str(file)).write_bytes(b"no table")
    with pytest.warns(UnreadableWarning, match=file.name):
        assert len(orchestrator.load_results(copy.parent).trials) == 0


def test_what_is_not_there_is_an_error_of_one_sentence(folder: Path) -> None:
    with pytest.raises(orchestrator.UserError, match="no sweep three; there are one, two"):
        orchestrator.load_results(folder, ["one", "three"])
    with pytest.raises(orchestrator.UserError, match="user, password"):
        orchestrator.load_results("s3://me:secret@bucket/results")
    results = orchestrator.load_results(folder, "two")
    with pytest.raises(orchestrator.UserError, match="val_ac"):
        results.choose("val_ac")
    with pytest.raises(orchestrator.UserError, match="no trial abc"):
        results.model("abc")


def test_the_choice_is_that_of_best(folder: Path) -> None:
    results = orchestrator.load_results(folder, "two")
    choice = results.choose("val_bpd", where="epoch >= 1")
    made = decision.choose(decision.read(*pinned.asked(folder, ["two"], "epoch >= 1", None, None)[:1], "val_bpd"))
    assert (choice.trial_id, choice.epoch, choice.sweep, choice.metric) == (made.trial_id, made.epoch, "two", "val_bpd")
    assert choice.sentences == decision.sentences(made)
    assert str(choice) == "\n".join(choice.sentences)
    table = choice.standings
    assert len(table) == 2
    first = table.iloc[0]
    assert (first["trial_id"], first["epoch"], first["val_bpd"]) == (choice.trial_id, choice.epoch, choice.value)
    assert bool(first["chosen"])
    assert choice.settings["model.fusion"] == first["model.fusion"]
    if choice.interval is not None:
        assert choice.interval == (first["low"], first["high"])
    pinned_one = results.choose("val_bpd", trial=table.iloc[1]["trial_id"][:6], epoch=1)
    assert (pinned_one.trial_id, pinned_one.epoch) == (table.iloc[1]["trial_id"], 1)


def test_an_export_opens_as_the_model_that_was_chosen(folder: Path, tmp_path: Path) -> None:
    from orchestrator.exporting import folder as exporting

    choice = orchestrator.load_results(folder, "one").choose("val_bpd")
    with pytest.MonkeyPatch.context() as patch:
        tiny_store(tmp_path / "unused", patch)
        patch.setattr(exporting, "verify_in_fresh_process", lambda *_: None)  # whose data would be the real ones
        done = choice.export(tmp_path / "handed_in")
        with pytest.raises(orchestrator.UserError, match="exists"):
            choice.export(tmp_path / "handed_in")
    assert done.folder == tmp_path / "handed_in"
    assert done.checked["val_bpd"][0] == pytest.approx(choice.value)
    images = tiny_dataset().validation.images.permute(0, 2, 3, 1).numpy()
    opened = orchestrator.open_model(done.folder)
    np.testing.assert_array_equal(opened.log_likelihood(images), choice.model().log_likelihood(images))
    assert opened.config.trial_id == choice.trial_id


def test_a_file_that_holds_no_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(orchestrator.UserError, match="nothing"):
        orchestrator.open_model(tmp_path / "nothing.safetensors")
