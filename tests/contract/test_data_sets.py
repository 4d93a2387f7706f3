"""What every data set of the table keeps: three splits, labels that are known, pixels as asked for, one digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cpcnn_core import data
from cpcnn_core.config import ConfigError, DataConfig, TrialConfig
from cpcnn_core.sources import SOURCES


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder in the form of cpen455: the least that a data set made of files can be."""
    folder = tmp_path / "data"
    pixels = np.random.default_rng(0)
    for split, labels in (("train", (0, 1, 2, 3)), ("validation", (3, 2)), ("test", (-1, -1))):
        (folder / split).mkdir(parents=True)
        names = [f"{split}/{index:07d}.png" for index in range(len(labels))]
        for name in names:
            Image.fromarray(pixels.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)
        rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(rows))
    return folder


def config(name: str, root: Path, **settings: Any) -> DataConfig:
    place = {} if SOURCES[name].root is None else {"root": str(root)}
    return DataConfig(name=name, **place, **settings)


@pytest.mark.parametrize("name", SOURCES)
class TestDataSet:
    def test_three_splits_with_known_labels_and_distinct_names(self, name: str, root: Path) -> None:
        dataset = data.load(config(name, root))
        assert dataset.name == name
        splits = (dataset.train, dataset.validation, dataset.test)
        names = [image for split in splits for image in split.names]
        assert len(set(names)) == len(names)
        for split in splits:
            assert len(split) > 0
            assert split.labels.dtype == torch.int64
            assert set(split.labels.tolist()) <= {data.HIDDEN, *range(dataset.nr_classes)}
        assert dataset.train.labelled
        assert dataset.validation.labelled

    @pytest.mark.parametrize("settings", [{}, {"image_size": 12, "channels": 1}, {"image_size": 8, "channels": 3}])
    @pytest.mark.parametrize("quantize", [None, True, False])
    def test_pixels_are_as_the_configuration_says(
        self, name: str, root: Path, settings: dict[str, Any], quantize: bool | None
    ) -> None:
        asked = config(name, root, quantize=quantize, **settings)
        assert asked.quantize == (SOURCES[name].quantize if quantize is None else quantize)
        dataset = data.load(asked)
        channels, *sides = dataset.image_shape
        assert asked.nr_channels in {None, channels}
        assert asked.size is None or sides == [asked.size, asked.size]
        images = dataset.train.images
        assert images.dtype == torch.uint8 or (images.dtype == torch.float32 and not asked.quantize)
        seen = data.to_model(images)
        assert -1 <= seen.min() < seen.max() <= 1

    def test_a_digest_stands_for_the_content_and_nothing_else(self, name: str, root: Path) -> None:
        one, other = data.load(config(name, root)), data.load(config(name, root, image_size=12, train_fraction=0.5))
        assert one.digest == other.digest is not None
        assert data.load(config(name, root, digest=one.digest)).digest == one.digest
        with pytest.raises(data.DataError, match=r"data\.digest"):
            data.load(config(name, root, digest="0" * 32))

    def test_twice_the_same(self, name: str, root: Path) -> None:
        one, other = data.load(config(name, root)), data.load(config(name, root))
        for split in data.SPLITS:
            assert torch.equal(getattr(one, split).images, getattr(other, split).images)
            assert torch.equal(getattr(one, split).labels, getattr(other, split).labels)
            assert getattr(one, split).names == getattr(other, split).names

    def test_a_fraction_of_the_training_split_lies_within_a_larger_one(self, name: str, root: Path) -> None:
        small, large = (data.load(config(name, root, train_fraction=part)) for part in (0.4, 0.8))
        assert set(small.train.names) <= set(large.train.names)
        assert set(small.train.labels.tolist()) == set(large.train.labels.tolist())
        assert small.validation.names == large.validation.names

    def test_whoever_grades_it_is_described_in_settings_that_there_are(self, name: str, root: Path) -> None:
        place = {} if SOURCES[name].root is None else {"data.root": str(root)}
        graded = TrialConfig.from_flat({"data.name": name, **place, **SOURCES[name].graded_with})
        assert all(graded.flat()[setting] == value for setting, value in SOURCES[name].graded_with.items())


def test_another_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.name: 'digit' is no data set; did you mean digits\?"):
        TrialConfig.from_flat({"data.name": "digit"})
