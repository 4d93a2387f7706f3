"""Files of tensors, whoever wrote them: read without executing code, and looked through before they are used."""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cpcnn_core import file_kinds
from cpcnn_core.errors import CheckpointError
from cpcnn_core.file_kinds import Kind

WEIGHT_DTYPES = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})
"""What a network's weights are kept in."""

_SHOWN = 6  # names that an error lists

# Whatever torch's restricted unpickler meets in a file that is none of its own, or is damaged.
_UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    OverflowError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class NumPyValue:
    """What stands for a NumPy scalar or array beside the weights; nothing of it is read, no code of NumPy's run."""

    def __init__(self, *_: object) -> None:
        """Forget everything."""

    def __setstate__(self, _: object) -> None:
        """Forget everything."""


# All that pickled NumPy scalars and arrays name, under both of NumPy 1's and 2's module names, and their empty bytes.
_NUMPY_GLOBALS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((NumPyValue, f"numpy.{name}") for name in ("dtype", "ndarray")),
    *((NumPyValue, f"numpy.core.multiarray.{name}") for name in ("scalar", "_reconstruct")),
    *((NumPyValue, f"numpy._core.multiarray.{name}") for name in ("scalar", "_reconstruct")),
    *((NumPyValue, f"{builtins}.bytes") for builtins in ("__builtin__", "builtins")),
]


def read(path: Path, *, expected: str) -> Any:
    """All that a file of torch.save holds, or the tensors of a safetensors file by name; never executes code.

    Tensors are on the CPU, of a large file only what is used of them is read. NumPy's values come as `NumPyValue`.

    Raise CheckpointError, which says what the file is where it is no such file, and then what was `expected`.
    """
    found = file_kinds.look(path)
    if found.kind is None:
        raise CheckpointError(f"{path}: is {found.what}; {found.way_out or expected}")
    if found.kind is Kind.SAFETENSORS:
        return read_safetensors(path, expected=expected)[0]
    mapped = False
    if found.kind is Kind.TORCH:
        if part := file_kinds.damaged_part(path):
            raise CheckpointError(
                f"{path}: is damaged, its part {part} is not what its checksum says; download or copy it again "
                "(or, where it was saved under set_crc32_options(False), save it again without)"
            )
        mapped = not file_kinds.is_compressed(path)
    return _unpickled(path, path, expected=expected, mapped=mapped)


def read_state(content: bytes, path: Path) -> Any:
    """All that the bytes of the torch.save file at `path` hold. Raise CheckpointError."""
    return _unpickled(io.BytesIO(content), path, expected="expected a training state of ours", mapped=False)


def _unpickled(source: Path | io.BytesIO, path: Path, *, expected: str, mapped: bool) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_NUMPY_GLOBALS):
            warnings.simplefilter("ignore")  # torch warns of foreign pickles; what matters is whether it reads them
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: not a checkpoint that can be read without executing code from it ({reason(error)}); {expected}"
        ) from None


def reason(error: BaseException) -> str:
    """What torch says without its advice, several lines of which are how to read the file all the same."""
    said = str(error).strip()
    if unsupported := re.search(r"GLOBAL (\S+) was not an allowed global", said):
        return f"it holds {unsupported[1]}"
    return said.splitlines()[0] if said else type(error).__name__


def read_safetensors(path: Path, *, expected: str, origin: object = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and the metadata of its header. Raise CheckpointError.

    `origin` is what errors call the file, where `path` is a copy.
    """
    origin = path if origin is None else origin
    found = file_kinds.look(path, origin)
    if found.kind is not Kind.SAFETENSORS:
        way_out = found.way_out or expected
        raise CheckpointError(f"{origin}: not a readable safetensors file but {found.what}; {way_out}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - not a mapping
    except (SafetensorError, *_UNREADABLE) as error:
        raise CheckpointError(
            f"{origin}: not a readable safetensors file ({reason(error)}); download or copy it again"
        ) from None


def require_finite(path: object, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where a value is NaN or infinite, naming the tensors."""
    broken = [f"{name} ({count} of {tensors[name].numel()} values)" for name, count in _not_finite(tensors)]
    if broken:
        raise CheckpointError(
            f"{path}: {len(broken)} of {len(tensors)} tensors hold NaN or infinite values: {some(broken)}. Such "
            "weights say nothing of any image; the training that left them had diverged, or the file is damaged"
        )


def _not_finite(tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, int]]:
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor.detach())
        if not finite.all():
            yield name, int((~finite).sum())


def require_weights(path: object, tensors: Mapping[str, Tensor], way_out: str = "") -> None:
    """Raise CheckpointError where a tensor is none that a network's weights can be, naming each and what it is."""
    odd = [f"{name} is {what}" for name, tensor in tensors.items() if (what := _odd(tensor)) is not None]
    if odd:
        raise CheckpointError(f"{path}: {some(odd)}; weights are dense tensors of floating-point numbers{way_out}")


def _odd(tensor: Tensor) -> str | None:
    """What the tensor is where it cannot be weights."""
    if tensor.is_meta:
        return "without values (on the meta device)"
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return f"sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return f"quantised ({_named(tensor.dtype)})"
    if tensor.dtype not in WEIGHT_DTYPES:
        return f"of {_named(tensor.dtype)}"
    if tensor.dim() == 0:
        return "a single number"
    return None


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def some(items: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
