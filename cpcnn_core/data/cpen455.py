"""`cpen455`: the course's folder of image files, with a CSV of names and labels for each split."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpcnn_core import cache, fetching
from cpcnn_core.data import fitting
from cpcnn_core.data.listing import Row, read
from cpcnn_core.data.split import HIDDEN, SPLITS, Dataset, Split
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig

_log = logging.getLogger(__name__)

_CLASSES = 4


def load(config: DataConfig) -> Dataset:
    """The folder `data.root`: train.csv, validation.csv and test.csv, and the images that they name."""
    root = fetching.folder(config.root or "")
    if not root.is_dir():
        raise DataError(
            f"data.root: {root} is no folder; expected the one that holds train.csv, validation.csv and test.csv"
        )
    rows = {split: read(root, split, _CLASSES) for split in SPLITS}
    everything = [row for split in SPLITS for row in rows[split]]
    _check_each_once(rows)
    labels = torch.tensor([row.label for row in everything])
    channels, size, _ = config.shape
    images, hashes = _images(root, everything, channels=channels, size=size, quantize=bool(config.quantize))
    _say_what_is_labelled_twice(rows, hashes)
    _say_what_splits_share(rows, hashes)
    all_of_them = Split(images, labels, tuple(row.name for row in everything))
    splits: dict[str, Split] = {}
    start = 0
    for split in SPLITS:
        splits[split] = all_of_them.take(range(start, start := start + len(rows[split])))
    return Dataset(
        "cpen455",
        **splits,
        class_names=tuple(str(label) for label in range(_CLASSES)),
        digest=cache.digest([hashes, labels, *(f"{split} {len(rows[split])}" for split in SPLITS)]),
    )


def _check_each_once(splits: Mapping[str, Sequence[Row]]) -> None:
    """Raise DataError where a split names a file twice, or two splits disagree about its label.

    Whatever the names are: `a.png`, `./a.png` and a link to it are one file.
    """
    seen: dict[tuple[int, int], Row] = {}
    for rows in splits.values():
        for row in rows:
            found = row.stat
            before = seen.setdefault((found.st_dev, found.st_ino), row)
            if before is row:
                continue
            name = "" if before.name == row.name else f" as {before.name}"
            if before.csv == row.csv:
                raise row.error(f"{row.name} is in row {before.number} already{name}; expected each image once")
            if row.label != before.label and HIDDEN not in {row.label, before.label}:
                raise row.error(
                    f"{row.name} has label {row.label}, and label {before.label} in row {before.number} of "
                    f"{before.csv}{name}; expected one label for one file"
                )


def _say_what_is_labelled_twice(splits: Mapping[str, Sequence[Row]], hashes: Tensor) -> None:
    """Log how many images of a split are there once more, under another label: one of the labels is wrong."""
    start = 0
    for split, rows in splits.items():
        own = [pixels.tobytes() for pixels in hashes[start : start + len(rows)].numpy()]
        start += len(rows)
        labelled = {(pixels, row.label) for pixels, row in zip(own, rows, strict=True) if row.label != HIDDEN}
        labels = Counter(pixels for pixels, _ in labelled)
        differing = sum(labels[pixels] > 1 and row.label != HIDDEN for pixels, row in zip(own, rows, strict=True))
        if differing:
            _log.warning(
                "%d of the %d images of %s have the pixels of another one of them and another label; at most one "
                "label of each is right",
                differing,
                len(rows),
                split,
            )


def _say_what_splits_share(splits: Mapping[str, Sequence[Row]], hashes: Tensor) -> None:
    """Log how many images stand in two splits: accuracy on images that were trained on says little."""
    labels: dict[str, dict[bytes, int]] = {}
    start = 0
    for split, rows in splits.items():
        own = hashes[start : start + len(rows)].numpy()
        labels[split] = {pixels.tobytes(): row.label for pixels, row in zip(own, rows, strict=True)}
        start += len(rows)
    for one, other in itertools.combinations(splits, 2):
        shared = labels[one].keys() & labels[other].keys()
        differing = sum(
            HIDDEN not in (pair := {labels[one][held], labels[other][held]}) and len(pair) > 1 for held in shared
        )
        if shared:
            said = f", {differing} of them with another label" if differing else ""
            _log.warning(
                "%d of the %d images of %s are in %s too%s; what is measured on them says little of new images",
                len(shared),
                len(labels[other]),
                other,
                one,
                said,
            )


def _images(root: Path, rows: Sequence[Row], *, channels: int, size: int, quantize: bool) -> tuple[Tensor, Tensor]:
    """The images of the rows (N, C, H, W) at the wanted size, and the SHA-256 of each source image (N, 32) uint8.

    Decoded once: as long as every file has the size and time of change that it had, what was kept serves. Images that
    need no resizing lie on the 8-bit grid as they are, so that there `quantize` changes nothing.
    """

    def decode() -> dict[str, Tensor]:
        fitted, hashes, resized = [], [], False
        for row in rows:  # one file after another: sources may be much larger than what they are fitted to
            rgb = row.decode(row.read())
            hashes.append(_hash(rgb))
            resized |= rgb.shape[:2] != (size, size)
            fitted.append(fitting.fit(fitting.as_floats(rgb, channels)[None], channels=channels, size=size))
        images = torch.cat(fitted)
        return {
            "images": fitting.on_grid(images) if quantize or not resized else images * 2 - 1,
            "hashes": torch.stack(hashes),
        }

    parameters = f"format {fitting.FORMAT}, {channels} channels, size {size}, quantize {quantize}"
    found = cache.tensors(
        "cpen455", cache.digest([parameters, str(root.resolve()), *(row.stamp() for row in rows)]), decode
    )
    return found["images"], found["hashes"]


def _hash(rgb: NDArray[np.uint8]) -> Tensor:
    digest = hashlib.sha256(f"{rgb.shape}".encode() + rgb.tobytes()).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)
