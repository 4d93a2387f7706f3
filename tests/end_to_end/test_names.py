"""One trial from its data to the folder that is handed in, where everything has a name of every printable character."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
import typer
from markdown_it import MarkdownIt
from PIL import Image
from typer.testing import CliRunner

from orchestrator import best, export, report, status, trial
from orchestrator.exporting import folder as folder_of
from orchestrator.exporting import submission
from orchestrator.records.store import Store
from orchestrator.views import tracking
from tests.support import odd

NAME = odd.ALL
SETTINGS = {
    "data.name": "cpen455",
    "data.image_size": 8,
    "model.nr_filters": 2,
    "model.nr_logistic_mix": 1,
    "train.epochs": 1,
    "train.batch_size": 4,
    "eval.train_images": 0,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set whose folder and files have every name."""
    made = tmp_path / NAME / NAME
    for split in ("train", "validation", "test"):
        (made / split / NAME).mkdir(parents=True)
        rows = []
        for index, name in enumerate((NAME, 'a,b"c', "[x] 'y'", "a;b")):
            file = f"{split}/{NAME}/{name}.png"
            Image.new("RGB", (8, 8), (50 * index, 200, 100)).save(made / file)
            rows.append((file, -1 if split == "test" else index))
        with (made / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    return made


def call(app: typer.Typer, *arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_trial_of_odd_names_is_trained_shown_tracked_reported_and_exported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "PER_CLASS", 1)
    monkeypatch.setattr(submission, "measure", lambda *_: f"not measured: {NAME}")
    monkeypatch.setattr(folder_of, "verify_in_fresh_process", folder_of.verify)
    results, out = tmp_path / NAME / "results", tmp_path / NAME / "handed in" / NAME
    space = tmp_path / NAME / f"{NAME}.py"
    question = f"# {NAME}\n\n<script>x</script> *why* `not`?"
    space.write_text(f"__doc__ = {question!r}\nspace = {{}}\nsettings = {SETTINGS!r}\n", encoding="utf-8")
    trained = call(trial.app, space, "--set", f"data.root={root}", "--name", NAME, "--results", results)
    store = Store(results / NAME)
    [row] = store.latest_attempts().rows()
    assert row["data.root"] == str(root)
    assert trained.endswith(f"Trial {row['trial_id']} is in {store.folder}\n")

    assert call(status.app, "--results", results).startswith(f"{NAME}: 1 of 1 trials have ended (1 COMPLETE)")
    tracking.Follower(store, tracking.trackers(store, {"tensorboard": ""})).close()
    assert list((store.folder / "tensorboard" / row["trial_id"]).iterdir())
    assert f"{results / 'report.html'}: 1 sweep(s), 1 trials" in call(report.app, "--results", results)

    said = call(best.app, "--metric", "val_acc", "--results", results, "--sweep", NAME, "--out", out)
    assert f"  {out} (model_card.md says what is in it)" in said
    assert f"{out} is as it was exported: " in call(export.app, out, "--data-root", root)
    assert json.loads((out / "metrics.json").read_text())["sweep"] == NAME
    with (out / submission.PREDICTIONS_WITH_PATHS).open(newline="", encoding="utf-8") as stream:
        assert next(name for name, _ in csv.reader(stream)) == f"test/{NAME}/{NAME}.png"
    card = (out / folder_of.CARD).read_text(encoding="utf-8")
    kinds = Counter(token.type for token in MarkdownIt("commonmark").parse(card))
    assert (kinds["heading_open"], kinds["fence"], kinds["html_block"]) == (7, 1, 0)
    inline = [each for token in MarkdownIt("commonmark").parse(card) for each in token.children or []]
    assert not [each.content for each in inline if each.type in {"html_inline", "em_open", "link_open", "image"}]
    assert NAME in {each.content for each in inline if each.type == "code_inline"}
    again = next(line for line in card.splitlines() if "orchestrator.trial" in line)
    words = shlex.split(again)
    assert words[3] == str(space)
    assert "data.image_size=8" in words
