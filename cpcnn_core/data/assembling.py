"""A data set from what a source hands over: classes, splits, size and channels are decided alike for all sources."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcnn_core import cache
from cpcnn_core.data import cutting, fitting, overlaps
from cpcnn_core.data.classes import Classes
from cpcnn_core.data.decoding import decoded
from cpcnn_core.data.split import SPLITS, Dataset, Split
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig
    from cpcnn_core.data.pool import Pool

_SIDES = 4  # the network halves both sides twice
_LOOKED_AT = 16  # images that are decoded to see whether there is colour, before all of them are

_log = logging.getLogger(__name__)


def assemble(config: DataConfig, pools: Mapping[str, Pool], class_names: Sequence[str] | None = None) -> Dataset:
    """The data set that `config` asks for, of the pools "train" and perhaps "validation" and "test", or of "all".

    Args:
        config: what is asked for; what it leaves open, the images and labels decide.
        pools: the splits that the source has, which stay as they are; what is missing is cut from the others.
        class_names: of the labels 0, 1, ..., where the source has names for them; else the classes are the labels.

    Raises:
        DataError: what cannot be used, with the file and row, or the setting, and the way out.
    """
    if not any(len(pool) for pool in pools.values()):
        raise DataError(f"data.name={config.name}: there are no images")
    classes = Classes.of(pools, class_names)
    splits = cutting.cut(config, pools)
    classes.check(splits)
    images = _Arranged([chosen for split in SPLITS for chosen in splits.get(split, ())])
    pixels, hashes = _decoded(config, images)
    labels = torch.tensor([classes.index(pool, at) for pool, at in images.order])
    parts: dict[str, Split] = {}
    start = 0
    for split in SPLITS:
        stop = start + len(splits.get(split, ()))
        parts[split] = Split(pixels[start:stop], labels[start:stop], images.names[start:stop])
        start = stop
    sizes = {split: len(part) for split, part in parts.items()}
    overlaps.warn(sizes, hashes, labels)
    return Dataset(
        config.name,
        **parts,
        class_names=classes.names,
        digest=cache.digest(
            [hashes, labels, *(f"{split} {count}" for split, count in sizes.items()), *classes.identity()]
        ),
    )


def _decoded(config: DataConfig, images: _Arranged) -> tuple[Tensor, Tensor]:
    """The images (N, C, H, W) at the size and with the channels of the configuration, or at their own; their hashes."""
    size = (config.size, config.size) if config.size is not None else images.agree_on_size()
    as_they_are = partial(_fitted, config, images, size)
    if config.nr_channels is not None:
        return as_they_are(config.nr_channels)
    return as_they_are(images.channels(try_grey=lambda: as_they_are(1)))


def _fitted(config: DataConfig, images: _Arranged, size: tuple[int, int], channels: int) -> tuple[Tensor, Tensor]:
    quantize = bool(config.quantize)
    return decoded(
        images,
        kind=config.name,
        parameters=f"format {fitting.FORMAT}, {channels} channels, size {size}, quantize {quantize}",
        fit=partial(fitting.fit_source, channels=channels, size=size, quantize=quantize),
    )


class _ColouredError(DataError):
    """An image that is not grey, where all of them were to be."""


class _Arranged:
    """Images of several pools in one order. They are `Images` themselves, all (H, W, 3)."""

    def __init__(self, order: Sequence[tuple[Pool, int]]) -> None:
        self.order = order
        self.names = tuple(pool.names[at] for pool, at in order)
        self._size: tuple[int, int] | None = None  # which all must have
        self._grey = False  # whether all must be grey

    def __len__(self) -> int:
        return len(self.order)

    def stamps(self) -> Iterable[str]:
        return (self._stamp,)

    @cached_property
    def _stamp(self) -> str:
        return cache.digest(self._stamps())  # asked for several times, and there may be thousands

    def _stamps(self) -> Iterable[str]:
        pools = {id(pool): pool for pool, _ in self.order}
        number = {key: index for index, key in enumerate(pools)}
        for pool in pools.values():
            yield from pool.images.stamps()
        yield " ".join(f"{number[id(pool)]}:{at}" for pool, at in self.order)

    def decode(self, index: int) -> NDArray[np.uint8]:
        pool, at = self.order[index]
        pixels = pool.images.decode(at)
        rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        if self._size is not None and rgb.shape[:2] != self._size:
            raise DataError(
                f"{pool.place(at)}: {self.names[index]} has {_across(rgb.shape[:2])} pixels, and {self.names[0]} has "
                f"{_across(self._size)}; give data.image_size, to which all are resized, as --set data.image_size="
                f"{_multiple(max(self._size))}"
            )
        if self._grey and not fitting.is_grey(rgb):
            raise _ColouredError
        return rgb

    def agree_on_size(self) -> tuple[int, int]:
        """The size of the first image, which the others must have from now on. Raise DataError where it is none."""

        def look() -> dict[str, Tensor]:
            return {"size": torch.tensor(self.decode(0).shape[:2])}

        height, width = cache.tensors("size", self._stamp, look)["size"].tolist()
        if height % _SIDES or width % _SIDES:
            raise DataError(
                f"{self.names[0]} has {_across((height, width))} pixels, and the network needs sides that are "
                f"multiples of {_SIDES}; give data.image_size, to which all images are resized, as "
                f"--set data.image_size={_multiple(max(height, width))}"
            )
        self._size = (height, width)
        return self._size

    def channels(self, try_grey: Callable[[], object]) -> int:
        """1 where all images are grey, else 3; found once per machine."""

        def look() -> dict[str, Tensor]:
            some = range(0, len(self), max(1, len(self) // _LOOKED_AT))
            coloured = not all(fitting.is_grey(self.decode(index)) for index in some)
            if not coloured:
                self._grey = True
                try:
                    try_grey()  # decodes all, and keeps them: mostly they are what is asked for next
                except _ColouredError:
                    coloured = True
                finally:
                    self._grey = False
            return {"channels": torch.tensor(3 if coloured else 1)}

        key = cache.digest([str(fitting.FORMAT), self._stamp])
        return int(cache.tensors("channels", key, look)["channels"])


def _across(size: Sequence[int]) -> str:
    """Width first, as image programs say it."""
    height, width = size
    return f"{width}x{height}"


def _multiple(side: int) -> int:
    return max(_SIDES, round(side / _SIDES) * _SIDES)
