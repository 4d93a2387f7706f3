"""Data sets as whole splits in memory: the one place that knows about files and labels."""

from __future__ import annotations

import csv
import hashlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cpcnn_core import cache, fetching, image_files
from cpcnn_core.errors import DataError as DataError
from cpcnn_core.files import irregular

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig

_log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
HIDDEN = -1  # the label of an image whose class is not told

_DIGITS_HELD_OUT_PER_CLASS = 30  # in the validation and in the test split
_CPEN455_CLASSES = 4
_SPLIT_SEED = 455  # a data set is the same one in every trial, whatever the trial's own seed
_CACHE_FORMAT = 3  # raise where decoding or resizing changes
_LABEL = re.compile(r"-?[0-9]+")  # int() takes the digits of every script, and underscores between them
_SHOWN = 40  # characters of a cell that an error repeats
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels and names, in the order of the source."""

    images: Tensor  # (N, C, H, W) uint8, or float32 in [-1, 1] where data.quantize is off
    labels: Tensor  # (N,) int64, HIDDEN where not known
    names: tuple[str, ...]  # "validation/0000009.jpg", "digits/0012"

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.labels) == len(self.names):
            raise DataError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.names)} names: "
                "a split has as many of each"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labelled(self) -> bool:
        """Whether every image's class is known."""
        return bool((self.labels >= 0).all())

    def take(self, indices: Sequence[int]) -> Split:
        """The images at `indices`, in that order."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        return Split(self.images[chosen], self.labels[chosen], tuple(self.names[i] for i in indices))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set. All labels of `train` and `validation` are known; those of `test` may be hidden.

    `digest`, 32 hex digits, stands for the content: the decoded source images and the labels of every split, in order,
    before resizing, rounding or taking a fraction, which are settings. Data made in memory has none.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    digest: str | None = None

    @property
    def nr_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def check_digest(self, expected: str | None) -> None:
        """Raise DataError where this is not the data that is expected."""
        if expected is not None and expected != self.digest:
            raise DataError(
                f"data.digest: the data is another than the one asked for: its images or labels have the digest "
                f"{self.digest}, expected {expected}; give the folder of that data with --set data.root=PATH"
            )


def load(config: DataConfig) -> Dataset:
    """Read, resize and split the data set that `config` names.

    Raise DataError where something is wrong with it, or where it is not the data that `config.digest` stands for.
    """
    dataset = _LOADERS[config.name](config)
    dataset.check_digest(config.digest)
    if config.train_fraction == 1.0:
        return dataset
    kept = [
        index
        for of_class in _shuffled_by_class(dataset.train.labels)
        for index in of_class[: max(1, round(config.train_fraction * len(of_class)))]
    ]
    return replace(dataset, train=dataset.train.take(sorted(kept)))


def to_model(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]; floats are there already."""
    return images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images


def to_uint8(images: Tensor) -> Tensor:
    """The nearest of the 256 levels: the inverse of `to_model`."""
    if images.dtype == torch.uint8:
        return images
    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _digits(config: DataConfig) -> Dataset:
    """The 1797 handwritten digits of 8x8 pixels and 17 levels that ship inside scikit-learn, split by class."""
    # The import takes seconds, so that a cached copy pays even for so little data.
    raw = cache.tensors("digits", cache.digest([version("scikit-learn"), str(_CACHE_FORMAT)]), _digits_of_sklearn)
    levels, labels = raw["levels"], raw["labels"]
    fitted = _fit(levels.float()[:, None] / 16, channels=config.channels or 1, size=config.image_size or 8)
    images = _on_grid(fitted) if config.quantize else fitted * 2 - 1
    held_out = _DIGITS_HELD_OUT_PER_CLASS
    parts: dict[str, list[int]] = {name: [] for name in SPLITS}
    for of_class in _shuffled_by_class(labels):
        parts["validation"] += of_class[:held_out]
        parts["test"] += of_class[held_out : 2 * held_out]
        parts["train"] += of_class[2 * held_out :]
    everything = Split(images, labels, tuple(f"digits/{index:04d}" for index in range(len(labels))))
    return Dataset(
        "digits",
        **{name: everything.take(sorted(indices)) for name, indices in parts.items()},
        class_names=tuple(str(digit) for digit in range(10)),
        digest=cache.digest([levels, labels]),
    )


def _digits_of_sklearn() -> dict[str, Tensor]:
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    return {
        "levels": torch.from_numpy(levels).reshape(-1, 8, 8).to(torch.uint8),
        "labels": torch.from_numpy(labels).to(torch.int64),
    }


def _cpen455(config: DataConfig) -> Dataset:
    """The folder `data.root`: train.csv, validation.csv and test.csv, and the images that they name."""
    root = fetching.folder(config.root or "")
    if not root.is_dir():
        raise DataError(
            f"data.root: {root} is no folder; expected the one that holds train.csv, validation.csv and test.csv"
        )
    rows = {split: _read_csv(root, split) for split in SPLITS}
    everything = [row for split in SPLITS for row in rows[split]]
    _check_each_once(rows)
    labels = torch.tensor([row.label for row in everything])
    images, hashes = _images(
        root, everything, channels=config.channels or 3, size=config.image_size or 32, quantize=bool(config.quantize)
    )
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
        class_names=tuple(str(label) for label in range(_CPEN455_CLASSES)),
        digest=cache.digest([hashes, labels, *(f"{split} {len(rows[split])}" for split in SPLITS)]),
    )


def _check_each_once(splits: Mapping[str, Sequence[_Row]]) -> None:
    """Raise DataError where a split names a file twice, or two splits disagree about its label.

    Whatever the names are: `a.png`, `./a.png` and a link to it are one file.
    """
    seen: dict[tuple[int, int], _Row] = {}
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


def _say_what_is_labelled_twice(splits: Mapping[str, Sequence[_Row]], hashes: Tensor) -> None:
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


def _say_what_splits_share(splits: Mapping[str, Sequence[_Row]], hashes: Tensor) -> None:
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


def _images(root: Path, rows: Sequence[_Row], *, channels: int, size: int, quantize: bool) -> tuple[Tensor, Tensor]:
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
            fitted.append(_fit(_as_floats(rgb, channels)[None], channels=channels, size=size))
        images = torch.cat(fitted)
        return {
            "images": _on_grid(images) if quantize or not resized else images * 2 - 1,
            "hashes": torch.stack(hashes),
        }

    parameters = f"format {_CACHE_FORMAT}, {channels} channels, size {size}, quantize {quantize}"
    found = cache.tensors(
        "cpen455", cache.digest([parameters, str(root.resolve()), *(row.stamp() for row in rows)]), decode
    )
    return found["images"], found["hashes"]


def _hash(rgb: NDArray[np.uint8]) -> Tensor:
    digest = hashlib.sha256(f"{rgb.shape}".encode() + rgb.tobytes()).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def files(config: DataConfig, split: Split) -> list[Path]:
    """The image files of a split, at their own size. Raise DataError for a data set that has none."""
    if config.name != "cpen455" or config.root is None:
        raise DataError(f"data.name={config.name}: has no image files; choose eval.fid_reference=test")
    root = fetching.folder(config.root)
    return [root / name for name in split.names]


def read_image(path: Path, image_shape: tuple[int, int, int]) -> Tensor:
    """The image in a file as a model of images (C, H, W) sees it: resized, uint8. Raise DataError."""
    channels, size, _ = image_shape
    try:
        what = irregular(path.stat().st_mode)
        pixels = None if what is not None else _as_floats(image_files.decode(path.read_bytes()), channels)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if pixels is None:
        raise DataError(f"{path}: is {what}; expected an image file")
    return _on_grid(_fit(pixels[None], channels=channels, size=size))[0]


_LOADERS: dict[str, Callable[[DataConfig], Dataset]] = {"digits": _digits, "cpen455": _cpen455}


@dataclass(frozen=True)
class _Row:
    """One line of a split's CSV: an image file and its label."""

    csv: Path
    number: int  # 1-based line
    name: str
    path: Path
    label: int

    def stamp(self) -> str:
        """What changes when the file does: its name, its size, and two times, of which one cannot be set back."""
        found = self.stat
        return f"{self.name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"

    @cached_property
    def stat(self) -> os.stat_result:
        with self._naming_what_is_wrong():
            found = self.path.stat()
        if (what := irregular(found.st_mode)) is not None:
            raise self.error(f"{self.name} is {what}; expected an image file at {self.path}")
        return found

    def read(self) -> bytes:
        with self._naming_what_is_wrong():
            return self.path.read_bytes()

    def decode(self, file: bytes) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        try:
            return image_files.decode(file)
        except DataError as error:
            raise self.error(f"{self.name} {error}") from None

    @contextmanager
    def _naming_what_is_wrong(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise self.error(f"{self.name} does not exist; expected an image file at {self.path}") from None
        except OSError as error:
            raise self.error(f"{self.name} cannot be read: {error}") from None

    def error(self, problem: str) -> DataError:
        return _row_error(self.csv, self.number, problem)


def _as_floats(rgb: NDArray[np.uint8], channels: int) -> Tensor:
    """(H, W, 3) as (C, H, W) in [0, 1]; one channel is the luma of ITU-R 601, of a grey image its own."""
    pixels = rgb if channels == 3 else np.array(Image.fromarray(rgb).convert("L"))
    return torch.from_numpy(pixels).reshape(*pixels.shape[:2], channels).permute(2, 0, 1).float() / 255


def _row_error(path: Path, number: int, problem: str) -> DataError:
    return DataError(f"{path}, row {number}: {problem}")


def _read_csv(root: Path, split: str) -> list[_Row]:
    path = root / f"{split}.csv"
    expected = f"expected rows like {split}/0000001.jpg,0 without a header"
    inside = _Inside(root)
    rows: list[_Row] = []
    for number, cells in _lines(path, expected):
        if len(cells) != 2:
            raise _row_error(path, number, f"{len(cells)} columns instead of 2; {expected}")
        name, label = cells
        label_of_row = _label(label, path, number, split, expected)
        shown = _shown(name)
        if not name.isprintable():
            raise _row_error(path, number, f"{shown} has characters that cannot be printed; rename the file")
        if any(part.startswith(_FORMULA_BEGINS) for part in PurePosixPath(name).parts):
            raise _row_error(
                path, number, f"{shown} is a formula to a spreadsheet that opens our CSVs; rename the file"
            )
        if (file := inside.find(name)) is None:
            raise _row_error(path, number, f"{shown} leads out of the data folder; expected a path inside {root}")
        rows.append(_Row(path, number, name, file, label_of_row))
    if not rows:
        raise DataError(f"{path} is empty; {expected}")
    return rows


def _lines(path: Path, expected: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV and their numbers, blank lines apart. A byte order mark and CRLF are fine."""
    try:
        if (what := irregular(path.stat().st_mode)) is not None:
            raise DataError(f"{path} is {what}, which is not read as a CSV; {expected}")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                if cells:
                    yield reader.line_num, [cell.strip() for cell in cells]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {expected}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV ({error}); {expected}") from None


def _label(text: str, path: Path, number: int, split: str, expected: str) -> int:
    allowed = f"0 to {_CPEN455_CLASSES - 1}" + (f", or {HIDDEN} where it is hidden" if split == "test" else "")
    if not _LABEL.fullmatch(text):
        raise _row_error(path, number, f"label {_shown(text)} is no integer; {expected}, labels {allowed}")
    label = int(text) if len(text) <= _SHOWN else _CPEN455_CLASSES
    if label == HIDDEN and split == "train":
        raise _row_error(path, number, f"unlabelled split used for training (label {HIDDEN}); expected {allowed}")
    if label == HIDDEN and split == "validation":
        raise _row_error(path, number, f"unlabelled split used for validation (label {HIDDEN}); expected {allowed}")
    if not (0 <= label < _CPEN455_CLASSES or label == HIDDEN):
        raise _row_error(
            path, number, f"label {text if len(text) <= _SHOWN else _shown(text)} is out of range; expected {allowed}"
        )
    return label


def _shown(cell: str) -> str:
    """A cell as an error repeats it: quoted, and of a long one the beginning."""
    return repr(cell) if len(cell) <= _SHOWN else f"{cell[:_SHOWN]!r}... ({len(cell)} characters)"


class _Inside:
    """Finds files by name within one folder, and refuses every way out of it: absolute names, `..`, symbolic links."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.resolved = root.resolve()
        self.parents: dict[str, bool] = {}  # thousands of names share a few folders

    def find(self, name: str) -> Path | None:
        pure = PurePosixPath(name)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts:
            return None
        path = self.root / name
        parent = os.fspath(path.parent)
        try:
            if parent not in self.parents:
                self.parents[parent] = path.parent.resolve().is_relative_to(self.resolved)
            if not self.parents[parent] or (path.is_symlink() and not path.resolve().is_relative_to(self.resolved)):
                return None
        except (OSError, RuntimeError):
            pass  # a name that is too long, a link to itself: whoever reads the file is told
        return path


def _fit(images: Tensor, *, channels: int, size: int) -> Tensor:
    """(N, C, H, W) in [0, 1] at the wanted size, unrounded.

    Antialiased bilinear on floats is what torchvision's `Resize` does to the tensors of the starter code.
    """
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.expand(-1, channels, -1, -1).contiguous()


def _on_grid(images: Tensor) -> Tensor:
    """Values in [0, 1] as the nearest of the 256 levels."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _shuffled_by_class(labels: Tensor) -> list[list[int]]:
    """Each class's indices, in an order that only the labels decide, so that smaller subsets lie within larger ones."""
    generator = np.random.RandomState(_SPLIT_SEED)  # unlike a Generator's, its stream is frozen for ever
    array = labels.numpy()
    return [generator.permutation(np.flatnonzero(array == label)).tolist() for label in np.unique(array)]
