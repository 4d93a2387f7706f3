"""Data sets as whole splits: the one place that knows about files and labels.

`cpcnn_core/sources.py` has the table of them.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from cpcnn_core import fetching, image_files
from cpcnn_core.data import fitting
from cpcnn_core.data.split import HIDDEN as HIDDEN
from cpcnn_core.data.split import SPLITS as SPLITS
from cpcnn_core.data.split import Dataset as Dataset
from cpcnn_core.data.split import Split as Split
from cpcnn_core.data.split import shuffled_by_class
from cpcnn_core.data.split import to_model as to_model
from cpcnn_core.data.split import to_uint8 as to_uint8
from cpcnn_core.errors import DataError as DataError
from cpcnn_core.files import irregular
from cpcnn_core.sources import SOURCES

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig


class Loader(Protocol):
    """The module of a data set."""

    def load(self, config: DataConfig) -> Dataset:
        """Read, resize and split the data. Raise DataError where something is wrong with it."""
        ...


def load(config: DataConfig) -> Dataset:
    """Read, resize and split the data set that `config` names.

    Raise DataError where something is wrong with it, or where it is not the data that `config.digest` stands for.
    """
    dataset = _loader(config.name).load(config)
    dataset.check_digest(config.digest)
    if config.train_fraction == 1.0:
        return dataset
    kept = [
        index
        for of_class in shuffled_by_class(dataset.train.labels)
        for index in of_class[: max(1, round(config.train_fraction * len(of_class)))]
    ]
    return replace(dataset, train=dataset.train.take(sorted(kept)))


def files(config: DataConfig, split: Split) -> list[Path]:
    """The image files of a split, at their own size. Raise DataError for a data set that has none."""
    source = SOURCES[config.name]
    if not source.has_files or config.root is None:
        raise DataError(f"data.name={config.name}: has no image files; choose eval.fid_reference=test")
    folder = fetching.folder(config.root)
    return [folder / name for name in split.names]


def read_image(path: Path, image_shape: tuple[int, int, int]) -> Tensor:
    """The image in a file as a model of images (C, H, W) sees it: resized, uint8. Raise DataError."""
    channels, height, width = image_shape
    try:
        what = irregular(path.stat().st_mode)
        pixels = None if what is not None else fitting.as_floats(image_files.decode(path.read_bytes()), channels)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if pixels is None:
        raise DataError(f"{path}: is {what}; expected an image file")
    return fitting.on_grid(fitting.fit(pixels[None], channels=channels, size=(height, width)))[0]


def _loader(name: str) -> Loader:
    module: Any = importlib.import_module(SOURCES[name].module)  # a module is a Loader by having `load`
    loader: Loader = module
    return loader
