"""Tensors that are costly to make and follow from their inputs alone: made once per machine, then read from a file.

The file's name holds the hash of those inputs, so a file is never out of date and concurrent trials may share it. What
is read is *mapped*: its pages are loaded where they are looked at, and all processes of a machine share them. A process
that writes into such a tensor gets a page of its own; the file stays as it is.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from cpcnn_core.files import cache_folder, in_turn, write_atomically

_log = logging.getLogger(__name__)

ROWS = "rows"
"""The name of the tensor that `rows` writes piece by piece."""

# The key in the header, of what it says of the tensors and of all bytes behind it. Without it a file is made anew.
_CHECKSUM = "sha256"
_HEADER = 4096  # bytes of length and header: what follows begins at a page, as `Rows` writes it before they are known
_TICK = 0.02  # seconds after which a file system's clock shows another time, so that a change to a file shows
_BLOCK = 2**24  # bytes in memory at a time
# The names that the format has for them.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def digest(parts: Iterable[str | bytes | Tensor]) -> str:
    """32 hex digits of the SHA-256 of `parts`, each preceded by its size, so that parts cannot run into each other."""
    state = hashlib.sha256()
    for part in parts:
        data: bytes | memoryview
        if isinstance(part, Tensor):
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            data = _bytes(part)
        else:
            data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()[:32]


def file(kind: str, key: str) -> Path:
    """Where the tensors of this `kind` and `key` lie."""
    return cache_folder() / f"{kind}-{key}.safetensors"


class Rows:
    """A tensor that is written a few rows after another, and need not fit in memory: (N, ...), of one type."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._dtype: torch.dtype | None = None
        self._row: tuple[int, ...] = ()
        self._count = 0

    def append(self, rows: Tensor) -> None:
        """Write further rows, all of one shape and type."""
        self._write(self._count, rows)
        self._count += len(rows)

    def change(self, into: Callable[[Tensor], Tensor]) -> None:
        """Replace the rows that were written by what `into` makes of some of them at a time, at least as large."""
        if self._dtype is None:
            return
        before, size = self._dtype, self._size
        step = max(1, _BLOCK // size)
        # From the last ones on: what is written lies behind all that is still to be read.
        for start in reversed(range(0, self._count, step)):
            self._stream.seek(_HEADER + start * size)
            read = bytearray(self._stream.read(min(step, self._count - start) * size))
            self._write(start, into(torch.frombuffer(read, dtype=before).reshape(-1, *self._row)))

    def tensors(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of what was written, by its name."""
        return {} if self._dtype is None else {ROWS: (self._dtype, (self._count, *self._row))}

    @property
    def _size(self) -> int:
        assert self._dtype is not None
        return self._dtype.itemsize * torch.Size(self._row).numel()

    def _write(self, start: int, rows: Tensor) -> None:
        self._dtype, self._row = rows.dtype, tuple(rows.shape[1:])
        self._stream.seek(_HEADER + start * self._size)
        self._stream.write(_bytes(rows))


def tensors(kind: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what `make` returned when it was first called for this `kind` and `key` on this machine.

    One process makes it, the others wait. A broken file is made anew; without a usable folder nothing is kept.
    """
    once = functools.cache(make)
    return rows(kind, key, lambda _: once())


def rows(kind: str, key: str, make: Callable[[Rows], dict[str, Tensor]]) -> dict[str, Tensor]:
    """As `tensors`, where `make` also writes the tensor `ROWS`, which need not fit in memory.

    `make` is called again where what it wrote could not be kept.
    """
    path = file(kind, key)
    kept = _read(path)
    if kept is not None:
        return kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.info("cannot use the cache folder %s (%s): %s is made again by every process", path.parent, error, kind)
        return _in_memory(make)
    with in_turn(path.with_suffix(".lock")):
        kept = _read(path)
        if kept is None:
            kept = _made(path, make)
        return kept


def _made(path: Path, make: Callable[[Rows], dict[str, Tensor]]) -> dict[str, Tensor]:
    try:
        write_atomically(path, lambda stream: _write(stream, make))
    except OSError as error:
        _log.info("cannot write %s (%s): it is made again by the next process", path, error)
        return _in_memory(make)
    identity = _identity(path)
    time.sleep(_TICK)
    _note(path, identity)
    kept = _read(path)
    return _in_memory(make) if kept is None else kept


def _in_memory(make: Callable[[Rows], dict[str, Tensor]]) -> dict[str, Tensor]:
    stream = io.BytesIO()
    written = Rows(stream)
    content = make(written)
    for name, (dtype, shape) in written.tensors().items():
        content[name] = torch.frombuffer(stream.getbuffer(), dtype=dtype, offset=_HEADER).reshape(shape)
    return content


def _write(stream: BinaryIO, make: Callable[[Rows], dict[str, Tensor]]) -> None:
    """A file of safetensors: https://huggingface.co/docs/safetensors. The library's writer needs all in memory."""
    written = Rows(stream)
    # The widest first, so that each begins where its type may: no bytes may lie between them.
    rest = sorted(make(written).items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    shapes = written.tensors() | {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in rest}
    stream.seek(0, os.SEEK_END)
    stream.seek(max(_HEADER, stream.tell()))
    stream.writelines(_bytes(tensor) for _, tensor in rest)
    stream.seek(_HEADER)
    entries = _entries(shapes)
    header = json.dumps({"__metadata__": {_CHECKSUM: _checksum(entries, stream)}} | entries).encode()
    assert len(header) <= _HEADER - 8  # some forty tensors; we keep a dozen at most
    stream.seek(0)
    stream.write((_HEADER - 8).to_bytes(8, "little") + header.ljust(_HEADER - 8))


def _entries(shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, object]:
    """What the header says of each tensor."""
    entries: dict[str, object] = {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        entries[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": (start, end)}
    return entries


def _checksum(entries: Mapping[str, object], stream: BinaryIO) -> str:
    """The SHA-256 of what a header says of the tensors, and of the rest of the file."""
    state = hashlib.sha256(json.dumps(entries, sort_keys=True).encode())
    while block := stream.read(_BLOCK):
        state.update(block)
    return state.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _read(path: Path) -> dict[str, Tensor] | None:
    """What the file holds; None where there is none, or one that is broken."""
    try:
        identity = _identity(path)
        try:
            content, recorded = _mapped(path)
        except (SafetensorError, OSError, RuntimeError) as error:
            content, recorded = _unmapped(path)  # of a broken file that fails too
            _say_that_it_is_not_mapped(path.parent, str(error))
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError) as error:
        _log.info("%s cannot be read (%s): it is made anew", path, error)
        return None
    if recorded is None:
        _log.info("%s is of an earlier release: it is made anew", path)
        return None
    if not _is_whole(path, identity, recorded):
        _log.warning("%s is damaged (its checksum is not the recorded one): it is made anew", path)
        return None
    return content


def _mapped(path: Path) -> tuple[dict[str, Tensor], str | None]:
    with safe_open(path, framework="pt") as kept:
        content = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - not a mapping
        return content, (kept.metadata() or {}).get(_CHECKSUM)


def _unmapped(path: Path) -> tuple[dict[str, Tensor], str | None]:
    data = path.read_bytes()
    content = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return content, header.get("__metadata__", {}).get(_CHECKSUM)


@functools.cache
def _say_that_it_is_not_mapped(folder: Path, reason: str) -> None:
    _log.warning(
        "files in %s cannot be mapped (%s): each process reads its own copy into memory; name a folder on another "
        "disk with CPCNN_CACHE",
        folder,
        reason,
    )


def _is_whole(path: Path, identity: str, recorded: str) -> bool:
    """Whether the bytes are those that were written.

    They are read once after each start of the machine, and again whenever the file is touched: reading all of them in
    each process takes longer than all else that a start does.
    """
    try:
        if _note_of(path).read_text(encoding="utf-8") == identity:
            return True
    except (OSError, ValueError):
        pass  # not looked at yet
    with path.open("rb") as stream:
        entries = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        del entries["__metadata__"]
        if _checksum(entries, stream) != recorded:
            return False
    _note(path, identity)
    return True


def _note_of(path: Path) -> Path:
    return path.with_suffix(".checked")


def _note(path: Path, identity: str) -> None:
    try:
        _note_of(path).write_text(identity, encoding="utf-8")
    except OSError as error:
        _log.info("cannot write %s (%s): each process checks the whole file", _note_of(path), error)


def _identity(path: Path) -> str:
    """What changes when somebody writes to the file, replaces it, or starts the machine anew."""
    found = path.stat()
    return f"{_boot()} {found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return f"{platform.node()} {psutil.boot_time():.0f}"
