"""`python -m orchestrator.fid A B`, as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cpcnn_core.config import DataConfig
from cpcnn_core.data import Split, load
from orchestrator import command_line as cli
from orchestrator import fid as command


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))


def saved(split: Split, folder: Path, count: int) -> Path:
    folder.mkdir()
    for index, image in enumerate(split.images[:count]):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:03d}.png")
    return folder


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(command.app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_two_folders_of_digits_are_near_and_a_blank_one_is_far(tmp_path: Path) -> None:
    digits = load(DataConfig())
    one, other = saved(digits.validation, tmp_path / "one", 60), saved(digits.test, tmp_path / "other", 60)
    blank = tmp_path / "blank"
    blank.mkdir()
    for index in range(20):
        Image.new("L", (8, 8), 10 * index).save(blank / f"{index}.png")
    options = ["--features", "classifier", "--data", "digits"]
    code, said = call(one, other, *options)
    assert code == 0, said
    assert "95% interval" in said
    assert "60 images of" in said
    assert "features classifier-" in said
    half = call(one, other, *options, "--set", "data.train_fraction=0.5")[1]
    assert features(half).startswith("classifier-")
    assert features(half) != features(said)  # it learnt from other images
    far = call(blank, other, *options)[1]
    assert value(far) > 3 * value(said)


def features(said: str) -> str:
    return " ".join(said.split()).split("features ")[1].split(". ")[0]


def value(said: str) -> float:
    return float(said.split("FID ")[1].split(",")[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "classifier"], "say which by --data"),
        (["--features", "classifier", "--data", "cpen455"], "give --set data.root=PATH"),
        (["--features", "classifier", "--data", "folder"], "needs the folder that holds one for each"),
        (["--features", "classifier", "--data", "digit"], "'digit' is no data set; did you mean digits?"),
        (["--features", "classifier", "--data", "torchvision", "--root", "/"], "data.dataset"),
        (["--features", "classifier", "--data", "digits", "--set", "data.rot=1"], "did you mean data.root?"),
        (["--data", "digits"], "data.name=digits: is for --features classifier, the only ones that learn from data"),
        (["--features", "classifier", "--set", "train.lr=1"], "--set train.lr: only settings of the data"),
        (["--weights", "nothing.pth"], "weights are not at"),
    ],
)
def test_what_is_missing_is_one_sentence(options: list[str], message: str, tmp_path: Path) -> None:
    folder = saved(load(DataConfig()).test, tmp_path / "one", 3)
    code, said = call(folder, folder, *options)
    assert code == cli.BAD_INPUT
    assert message in " ".join(said.split())


def test_a_folder_that_is_not_there_is_said_before_any_work(tmp_path: Path) -> None:
    code, said = call(tmp_path / "nothing", tmp_path)
    assert code == cli.BAD_INPUT
    assert "no such folder" in " ".join(said.split())
