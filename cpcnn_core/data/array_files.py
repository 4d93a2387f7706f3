"""The forms in which well-known data sets are published: IDX (MNIST), pickled batches (CIFAR), MATLAB's, raw bytes.

Each reads labels and pixels separately, since labels are wanted in every process and pixels once per machine. What is
damaged raises DataError, which names the file and the way out.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cpcnn_core.data.unpickling import unpickle
from cpcnn_core.errors import DataError

_UNSIGNED_BYTES = 0x08  # IDX's code of the only type that images and labels have
_CIFAR_SIDE = 32
_STL_SIDE = 96


class Form(Protocol):
    """How one data set lies in its files, all named relative to its folder."""

    def files(self, split: str) -> Sequence[str]:
        """What is read of a split. A file may also lie there as NAME.gz where the form allows it (`file`)."""
        ...

    def labels(self, root: Path, split: str) -> NDArray[np.int64]:
        """(N,), from 0."""
        ...

    def pixels(self, root: Path, split: str) -> NDArray[np.uint8]:
        """(N, H, W) where all images are grey, else (N, H, W, 3)."""
        ...

    def names(self, root: Path) -> Sequence[str]:
        """Of the classes, in the order of the labels."""
        ...


def file(root: Path, name: str) -> Path | None:
    """Where a file of this name lies, compressed or not; None where it does not."""
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def damaged(path: Path, problem: object) -> DataError:
    """What is raised for a file that is not whole."""
    return DataError(f"{path} is damaged or incomplete ({problem}); delete it, and it is downloaded again")


@dataclass(frozen=True)
class Idx:
    """MNIST's form: a header that says type and shape, then bytes. One file of images, one of labels."""

    folder: str
    stems: Mapping[str, str]  # of a split: what its two files begin with
    classes: Sequence[str]
    first: int = 0  # the label of the first class
    columns_first: bool = False  # whether each image is written column by column, as EMNIST is

    def files(self, split: str) -> Sequence[str]:
        return [f"{self.folder}/{self.stems[split]}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]

    def labels(self, root: Path, split: str) -> NDArray[np.int64]:
        return _idx(_found(root, self.files(split)[1]), dimensions=1).astype(np.int64) - self.first

    def pixels(self, root: Path, split: str) -> NDArray[np.uint8]:
        pixels = _idx(_found(root, self.files(split)[0]), dimensions=3)
        return pixels.transpose(0, 2, 1) if self.columns_first else pixels

    def names(self, root: Path) -> Sequence[str]:
        return self.classes


@dataclass(frozen=True)
class Batches:
    """CIFAR's form: dictionaries that Python has pickled, and another one with the names of the classes."""

    folder: str
    batches: Mapping[str, Sequence[str]]  # of a split
    label_key: str
    meta: str
    names_key: str

    def files(self, split: str) -> Sequence[str]:
        return [f"{self.folder}/{name}" for name in (*self.batches[split], self.meta)]

    def labels(self, root: Path, split: str) -> NDArray[np.int64]:
        return np.concatenate([self._read(root, name, self.label_key) for name in self.batches[split]]).astype(np.int64)

    def pixels(self, root: Path, split: str) -> NDArray[np.uint8]:
        batches = []
        for name in self.batches[split]:
            rows = self._read(root, name, "data")
            with _naming(root / self.folder / name):
                batches.append(rows.reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE))
        return np.concatenate(batches).transpose(0, 2, 3, 1)

    def names(self, root: Path) -> Sequence[str]:
        return [str(name) for name in self._read(root, self.meta, self.names_key)]

    def _read(self, root: Path, name: str, key: str) -> Any:
        path = root / self.folder / name
        with _naming(path), path.open("rb") as stream:
            content = unpickle(stream)
            if key not in content:
                raise ValueError(f"it has no {key!r}")
            return content[key]


@dataclass(frozen=True)
class Matlab:
    """SVHN's form: a file of MATLAB's per split, with `X` (H, W, 3, N) and `y` (N, 1), where 10 is the digit 0."""

    splits: Mapping[str, str]
    classes: Sequence[str]

    def files(self, split: str) -> Sequence[str]:
        return [self.splits[split]]

    def labels(self, root: Path, split: str) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self._read(root, split, "y").astype(np.int64).reshape(-1)
        return np.where(labels == len(self.classes), 0, labels)

    def pixels(self, root: Path, split: str) -> NDArray[np.uint8]:
        pixels = self._read(root, split, "X")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2] != 3:
            raise damaged(root / self.splits[split], f"X is {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3, N)")
        return np.asarray(pixels.transpose(3, 0, 1, 2))

    def names(self, root: Path) -> Sequence[str]:
        return self.classes

    def _read(self, root: Path, split: str, variable: str) -> Any:
        from scipy.io import loadmat

        path = root / self.splits[split]
        with _naming(path):
            return loadmat(path, variable_names=[variable])[variable]


@dataclass(frozen=True)
class RawBytes:
    """STL-10's form: bytes without a header, each image plane by plane and column by column; labels begin at 1."""

    folder: str
    class_names: str

    def files(self, split: str) -> Sequence[str]:
        return [f"{self.folder}/{name}" for name in (f"{split}_X.bin", f"{split}_y.bin", self.class_names)]

    def labels(self, root: Path, split: str) -> NDArray[np.int64]:
        return np.fromfile(root / self.files(split)[1], np.uint8).astype(np.int64) - 1

    def pixels(self, root: Path, split: str) -> NDArray[np.uint8]:
        path = root / self.files(split)[0]
        with _naming(path):
            content = np.memmap(path, np.uint8, mode="r")
            return content.reshape(-1, 3, _STL_SIDE, _STL_SIDE).transpose(0, 3, 2, 1)

    def names(self, root: Path) -> Sequence[str]:
        path = root / self.folder / self.class_names
        with _naming(path):
            return path.read_text(encoding="utf-8").split()


def _found(root: Path, name: str) -> Path:
    path = file(root, name)
    if path is None:
        raise DataError(f"{root / name} does not exist")
    return path


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file, compressed or not."""
    with _naming(path):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        start = 4 * (1 + dimensions)
        magic, *shape = struct.unpack(f">{1 + dimensions}I", content[:start])
        if magic != _UNSIGNED_BYTES << 8 | dimensions:
            raise ValueError(f"it does not begin as an IDX file of bytes with {dimensions} dimensions")
        if len(content) - start != math.prod(shape):
            raise ValueError(f"it has {len(content) - start} bytes of {math.prod(shape)}")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever a reader stumbles over, said of the file."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001 - gzip, zlib, pickle and MATLAB's reader raise whatever a broken file does
        raise damaged(path, " ".join(str(error).split()) or type(error).__name__) from None
