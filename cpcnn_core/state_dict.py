"""The state_dict in a file that somebody saved: unwrapped, looked through, rid of what lies beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpcnn_core import renaming, tensor_files
from cpcnn_core.checkpoint import is_ours
from cpcnn_core.errors import CheckpointError
from cpcnn_core.file_kinds import Kind, look
from cpcnn_core.suggest import nearest

_EXPECTED = "expected what torch.save(model.state_dict(), FILE) writes"
_WRAPPERS = ("model_state_dict", "state_dict", "model")
_DEEPEST = 4  # wrappers in one another; a dictionary may hold itself


def read_weights(path: Path, drop: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The file's weights in float32, and what to say of that. Raise CheckpointError."""
    found = read_state_dict(path, drop)
    tensor_files.require_weights(path, found, "; leave out what the network does not need with --drop NAME")
    # A tensor that another is a view of, or that autograd knows, would go on being one.
    tensors = {name: tensor.detach().to(torch.float32) for name, tensor in found.items()}
    tensor_files.require_finite(path, tensors)
    others = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in found.values())
    del others["float32"]
    return tensors, [f"{count} tensors of {dtype} are kept as float32" for dtype, count in sorted(others.items())]


def read_state_dict(path: Path, drop: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of a checkpoint, unwrapped, without `module.` prefixes and what `drop` names.

    Never executes code from the file. Raise CheckpointError.
    """
    if look(path).kind is Kind.SAFETENSORS:
        held, metadata = tensor_files.read_safetensors(path, expected=_EXPECTED)
        content: Mapping[Any, Any] = held
        if is_ours(metadata):
            raise CheckpointError(
                f"{path}: holds weights of this project with their configuration, which an import would lose; `sample` "
                "reads them as they are, and the conditional_pixelcnn.pth that `best` exports can be imported"
            )
    else:
        content = _unwrapped(path, tensor_files.read(path, expected=_EXPECTED))
    tensors: dict[str, Tensor] = {}
    originals: dict[str, str] = {}
    left_out = set()
    for name, value in content.items():
        short = re.sub(r"^(module\.|_orig_mod\.)+", "", str(name))
        if dropped := [pattern for pattern in drop if renaming.matching(pattern, (short, str(name)))]:
            left_out.update(dropped)
            continue
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: {name!r} is {_a(value)}, expected a tensor; not a state_dict, or leave it out with --drop "
                f"{name}"
            )
        if short in tensors:
            raise CheckpointError(
                f"{path}: {originals[short]!r} and {str(name)!r} are one name, {short!r}; save one of the two alone"
            )
        tensors[short], originals[short] = value, str(name)
    for pattern in drop:
        if pattern not in left_out:
            raise CheckpointError(f"{path}: --drop {pattern}: the file has no such tensor{nearest(pattern, tensors)}")
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; {_EXPECTED}")
    return tensors


def _unwrapped(path: Path, content: Any) -> Mapping[Any, Any]:
    """The state_dict in what was saved: that itself, or the one dictionary of tensors in it."""
    for _ in range(_DEEPEST):
        if not isinstance(content, dict):
            break
        inner = [key for key, value in content.items() if _is_state_dict(value)]
        known = [name for name in _WRAPPERS if isinstance(content.get(name), dict)]
        if not inner and not known:
            break
        if not known and any(isinstance(value, Tensor) for value in content.values()):
            break
        if not known and len(inner) > 1:
            raise CheckpointError(
                f"{path}: holds several dictionaries of tensors, {', '.join(map(repr, inner))}; save the network's "
                f"alone: torch.save(torch.load(FILE)[{inner[0]!r}], NEW)"
            )
        content = content[(known or inner)[0]]
    if _is_only_an_optimizer(content):
        raise CheckpointError(f"{path}: holds no weights, only an optimizer's state; {_EXPECTED}")
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds {_a(content)}, expected a state_dict of named tensors")
    return content


def _is_only_an_optimizer(content: object, deepest: int = _DEEPEST) -> bool:
    """Whether it is what an optimizer's state_dict() gives, or holds such and no tensor beside it."""
    if not isinstance(content, dict) or deepest == 0:
        return False
    if "param_groups" in content:
        return True
    values = content.values()
    if any(isinstance(value, Tensor) for value in values):
        return False
    return any(_is_only_an_optimizer(value, deepest - 1) for value in values)


def _a(value: object) -> str:
    """What kind of thing it is, with its article."""
    kind = "NumPy value" if isinstance(value, tensor_files.NumPyValue) else type(value).__name__
    return f"{'an' if kind[0] in 'aeioAEIO' else 'a'} {kind}"


def _is_state_dict(value: object) -> bool:
    """Whether it holds tensors, as dictionaries of metrics do not, nor an optimizer's, in which they lie deeper."""
    return isinstance(value, dict) and any(isinstance(part, Tensor) and part.dim() > 0 for part in value.values())
