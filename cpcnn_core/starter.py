"""Checkpoints of the course's starter code: import, and export in the same format.

The starter code stores a plain state_dict with the old weight norm's names (`weight_g`, `weight_v`); submissions add
`module.` prefixes or wrap it in `{"model_state_dict": ...}`. Its own parameters map one to one onto ours. What a
submission calls its label's parameters is its own choice, hence the `rename` argument.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpcnn_core.checkpoint import CheckpointError, build_model
from cpcnn_core.config import TrialConfig
from cpcnn_core.files import write_atomically
from cpcnn_core.fusion import parse_name
from cpcnn_core.model import ConditionalPixelCNN

# Whatever torch's restricted unpickler meets in a file that is none of its own.
_UNREADABLE = (
    pickle.UnpicklingError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
_WRAPPERS = ("model_state_dict", "state_dict", "model")

# (pattern of the starter code's name, ours), tried in order; \1... are levels and block numbers.
_NAMES = [
    (r"up_layers\.(\d+)\.(u|ul)_stream\.(\d+)\.", r"up_\2.\1.\3."),
    (r"down_layers\.(\d+)\.(u|ul)_stream\.(\d+)\.", r"down_\2.\1.\3."),
    (r"(down|up)size_(u|ul)_stream\.(\d+)\.", r"\1size_\2.\3."),
    (r"\b(deconv|lin_a)\.", "conv."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
]
# And back. Which of conv, deconv and lin_a a `conv` was follows from the module it is in.
_STARTER_NAMES = [
    (r"^up_(u|ul)\.(\d+)\.(\d+)\.", r"up_layers.\2.\1_stream.\3."),
    (r"^down_(u|ul)\.(\d+)\.(\d+)\.", r"down_layers.\2.\1_stream.\3."),
    (r"^upsize_(u|ul)\.(\d+)\.conv\.", r"upsize_\1_stream.\2.deconv."),
    (r"^downsize_(u|ul)\.(\d+)\.", r"downsize_\1_stream.\2."),
    (r"(nin_skip|nin_out)\.conv\.", r"\1.lin_a."),
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
]
# Where a variant has one label table, the name that submissions gave it.
_LABEL_TABLES = {
    "input_add": "fusion.input_add.e.input.weight",
    "input_map": "fusion.input_map.e.input.weight",
    "input_concat": "fusion.input_concat.e.weight",
    "stem_add": "fusion.stem_add.e.weight",
}
_LABEL_TABLE_NAME = "embedding.weight"


@dataclass(frozen=True)
class Imported:
    """A network from a starter-code checkpoint."""

    model: ConditionalPixelCNN
    config: TrialConfig
    layout: Layout


@dataclass(frozen=True)
class Layout:
    """How a submission stores its label's parameters, as far as it differs from the starter code's own way."""

    rename: Mapping[str, str] = field(default_factory=dict)  # the file's name, or dotted prefix, -> ours
    transposed: tuple[
        str, ...
    ] = ()  # our names of the tables that the file holds as nn.Embedding does, a row per class

    def as_notes(self) -> dict[str, Any]:
        """A JSON-ready form that `of_notes` reads back."""
        return {"rename": dict(self.rename), "transposed": list(self.transposed)}

    @classmethod
    def of_notes(cls, notes: Mapping[str, Any]) -> Layout | None:
        """The layout that a weights file's notes hold; None where the weights were not imported."""
        return cls(notes["rename"], tuple(notes["transposed"])) if "rename" in notes else None


def import_starter(
    path: Path,
    config: TrialConfig,
    *,
    image_shape: tuple[int, int, int],
    nr_classes: int,
    rename: Mapping[str, str] | None = None,
) -> Imported:
    """Read a starter-code checkpoint into a network of the config's fusion; sizes come from the file's shapes.

    `rename` maps the file's names to ours, applied to whole names or dotted prefixes. Raise CheckpointError where the
    file cannot be read, or where keys are unused, missing or of another shape, listing each by name.
    """
    tensors = read_state_dict(path)
    origin = _origins(tensors, config, rename or {})
    found = {ours: tensors[theirs] for ours, theirs in origin.items()}
    config = config.with_settings(_sizes(path, found, config, image_shape))
    model = build_model(config, image_shape, nr_classes)
    wanted = model.state_dict()
    transposed = tuple(
        name for name in found if name in wanted and _is_embedding(name, origin[name], found[name], wanted[name].shape)
    )
    fitted = {
        name: _fit(tensor.T if name in transposed else tensor, wanted[name].shape)
        for name, tensor in found.items()
        if name in wanted
    }
    problems = [
        *(f"missing: {name} {tuple(tensor.shape)}" for name, tensor in wanted.items() if name not in found),
        *(f"unused: {name} {tuple(tensor.shape)}" for name, tensor in found.items() if name not in wanted),
        *(
            f"shape: {name} is {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
            for name, tensor in fitted.items()
            if tensor is None
        ),
    ]
    if problems:
        listing = "\n  ".join(problems)
        raise CheckpointError(
            f"{path}: does not fit fusion {config.model.fusion!r}:\n  {listing}\n"
            "Name another --fusion, or map the file's names with --rename OLD=NEW"
        )
    model.load_state_dict({name: tensor for name, tensor in fitted.items() if tensor is not None})
    return Imported(model.eval(), config, Layout(dict(rename or {}), transposed))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, unwrapped, without `module.` prefixes. Never executes code from the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles; what matters is whether it reads them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: not a checkpoint that can be read without executing code from it ({reason}); "
            "expected torch.save(model.state_dict(), ...)"
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a state_dict of named tensors")
    tensors = {}
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, expected a tensor; not a state_dict")
        tensors[re.sub(r"^(module\.|_orig_mod\.)+", "", str(name))] = value
    return tensors


def export_starter(path: Path, model: ConditionalPixelCNN, layout: Layout | None = None) -> None:
    """Write the network as the starter code's plain state_dict. `layout` is what an import found."""
    tensors = starter_state_dict(model, layout)
    write_atomically(path, lambda stream: torch.save(tensors, stream))


def starter_state_dict(model: ConditionalPixelCNN, layout: Layout | None = None) -> dict[str, Tensor]:
    """The network's tensors under the starter code's names and in its shapes."""
    table = _label_table(model.config.fusion, model.config.label_encoding)
    if layout is None:
        layout = Layout(transposed=(table,) if table is not None and table.startswith("fusion.") else ())
    back = {new: old for old, new in layout.rename.items()}
    if table is not None:
        back.setdefault(table, _LABEL_TABLE_NAME)
    tensors = {}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        old = _substitute(name, back)
        if name == old:
            for pattern, replacement in _STARTER_NAMES:
                old = re.sub(pattern, replacement, old)
        if "lin_a.weight" in old:
            value = value.flatten(1)  # a 1x1 convolution is the starter code's linear layer
        tensors[old] = (value.T if name in layout.transposed else value).contiguous()
    return tensors


def _origins(tensors: Mapping[str, Tensor], config: TrialConfig, rename: Mapping[str, str]) -> dict[str, str]:
    """Which name in the file each of our names comes from."""
    known = dict(rename)
    table = _label_table(config.model.fusion, config.model.label_encoding)
    if table is not None and table not in known.values():
        known.setdefault(_LABEL_TABLE_NAME, table)
    for old in rename:
        if not any(name == old or name.startswith(f"{old}.") for name in tensors):
            raise CheckpointError(f"--rename {old}={rename[old]}: the file has no {old!r}; it has {', '.join(tensors)}")
    origin = {}
    for name in tensors:
        ours = _substitute(name, known)
        # The new weight norm (torch.nn.utils.parametrizations) already has our names for g and v.
        for pattern, replacement in _NAMES:
            ours = re.sub(pattern, replacement, ours)
        origin[ours] = name
    return origin


def _is_embedding(name: str, origin: str, tensor: Tensor, shape: torch.Size) -> bool:
    """Whether the file holds this table of ours, a linear layer on the one-hot label, as an nn.Embedding.

    The shape tells, but for a square table; there a name like `embedding.weight` or `label_emb.weight` does.
    """
    if not name.startswith("fusion.") or tensor.dim() != 2 or tensor.T.shape != shape:
        return False
    return tensor.shape != shape or "emb" in origin.lower()


def _label_table(fusion: str, encoding: str) -> str | None:
    if encoding != "one_hot":
        return "label.weight" if encoding == "embedding" else None
    tables = [_LABEL_TABLES[part] for part in parse_name(fusion) if part in _LABEL_TABLES]
    return tables[0] if len(tables) == 1 else None


def _substitute(name: str, names: Mapping[str, str]) -> str:
    """Replace a whole name or a dotted prefix of it."""
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def _fit(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """The tensor in the wanted shape: a linear layer may stand for a 1x1 convolution. None where it does not fit."""
    if tensor.shape == shape:
        return tensor
    if tensor.shape == shape[:2] and shape[2:].numel() == 1:
        return tensor.view(shape)
    return None


def _sizes(
    path: Path, found: Mapping[str, Tensor], config: TrialConfig, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The model's sizes, read off the shapes."""
    weight = "parametrizations.weight.original1"
    first, last = found.get(f"u_init.conv.{weight}"), found.get(f"nin_out.conv.{weight}")
    if first is None or last is None:
        raise CheckpointError(
            f"{path}: no u_init and nin_out weights in it, so not a network of the starter code; it has "
            f"{', '.join(list(found)[:8])}, ..."
        )
    blocks = [int(match[1]) for name in found if (match := re.match(r"up_u\.0\.(\d+)\.", name))]
    skip = found.get(f"up_ul.0.0.nin_skip.conv.{weight}")
    if not blocks or skip is None:
        raise CheckpointError(f"{path}: no gated blocks in it (up_layers.0.u_stream.0, ...), so not a whole network")
    channels = image_shape[0]
    sizes: dict[str, Any] = {
        "model.nr_filters": first.shape[0],
        "model.nr_resnet": max(blocks) + 1,
        "model.nr_logistic_mix": last.shape[0] // (3 if channels == 1 else 10),
    }
    extra = first.shape[1] - channels - 1
    parts = parse_name(config.model.fusion)
    if "input_concat" in parts and extra > 0:
        sizes["model.fusion_options.input_concat.dim"] = extra
    if "block_concat" in parts:
        sizes["model.fusion_options.block_concat.dim"] = skip.shape[1] // 2 - first.shape[0]
    for part in ("block_film", "bottleneck_film"):
        layers = [tensor for name, tensor in found.items() if re.match(rf"fusion\.{part}\.mlp\..*\.0\.weight$", name)]
        if layers:
            sizes[f"model.fusion_options.{part}.hidden"] = layers[0].shape[0]
    return sizes
