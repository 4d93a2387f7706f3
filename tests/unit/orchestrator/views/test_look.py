"""`trial look`: the data as a picture with a row per class, each with its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cpcnn_core import grid
from cpcnn_core.data import HIDDEN, Dataset, Split
from orchestrator import trial
from orchestrator.views import look


def called(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(trial.app, ["look", "search_spaces/digits.py", *map(str, arguments)])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.exit_code, " ".join(done.output.split())


def test_the_data_of_a_space_is_shown_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "seen.png"
    code, said = called("--split", "validation", "--out", file)
    assert code == 0
    assert "digits: images of 1x8x8 (channels, height, width)" in said
    assert "class train validation test 0 118 30 30 1 122 30 30" in said
    assert f"The first 25 images of each class of validation are in {file}, a row per class." in said
    with Image.open(file) as picture:
        width, height = picture.size
    assert height == 10 * (64 + 2) - 2
    assert width > 25 * (64 + 2) - 2  # the names


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    code, said = called("--out", tmp_path / "seen.jpg")
    assert code == 2
    assert "the picture is a PNG; let its name end in .png" in said
    assert not list(tmp_path.iterdir())


def test_each_row_has_its_name_and_images_without_a_label_have_a_row(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 1, HIDDEN])
    split = Split(torch.full((4, 3, 32, 32), 200, dtype=torch.uint8), labels, tuple("abcd"))
    data = Dataset("mine", split, split, split, ("cat", "dog"))
    assert look.write(data, "test", tmp_path / "a.png").startswith("The first 2 images of each class of test are in")
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[0] == 3 * 66 - 2
    margin = pixels.shape[1] - (2 * 66 - 2)
    rows = [pixels[top : top + 64, :margin] for top in (0, 66, 132)]
    assert all((row < 128).any() for row in rows)  # letters
    assert not np.array_equal(rows[1], rows[2])
    [column] = [one for one in look.counts(data).columns if one.header == "class"]
    assert [str(cell) for cell in column.cells] == ["cat", "dog", "hidden"]


@pytest.mark.parametrize("name", ["", "\u732b"])
def test_a_name_that_cannot_be_drawn_stops_nothing(tmp_path: Path, name: str) -> None:
    grid.write(tmp_path / "a.png", torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]), {0: name})
    assert (tmp_path / "a.png").exists()
