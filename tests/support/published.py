"""Small files in the forms in which well-known data sets are published, written as their publishers wrote them."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images (N, H, W) or (N, H, W, 3), upright, and labels from 0."""


def arrays(seed: int, classes: int, *shape: int, of_each: int = 2) -> Arrays:
    """Noise, and every class in turn."""
    labels = np.arange(classes * of_each, dtype=np.uint8) % classes
    return np.random.default_rng(seed).integers(0, 256, (len(labels), *shape), dtype=np.uint8), labels


def idx(array: NDArray[np.uint8]) -> bytes:
    """MNIST's form."""
    return struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def mnist(root: Path, name: str, splits: Mapping[str, Arrays], suffix: str = ".gz") -> None:
    for split, (images, labels) in splits.items():
        stem = root / name / "raw" / {"train": "train", "test": "t10k"}[split]
        write(Path(f"{stem}-images-idx3-ubyte{suffix}"), idx(images))
        write(Path(f"{stem}-labels-idx1-ubyte{suffix}"), idx(labels))


def emnist(root: Path, name: str, splits: Mapping[str, Arrays]) -> None:
    """Column by column; the letters are numbered from 1."""
    for split, (images, labels) in splits.items():
        stem = root / "EMNIST" / "raw" / f"emnist-{name}-{split}"
        write(Path(f"{stem}-images-idx3-ubyte.gz"), idx(np.ascontiguousarray(images.transpose(0, 2, 1))))
        write(Path(f"{stem}-labels-idx1-ubyte.gz"), idx(labels + np.uint8(name == "letters")))


_Pickler: Any = pickle._Pickler  # the one in Python, whose methods can be replaced


class _Python2(_Pickler):
    """Pickles as the Python 2 did that made CIFAR: its texts are bytes, and NumPy's module has its old name."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=2)
        own = {bytes: _Python2._bytes, str: _Python2._text, type: _Python2._name, type(_EMPTY): _Python2._name}
        self.dispatch = _Pickler.dispatch | own

    def _bytes(self, content: bytes) -> None:
        short = len(content) < 256
        head = pickle.SHORT_BINSTRING + bytes([len(content)]) if short else pickle.BINSTRING + _length(content)
        self.write(head + content)
        self.memoize(content)

    def _text(self, content: str) -> None:
        self._bytes(content.encode())

    def _name(self, named: Any) -> None:
        module = named.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{named.__qualname__}\n".encode())
        self.memoize(named)


_EMPTY = np.empty(0).__reduce__()[0]  # the function that NumPy has pickles call for an array


def _length(content: bytes) -> bytes:
    return struct.pack("<i", len(content))


def pickled(content: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    _Python2(stream).dump(content)
    return stream.getvalue()


def cifar(root: Path, splits: Mapping[str, Arrays], names: list[str]) -> None:
    """CIFAR-10: five training batches."""
    folder = root / "cifar-10-batches-py"
    for split, (images, labels) in splits.items():
        files = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
        for file, part in zip(files, np.array_split(np.arange(len(images)), len(files)), strict=True):
            rows = np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)).reshape(len(part), -1)
            batch = {"batch_label": file, "labels": labels[part].tolist(), "data": rows, "filenames": ["a.png"]}
            write(folder / file, pickled(batch))
    write(folder / "batches.meta", pickled({"num_cases_per_batch": 10000, "label_names": names, "num_vis": 3072}))


def cifar100(root: Path, splits: Mapping[str, Arrays], names: list[str]) -> None:
    folder = root / "cifar-100-python"
    for split, (images, labels) in splits.items():
        rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
        write(folder / split, pickled({"fine_labels": labels.tolist(), "coarse_labels": [0] * len(rows), "data": rows}))
    write(folder / "meta", pickled({"fine_label_names": names, "coarse_label_names": ["things"]}))


def svhn(root: Path, splits: Mapping[str, Arrays]) -> None:
    """The digit 0 has the label 10."""
    for split, (images, labels) in splits.items():
        content = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)}
        root.mkdir(parents=True, exist_ok=True)
        savemat(root / f"{split}_32x32.mat", content, do_compression=True)


def stl10(root: Path, splits: Mapping[str, Arrays], names: list[str]) -> None:
    folder = root / "stl10_binary"
    for split, (images, labels) in splits.items():
        write(folder / f"{split}_X.bin", np.ascontiguousarray(images.transpose(0, 3, 2, 1)).tobytes())
        write(folder / f"{split}_y.bin", (labels + np.uint8(1)).tobytes())
    write(folder / "class_names.txt", "".join(f"{name}\n" for name in names).encode())
