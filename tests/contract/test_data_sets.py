"""What every data set of the table keeps: three splits, labels that are known, pixels as asked for, one digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from cpcnn_core import data
from cpcnn_core.config import ConfigError, DataConfig, TrialConfig
from cpcnn_core.sources import OPTIONAL, SOURCES
from tests.support import published


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))


def config(name: str, found: dict[str, Any], **settings: Any) -> DataConfig:
    return DataConfig(name=name, **found, **settings)


def write_images(folder: Path, names: Iterable[str]) -> None:
    """An image of 40x40 pixels of noise under each name."""
    pixels = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)


def cpen455(folder: Path) -> dict[str, Any]:
    for split, labels in (("train", (0, 1, 2, 3)), ("validation", (3, 2)), ("test", (-1, -1))):
        names = [f"{split}/{index:07d}.png" for index in range(len(labels))]
        write_images(folder, names)
        rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(rows))
    return {"root": str(folder)}


def csv(folder: Path) -> dict[str, Any]:
    names = [f"images/{index}.png" for index in range(12)]
    write_images(folder, names)
    rows = [f"{name},{('cat', 'dog', 'eel')[index % 3]},x" for index, name in enumerate(names)]
    (folder / "images.csv").write_text("\n".join(["file,animal,more", *rows]))
    return {"root": str(folder), "image_column": "file", "label_column": "animal"}


def folder(folder: Path) -> dict[str, Any]:
    write_images(folder, (f"train/{name}/{index}.png" for name in ("cat", "dog") for index in range(4)))
    write_images(folder, (f"test/{index}.png" for index in range(2)))
    return {"root": str(folder), "split_seed": 3}


def npz(folder: Path) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=pixels, labels=np.arange(12) % 3, class_names=np.array(["cat", "dog", "eel"]))
    return {"root": str(folder / "data.npz")}


def torchvision(folder: Path) -> dict[str, Any]:
    splits = {"train": published.arrays(0, 10, 28, 28, of_each=3), "test": published.arrays(1, 10, 28, 28)}
    published.mnist(folder, "FashionMNIST", splits)
    return {"root": str(folder), "dataset": "FashionMNIST"}


def hf(folder: Path) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    write_images(folder, (f"{index}.png" for index in range(12)))
    features = datasets.Features({"image": datasets.Image(), "animal": datasets.ClassLabel(names=["cat", "dog"])})
    content = {"image": [str(folder / f"{index}.png") for index in range(12)], "animal": [0, 1] * 6}
    datasets.Dataset.from_dict(content, features=features).save_to_disk(str(folder / "saved"))
    return {"root": str(folder / "saved")}


MADE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "cpen455": cpen455,
    "csv": csv,
    "folder": folder,
    "npz": npz,
    "torchvision": torchvision,
    "hf": hf,
}
"""What makes the least that a data set can be, in a folder, and returns the settings that find it there.

A source that needs neither files nor settings has no entry. Splits that a source does not have may be left out, but for
one image each of two classes in the training split.
"""


@pytest.fixture
def found(tmp_path: Path, name: str) -> dict[str, Any]:
    """The settings that find the data set of this name."""
    where = tmp_path / "data"
    where.mkdir()
    return MADE[name](where) if name in MADE else {}


@pytest.mark.parametrize("name", SOURCES)
class TestDataSet:
    def test_three_splits_with_known_labels_and_distinct_names(self, name: str, found: dict[str, Any]) -> None:
        dataset = data.load(config(name, found))
        assert dataset.name == name
        splits = (dataset.train, dataset.validation, dataset.test)
        names = [image for split in splits for image in split.names]
        assert len(set(names)) == len(names)
        assert len(dataset.train) > 0 < len(dataset.validation)
        for split in splits:
            assert split.images.shape[1:] == dataset.image_shape
            assert split.labels.dtype == torch.int64
            assert set(split.labels.tolist()) <= {data.HIDDEN, *range(dataset.nr_classes)}
        assert dataset.train.labelled
        assert dataset.validation.labelled
        assert set(dataset.train.labels.tolist()) == set(range(dataset.nr_classes))
        assert len(set(dataset.class_names)) == dataset.nr_classes > 1

    @pytest.mark.parametrize("settings", [{}, {"image_size": 12, "channels": 1}, {"image_size": 8, "channels": 3}])
    @pytest.mark.parametrize("quantize", [None, True, False])
    def test_pixels_are_as_the_configuration_says(
        self, name: str, found: dict[str, Any], settings: dict[str, Any], quantize: bool | None
    ) -> None:
        asked = config(name, found, quantize=quantize, **settings)
        assert asked.quantize == (SOURCES[name].quantize if quantize is None else quantize)
        dataset = data.load(asked)
        channels, *sides = dataset.image_shape
        assert asked.nr_channels in {None, channels}
        assert asked.size is None or sides == [asked.size, asked.size]
        images = dataset.train.images
        assert images.dtype == torch.uint8 or (images.dtype == torch.float32 and not asked.quantize)
        seen = data.to_model(images)
        assert -1 <= seen.min() < seen.max() <= 1

    def test_a_digest_stands_for_the_content_and_nothing_else(self, name: str, found: dict[str, Any]) -> None:
        one, other = data.load(config(name, found)), data.load(config(name, found, image_size=12, train_fraction=0.5))
        assert one.digest == other.digest is not None
        assert data.load(config(name, found, digest=one.digest)).digest == one.digest
        with pytest.raises(data.DataError, match=r"data\.digest"):
            data.load(config(name, found, digest="0" * 32))

    def test_settings_that_it_does_not_read_are_refused(self, name: str, found: dict[str, Any]) -> None:
        read = SOURCES[name].reads | ({"root"} if SOURCES[name].root else set())
        assert read <= OPTIONAL
        for setting in OPTIONAL - read:
            value = {"validation_share": 0.2, "test_share": 0.2, "split_seed": 1}.get(setting, "x")
            with pytest.raises(
                ValidationError, match=rf"data\.{setting}: {value!r} has no meaning for {name}.*drop it"
            ):
                config(name, {**found, setting: value})

    def test_another_seed_cuts_other_splits_of_the_same_images(self, name: str, found: dict[str, Any]) -> None:
        if "split_seed" not in SOURCES[name].reads:
            return
        splits = []
        for seed in range(1, 9):  # of a few images two seeds may cut the same
            dataset = data.load(config(name, {**found, "split_seed": seed}))
            splits.append({split: frozenset(getattr(dataset, split).names) for split in data.SPLITS})
        assert len({split["validation"] for split in splits}) > 1
        assert len({frozenset.union(*split.values()) for split in splits}) == 1

    def test_twice_the_same(self, name: str, found: dict[str, Any]) -> None:
        one, other = data.load(config(name, found)), data.load(config(name, found))
        for split in data.SPLITS:
            assert torch.equal(getattr(one, split).images, getattr(other, split).images)
            assert torch.equal(getattr(one, split).labels, getattr(other, split).labels)
            assert getattr(one, split).names == getattr(other, split).names

    def test_a_fraction_of_the_training_split_lies_within_a_larger_one(self, name: str, found: dict[str, Any]) -> None:
        small, large = (data.load(config(name, found, train_fraction=part)) for part in (0.4, 0.8))
        assert set(small.train.names) <= set(large.train.names)
        assert set(small.train.labels.tolist()) == set(large.train.labels.tolist())
        assert small.validation.names == large.validation.names

    def test_whoever_grades_it_is_described_in_settings_that_there_are(self, name: str, found: dict[str, Any]) -> None:
        place = {f"data.{setting}": value for setting, value in found.items()}
        graded = TrialConfig.from_flat({"data.name": name, **place, **SOURCES[name].graded_with})
        assert all(graded.flat()[setting] == value for setting, value in SOURCES[name].graded_with.items())


def test_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.name: 'digit' is no data set; did you mean digits\?"):
        TrialConfig.from_flat({"data.name": "digit"})
