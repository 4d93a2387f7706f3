"""`npz`: arrays of images and labels in a file of NumPy, found by their names."""

from __future__ import annotations

import logging
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cpcnn_core import fetching
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.pool import Pool, as_numbers
from cpcnn_core.data.split import HIDDEN, Dataset
from cpcnn_core.errors import DataError
from cpcnn_core.files import irregular

if TYPE_CHECKING:
    from collections.abc import Generator

    from cpcnn_core.config import DataConfig

_log = logging.getLogger(__name__)

_IMAGES = ("images", "x", "X")
_LABELS = ("labels", "y", "Y")
_CLASS_NAMES = "class_names"
_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
_EXPECTED = (
    "expected images_train and labels_train, perhaps those of validation and test too, or images and labels, which are "
    "split here; other names are told by data.image_column and data.label_column"
)


def load(config: DataConfig) -> Dataset:
    """The file `data.root`, or the one in that folder. Nothing in it is unpickled."""
    archive = _Archive(_file(config.root or ""))
    images = _by_split(archive, _IMAGES if config.image_column is None else (config.image_column,))
    labels = _by_split(archive, _LABELS if config.label_column is None else (config.label_column,))
    _check_splits(archive, images, labels)
    others = archive.headers.keys() - {*images.values(), *labels.values(), _CLASS_NAMES}
    if others:
        _log.warning("%s: %s is not read", archive.path, ", ".join(sorted(others)))
    pools = {split: _pool(archive, split, name, labels.get(split)) for split, name in images.items()}
    if as_numbers({str(label) for pool in pools.values() for label in pool.labels if label is not None}):
        pools = {
            split: replace(pool, labels=tuple(None if label is None else int(label) for label in pool.labels))
            for split, pool in pools.items()
        }
    return assemble(config, pools, _class_names(archive))


def _file(root: str) -> Path:
    path = fetching.folder(root)
    if not path.is_dir():
        return path
    found = sorted(each for each in path.iterdir() if each.suffix == ".npz")
    if len(found) != 1:
        there = f"there are {', '.join(each.name for each in found)}" if found else "there is none"
        raise DataError(f"data.root: {path} is a folder; expected one .npz file in it, and {there}; name the file")
    return found[0]


class _Archive:
    """A zip of arrays, of which only headers are read until one is asked for. Raise DataError for a broken one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"data.root: {path} cannot be read ({error.strerror}); expected an .npz file") from None
        if (what := irregular(found.st_mode)) is not None or not zipfile.is_zipfile(path):
            raise DataError(
                f"data.root: {path} is {what or 'no .npz file'}; expected a zip of arrays as numpy.savez writes it"
            )
        self.stamp = f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        self.headers = self._headers()

    def read(self, name: str) -> NDArray[np.generic]:
        """The whole array."""
        with self._naming_what_is_wrong(name), np.load(self.path, allow_pickle=False) as arrays:
            array: NDArray[np.generic] = arrays[name]
            return array

    def _headers(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
        """Shape and type of each array."""
        found = {}
        with self._naming_what_is_wrong("it"), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                name = member.filename.removesuffix(".npy")
                with self._naming_what_is_wrong(name), archive.open(member) as stream:
                    read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = read(stream)
                    size = member.file_size - stream.tell()
                if not dtype.hasobject and size != dtype.itemsize * int(np.prod(shape, dtype=object)):
                    raise DataError(f"{self.path}: {name} is damaged: it has {size} bytes, which are not {shape}")
                found[name] = (shape, dtype)
        return found

    @contextmanager
    def _naming_what_is_wrong(self, name: str) -> Generator[None]:
        try:
            yield
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, DataError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.path}: {name} cannot be read ({reason}); write the file anew") from None


@dataclass(frozen=True, eq=False)
class _Array:
    """An array of images, as `Images`. It is in memory from the first one that is decoded on."""

    archive: _Archive
    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return self.archive.headers[self.name][0][0]

    def stamps(self) -> Iterable[str]:
        return (self.archive.stamp, self.name)

    def decode(self, index: int) -> NDArray[np.uint8]:
        with self.lock:
            pixels: NDArray[np.uint8] = self._pixels[index]
        return pixels[..., 0] if pixels.shape[2:] == (1,) else pixels

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        return self.archive.read(self.name).astype(np.uint8, copy=False)


def _by_split(archive: _Archive, names: Sequence[str]) -> Mapping[str, str]:
    """The array of each split that there is, or of `all`. Raise DataError where two would do."""
    wanted = {
        split: [f for n in names for w in words for f in (f"{n}_{w}", f"{w}_{n}")] for split, words in _SPLITS.items()
    }
    found = {}
    for split, called in {**wanted, "all": list(names)}.items():
        there = [name for name in called if name in archive.headers]
        if len(there) > 1:
            raise DataError(f"{archive.path}: has {' and '.join(there)}; expected one of them, for one split")
        if there:
            found[split] = there[0]
    if "all" in found and len(found) > 1:
        raise DataError(
            f"{archive.path}: has {', '.join(found.values())}; expected {found['all']} alone, which is split here, or "
            "the splits that you made"
        )
    return found


def _check_splits(archive: _Archive, images: Mapping[str, str], labels: Mapping[str, str]) -> None:
    if "train" not in images and "all" not in images:
        there = ", ".join(archive.headers) or "no array"
        raise DataError(f"{archive.path}: has {there}; {_EXPECTED}")
    for split, name in images.items():
        if split not in labels and split != "test":
            raise DataError(f"{archive.path}: has {name} and no labels for them; {_EXPECTED}")
    for split, name in labels.items():
        if split not in images:
            raise DataError(f"{archive.path}: has {name} and no images for them; {_EXPECTED}")


def _pool(archive: _Archive, split: str, name: str, name_of_labels: str | None) -> Pool:
    images = _Array(archive, name)
    _check_images(archive, name)
    count = len(images)
    labels: Sequence[str | int | None] = [None] * count
    if name_of_labels is not None:
        labels = _labels(archive, name_of_labels)
        if len(labels) != count:
            raise DataError(
                f"{archive.path}: {name} has {count} images, and {name_of_labels} {len(labels)} labels; expected as "
                "many of both"
            )
    of = "images" if split == "all" else split
    return Pool(
        images,
        tuple(labels),
        tuple(f"{of}/{index:06d}" for index in range(count)),
        [f"{archive.path}, {name_of_labels or name}[{index}]" for index in range(count)],
    )


def _check_images(archive: _Archive, name: str) -> None:
    """Raise DataError for what is no array of images with 8 bits per channel; what was meant is not guessed."""
    shape, dtype = archive.headers[name]
    way_out = None
    if dtype.kind == "f":
        way_out = f"where they lie in [0, 1], write them as numpy.rint({name} * 255).astype(numpy.uint8)"
    elif dtype == np.bool_:
        way_out = f"write black and white as {name}.astype(numpy.uint8) * 255"
    elif dtype != np.uint8:
        way_out = f"where they lie in 0 to 255, write them as {name}.astype(numpy.uint8)"
    elif len(shape) == 2:
        way_out = f"write rows of pixels as {name}.reshape(-1, HEIGHT, WIDTH)"
    elif len(shape) == 4 and shape[3] not in {1, 3} and shape[1] in {1, 3}:
        way_out = f"write channels last, as {name}.transpose(0, 2, 3, 1)"
    elif len(shape) == 4 and shape[3] == 4:
        way_out = f"put transparent pixels on a background, and write {name}[..., :3]"
    elif len(shape) != 3 and (len(shape) != 4 or shape[3] not in {1, 3}):
        way_out = "write an array of that shape"
    elif 0 in shape:
        way_out = "leave the array out, or write one with images"
    if way_out is not None:
        raise DataError(
            f"{archive.path}: {name} is of {dtype} and shape {shape}; expected uint8, (N, H, W) or (N, H, W, C) with 1 "
            f"or 3 channels: {way_out}"
        )


def _labels(archive: _Archive, name: str) -> Sequence[str | int | None]:
    """The classes as the array says them; those that are hidden are None."""
    shape, dtype = archive.headers[name]
    problem = None
    if len(shape) == 2 and shape[1] > 1:
        problem = f"write one class for each image, as {name}.argmax(axis=1)"
    elif len(shape) != 1 and (len(shape) != 2 or shape[1] != 1):
        problem = "write an array of that shape"
    elif dtype.hasobject:
        problem = f"objects are not unpickled; write text as {name}.astype(str)"
    elif dtype.kind not in "iuUS":
        problem = f"write {name}.astype(int)"
    if problem is not None:
        raise DataError(
            f"{archive.path}: {name} is of {dtype} and shape {shape}; expected integers or text, (N,) or (N, 1): "
            f"{problem}"
        )
    values = _texts(archive, name) if dtype.kind in "US" else archive.read(name).ravel().tolist()
    return [None if value in {HIDDEN, str(HIDDEN), ""} else value for value in values]


def _class_names(archive: _Archive) -> Sequence[str] | None:
    if _CLASS_NAMES not in archive.headers:
        return None
    shape, dtype = archive.headers[_CLASS_NAMES]
    if len(shape) != 1 or dtype.kind not in "US":
        raise DataError(
            f"{archive.path}: {_CLASS_NAMES} is of {dtype} and shape {shape}; expected text, (Y,), the name of class 0 "
            "first"
        )
    return _texts(archive, _CLASS_NAMES)


def _texts(archive: _Archive, name: str) -> Sequence[str]:
    values = archive.read(name).ravel().tolist()
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise DataError(f"{archive.path}: {name} is no UTF-8 ({error}); write it as text") from None
