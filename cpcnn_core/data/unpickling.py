"""Pickles that hold numbers, texts and arrays of bytes, read without running anything that they name.

CIFAR is published as such files. Python's own `pickle.load` calls whatever a file asks it to call. Here every name that
a file may ask for is a stand-in of ours, and another name is an error.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


class _Type:
    """A type of numbers, of which a file says what it is called."""

    def __init__(self, name: bytes | str, *_: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, of which bytes have none."""


class _Array:
    """An array, as numpy writes it: made empty, then given shape, type, order and content."""

    def __setstate__(self, state: tuple[int, Sequence[int], _Type, bool, bytes]) -> None:
        _, shape, kind, columns_first, content = state
        if kind.name not in {"u1", "uint8"}:
            raise pickle.UnpicklingError(f"an array of {kind.name}, not of bytes")
        self.pixels = np.frombuffer(content, np.uint8).reshape(tuple(shape), order="F" if columns_first else "C")


def _empty(*_: object) -> _Array:
    return _Array()


_ALLOWED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,  # its name since NumPy 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A stand-in. Raise UnpicklingError for what no array of bytes needs."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run") from None


def unpickle(stream: BinaryIO) -> dict[str, Any]:
    """The dictionary in a file; its texts are str, its arrays of bytes NumPy's.

    Raise UnpicklingError, or whatever else a broken file makes of Python's reader.
    """
    content = _Unpickler(stream, encoding="bytes").load()
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"a {type(content).__name__}, not a dictionary")
    return {_text(key): _plain(value) for key, value in content.items()}


def _plain(value: object) -> list[Any] | NDArray[np.uint8] | Any:
    if isinstance(value, _Array):
        return value.pixels
    return [_text(item) for item in value] if isinstance(value, list) else _text(value)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
