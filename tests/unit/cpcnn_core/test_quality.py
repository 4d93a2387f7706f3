"""Drawing images for a look and for FID, and what they are measured with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from cpcnn_core import data, quality
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.features import Extractor
from cpcnn_core.quality import Drawn
from cpcnn_core.sampling import SamplePath
from tests.contract.networks import network


def config(**settings: object) -> TrialConfig:
    return TrialConfig.from_flat({f"eval.{name}": value for name, value in settings.items()})


class Process:
    """One of several that draw, in turns: what they gather is what those before it gave, and itself for the others."""

    device = torch.device("cpu")

    def __init__(self, rank: int, world: int, given: dict[torch.dtype, list[Tensor]]) -> None:
        self.process_index, self.num_processes, self._given = rank, world, given

    def gather(self, own: Tensor) -> Tensor:
        before = self._given.setdefault(own.dtype, [])
        before.append(own)
        return torch.cat([*before, *[own] * (self.num_processes - len(before))])


def test_processes_draw_together_what_one_draws() -> None:
    model = network("stem_add", (1, 8, 8))
    whole = quality.draw(model, 3, seed=5)
    assert whole.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert not torch.equal(whole.images, quality.draw(model, 3, seed=6).images)
    for world in (2, 4):  # nine images: shares that do not divide them
        given: dict[torch.dtype, list[Tensor]] = {}
        for rank in range(world):
            together = quality.draw(model, 3, seed=5, accelerator=cast(Accelerator, Process(rank, world, given)))
        assert torch.equal(together.images, whole.images)
        assert together.path == whole.path == "calls"


@pytest.mark.parametrize("ways", [("calls", "reference"), ("reference", "calls"), ("graph", "graph")])
def test_how_each_process_drew_is_recorded(
    monkeypatch: pytest.MonkeyPatch, ways: tuple[SamplePath, SamplePath]
) -> None:
    def drawn(_: object, labels: Tensor, *, on_path: Callable[[SamplePath], None], **__: object) -> Tensor:
        on_path(ways[len(given.get(torch.int64, []))])
        return torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8)

    monkeypatch.setattr(quality, "sample", drawn)
    model, given = network("stem_add", (1, 8, 8)), dict[torch.dtype, list[Tensor]]()
    for rank in range(2):
        together = quality.draw(model, 3, seed=5, accelerator=cast(Accelerator, Process(rank, 2, given)))
    assert together.path == "+".join(sorted(set(ways)))


@pytest.mark.parametrize(("side", "factor"), [(8, 8), (32, 2), (128, 1)])
def test_the_grid_has_one_row_per_class(tmp_path: Path, side: int, factor: int) -> None:
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, side, side) * 40
    Drawn(images, torch.tensor([0, 0, 0, 2, 2])).write_grid(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        step = factor * side + 2
        assert grid.size == (3 * step - 2, 2 * step - 2)
        shades = [
            cast("tuple[int, ...]", grid.getpixel((x * step + 1, y * step + 1)))[0] for y in (0, 1) for x in range(3)
        ]
    assert shades == [0, 40, 80, 120, 160, 255]


def test_the_grid_of_a_thousand_classes_has_a_hundred_rows_also_of_images_that_are_not_square(tmp_path: Path) -> None:
    images = torch.zeros(1000, 3, 4, 96, dtype=torch.uint8)
    Drawn(images, torch.arange(1000)).write_grid(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (96, 100 * 6 - 2)


def test_images_of_some_classes_are_drawn_alone() -> None:
    model = network("stem_add", (1, 4, 8))
    drawn = quality.draw(model, 2, seed=5, classes=[2, 0])
    assert drawn.labels.tolist() == [2, 2, 0, 0]
    assert drawn.images.shape == (4, 1, 4, 8)


def test_of_too_many_classes_fid_is_measured_of_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config(fid_extractor="classifier", fid_every=1)
    found = quality.evaluator(asked, data.load(asked.data))
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    drawn = Drawn(images, torch.arange(10).repeat_interleave(2))
    assert len(found.measure(drawn, seed=0).scores.per_class) == 10
    monkeypatch.setattr(quality, "MOST_MEASURED", 9)
    scores = found.measure(drawn, seed=0).scores
    assert scores.per_class == {}
    assert scores.fid.value is not None


def test_a_part_of_the_training_images_is_measured_alike() -> None:
    asked = config(fid_extractor="classifier", fid_every=1)
    part = asked.with_settings({"data.train_fraction": 0.1})
    evaluators = [quality.evaluator(each, data.load(each.data)) for each in (asked, part)]
    assert evaluators[0].extract.name == evaluators[1].extract.name
    assert evaluators[0].reference.name == evaluators[1].reference.name
    assert evaluators[0].reference.name.startswith("digits/validation-")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"fid_extractor": "inception-192", "fid_weights": "/nowhere.pth"}, "eval.fid_extractor=inception-192: "),
        ({"fid_extractor": "inception-192", "fid_weights": "/nowhere.pth"}, "not at /nowhere.pth"),
    ],
)
def test_what_cannot_be_measured_with_is_said_before_training(settings: dict[str, Any], says: str) -> None:
    asked = config(fid_every=1, **settings)
    with pytest.raises(ConfigError, match=says):
        quality.evaluator(asked, data.load(asked.data))


def test_too_few_images_to_extrapolate_are_refused_before_training() -> None:
    asked = config(fid_every=1, fid_extractor="classifier", fid_extrapolate=True, fid_images_per_class=12)
    with pytest.raises(ConfigError, match=r"120 images of 64 features are too few .* to 13 or more"):
        quality.evaluator(asked, data.load(asked.data))


def test_the_courses_reference_is_the_files_at_their_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    for split in data.SPLITS:
        (tmp_path / split).mkdir()
        rows = []
        for i in range(8):
            shade = Image.new("RGB", (64, 64), (20 * i, 100, 30))
            shade.save(tmp_path / split / f"{i}.png")
            rows.append(f"{split}/{i}.png,{-1 if split == 'test' else i % 4}\r\n")
        (tmp_path / f"{split}.csv").write_text("".join(rows))
    seen: list[tuple[int, ...]] = []

    def features(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return images.float().mean(dim=(2, 3))

    stub = Extractor("inception-192", 3, torch.device("cpu"), features)
    monkeypatch.setattr(quality, "extractor", lambda *_, **__: stub)
    asked = config(fid_every=1, fid_extractor="inception-192", fid_reference="test_files")
    asked = asked.with_settings({"data.name": "cpen455", "data.root": str(tmp_path)})
    evaluator = quality.evaluator(asked, data.load(asked.data))
    assert seen == [(8, 3, 64, 64), (8, 3, 32, 32)]  # the reference, and the training images for memorisation
    assert evaluator.reference.name.startswith("cpen455/test_files-")


def test_a_data_set_without_files_has_no_reference_of_files() -> None:
    asked = config(fid_every=1, fid_reference="test_files", fid_extractor="inception-192")
    with pytest.raises(data.DataError, match=r"data\.name=digits: has no image files"):
        data.files(asked.data, data.load(asked.data).test)
    with pytest.raises(ConfigError, match="choose test, or an Inception"):
        config(fid_reference="test_files", fid_extractor="classifier")
    with pytest.raises(ConfigError, match=r"which eval\.fid_extractor=classifier does not use"):
        config(fid_extractor="classifier", fid_weights="x.pth")
