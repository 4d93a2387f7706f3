"""Tensors that are costly to make and follow from their inputs alone: made once per machine, then read from a file.

The file's name holds the hash of those inputs, so a file is never out of date and concurrent trials may share it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cpcnn_core.files import cache_folder, in_turn, write_atomically

_log = logging.getLogger(__name__)

_CHECKSUM = "checksum"  # the key in the header; files of earlier releases have none


def digest(parts: Iterable[str | bytes | Tensor]) -> str:
    """32 hex digits of the SHA-256 of `parts`, each preceded by its size, so that parts cannot run into each other."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            data = part.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        else:
            data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()[:32]


def file(kind: str, key: str) -> Path:
    """Where the tensors of this `kind` and `key` lie."""
    return cache_folder() / f"{kind}-{key}.safetensors"


def tensors(kind: str, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what `make` returned when it was first called for this `kind` and `key` on this machine.

    One process makes it, the others wait. A broken file is made anew; without a usable folder nothing is kept.
    """
    path = file(kind, key)
    kept = _read(path)
    if kept is not None:
        return kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.info("cannot use the cache folder %s (%s): %s is made again by every process", path.parent, error, kind)
        return make()
    with in_turn(path.with_suffix(".lock")):
        kept = _read(path)
        if kept is None:
            kept = {name: tensor.contiguous() for name, tensor in make().items()}
            _write(path, kept)
        return kept


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as kept:
            content = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - not a mapping
            recorded = (kept.metadata() or {}).get(_CHECKSUM)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        _log.info("%s cannot be read (%s): it is made anew", path, error)
        return None
    if recorded is not None and recorded != _checksum(content):
        _log.warning("%s is damaged (its checksum is not the recorded one): it is made anew", path)
        return None
    return content


def _write(path: Path, content: dict[str, Tensor]) -> None:
    try:
        write_atomically(path, lambda stream: stream.write(save(content, {_CHECKSUM: _checksum(content)})))
    except OSError as error:
        _log.info("cannot write %s (%s): it is made again by the next process", path, error)


def _checksum(content: dict[str, Tensor]) -> str:
    return digest(part for item in sorted(content.items()) for part in item)
