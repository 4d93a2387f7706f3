"""Checkpoints of the course's starter code: import, and export in the same format.

The starter code stores a plain state_dict with the old weight norm's names (`weight_g`, `weight_v`); submissions add
`module.` prefixes or wrap it in `{"model_state_dict": ...}`. Its own parameters map one to one onto ours. What a
submission calls its label's parameters, and how it cuts them into tensors, is its own choice, hence `Choices`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpcnn_core import renaming, tensor_files
from cpcnn_core.checkpoint import CheckpointError, build_model
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.files import write_atomically
from cpcnn_core.fusion import parse_name
from cpcnn_core.layout import Layout as Layout
from cpcnn_core.layout import Shape, Stored, fitted
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.renaming import Origin, Rename
from cpcnn_core.state_dict import read_state_dict as read_state_dict
from cpcnn_core.state_dict import read_weights

# What our names begin with, the label's parameters apart.
_OF_THE_NETWORK = re.compile(
    r"(up|down)_ul?\.\d+\.\d+\.(conv_input|nin_skip|conv_out)\.|(upsize|downsize)_ul?\.|ul?_init\.|nin_out\."
)

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
class Choices:
    """What the user says of a file: other names, tensors to leave out, label tables to cut to the data's classes."""

    rename: Sequence[Rename] = ()
    drop: Sequence[str] = ()  # names, what they begin with up to a dot, or patterns with `*`
    first_classes: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError where a name is empty, as a shell makes of a variable that is not set."""
        for name in self.drop:
            if not name.strip():
                raise ConfigError(f"--drop {name!r}: is empty; expected a tensor's name, or a pattern with *")


@dataclass(frozen=True)
class Imported:
    """A network from a starter-code checkpoint. `remarks` are sentences on what is not as the file has it."""

    model: ConditionalPixelCNN
    config: TrialConfig
    layout: Layout
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Network:
    """The network that the file's tensors are to fill."""

    model: ConditionalPixelCNN
    config: TrialConfig
    shapes: dict[str, Shape]

    @cached_property
    def class_axes(self) -> dict[str, int]:
        """Of each tensor that has one, the axis along which classes lie: another number of classes changes it."""
        others = build_model(self.config, self.model.image_shape, self.model.nr_classes + 1).state_dict()
        return {
            name: next(axis for axis, size in enumerate(shape) if size != others[name].shape[axis])
            for name, shape in self.shapes.items()
            if shape != tuple(others[name].shape)
        }


def import_starter(
    path: Path,
    config: TrialConfig,
    *,
    image_shape: tuple[int, int, int],
    nr_classes: int,
    choices: Choices | None = None,
) -> Imported:
    """Read a starter-code checkpoint into a network of the config's fusion; sizes come from the file's shapes.

    Raise CheckpointError where the file cannot be read, holds what are no finite weights, or where keys are unused,
    missing or of another shape, listing each by name.
    """
    choices = choices or Choices()
    tensors, remarks = read_weights(path, choices.drop)
    with _naming(path):
        origins = _origins(tensors, config, choices.rename)
    network = _network(path, _joined_shapes(origins, tensors), config, image_shape, nr_classes)
    with _naming(path):
        origins, problems = _spread(origins, network.shapes)
    stored = _stored(path, origins, tensors, network, problems, first_classes=choices.first_classes)
    remarks += [remark for at in stored.values() for remark in _cut(at, tensors)]
    state = {name: at.as_ours(_parts(at, tensors), network.shapes[name]) for name, at in stored.items()}
    network.model.load_state_dict(state)
    usual = stored_as(network.model, Layout())
    given = {origin.ours for origin in origins if origin.given is not None}
    own = {name: at for name, at in stored.items() if name in given or not _is_usual(at, usual[name])}
    return Imported(network.model.eval(), network.config, Layout(own), tuple(dict.fromkeys(remarks)))


def export_starter(path: Path, model: ConditionalPixelCNN, layout: Layout | None = None) -> None:
    """Write the network as the starter code's plain state_dict. `layout` is what an import found.

    Raise CheckpointError as `starter_state_dict`.
    """
    tensors = starter_state_dict(model, layout)
    write_atomically(path, lambda stream: torch.save(tensors, stream))


def starter_state_dict(model: ConditionalPixelCNN, layout: Layout | None = None) -> dict[str, Tensor]:
    """The network's tensors under the starter code's names and in its shapes, or as the imported file had them.

    Raise CheckpointError where one tensor of that file stands for several of ours which are not equal any more.
    """
    stored = stored_as(model, layout)
    tensors: dict[str, Tensor] = {}
    filled_by: dict[str, str] = {}
    for ours, tensor in model.state_dict().items():
        try:
            parts = list(stored[ours].as_theirs(tensor.detach().cpu()))
        except (RuntimeError, IndexError, TypeError) as error:
            reason = tensor_files.reason(error)
            raise CheckpointError(f"{ours}: cannot be stored as the notes of its import say: {reason}") from None
        for theirs, part in parts:
            if theirs in tensors and not torch.equal(tensors[theirs], part):
                raise CheckpointError(
                    f"{theirs}, one tensor of the imported file, stands for {filled_by[theirs]} and {ours}, which are "
                    "not equal any more; no file of that form can hold both"
                )
            tensors[theirs], filled_by[theirs] = part, ours
    return tensors


# --- which of theirs is which of ours ---


def _unknown(names: Iterable[str]) -> list[str]:
    """The names that the starter code does not have, or all where it has them all."""
    every = list(names)
    return [name for name in every if not _OF_THE_NETWORK.match(_known_name(name))] or every


@contextmanager
def _naming(path: Path) -> Generator[None]:
    """Put the file's name before what is wrong with the names in it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _origins(tensors: Mapping[str, Tensor], config: TrialConfig, renames: Sequence[Rename]) -> list[Origin]:
    """Where each of our tensors comes from. Raise CheckpointError where two tensors of the file become one of ours."""
    found = list(renaming.origins(renames, tensors, _unknown(tensors)))
    taken = {name for origin in found for name in origin.theirs}
    found += [Origin(name, (name,)) for name in tensors if name not in taken]
    table = _label_table(config.model.fusion, config.model.label_encoding)
    if table in {origin.ours for origin in found}:
        table = None
    named = [
        Origin(
            table if table and origin.ours == _LABEL_TABLE_NAME else _known_name(origin.ours),
            origin.theirs,
            origin.given,
        )
        for origin in found
    ]
    _require_distinct(named)
    return named


def _require_distinct(origins: Iterable[Origin]) -> None:
    first: dict[str, Origin] = {}
    for origin in origins:
        if (other := first.setdefault(origin.ours, origin)) is not origin:
            raise CheckpointError(
                f"{'+'.join(other.theirs)} and {'+'.join(origin.theirs)} both become {origin.ours}; leave one out with "
                "--drop NAME, or map it elsewhere with --rename OLD=NEW"
            )


def _known_name(name: str) -> str:
    """Our name for a name of the starter code; any other stays. The new weight norm has our names for g and v."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _spread(origins: Sequence[Origin], ours: Iterable[str]) -> tuple[list[Origin], list[str]]:
    """The origins with each `*` replaced by every tensor of ours that fits it and comes from nowhere else.

    Also the problems met. Raise CheckpointError where two become one.
    """
    single = [origin for origin in origins if "*" not in origin.ours]
    left = [name for name in ours if name not in {origin.ours for origin in single}]
    problems = []
    for origin in (origin for origin in origins if "*" in origin.ours):
        names = renaming.matching(origin.ours, left)
        single += [Origin(name, origin.theirs, origin.given) for name in names]
        if not names:
            problems.append(f"unused: {_told(origin)}, which fits nothing that is not mapped already")
    _require_distinct(single)
    return single, problems


def _told(origin: Origin) -> str:
    theirs = "+".join(origin.theirs)
    return origin.ours if theirs == origin.ours else f"{origin.ours} (the file's {theirs})"


# --- how they are stored ---


def _stored(
    path: Path,
    origins: Sequence[Origin],
    tensors: Mapping[str, Tensor],
    network: _Network,
    problems: list[str],
    *,
    first_classes: bool,
) -> dict[str, Stored]:
    """How the file stores each of our tensors. Raise CheckpointError with `problems` and all that does not fit."""
    stored: dict[str, Stored] = {}
    for origin in origins:
        if origin.ours not in network.shapes:
            shapes = " and ".join(str(tuple(tensors[name].shape)) for name in origin.theirs)
            problems.append(f"unused: {_told(origin)} {shapes}")
            continue
        found = _stored_one(origin, tensors, network, first_classes=first_classes)
        if isinstance(found, Stored):
            stored[origin.ours] = found
        else:
            problems.append(found)
    named = {origin.ours for origin in origins}
    missing = [f"missing: {name} {shape}" for name, shape in network.shapes.items() if name not in named]
    if missing or problems:
        listing = "\n  ".join([*missing, *problems])
        raise CheckpointError(
            f"{path}: does not fit fusion {network.config.model.fusion!r}:\n  {listing}\n"
            "Name another --fusion, map the file's names with --rename OLD=NEW, or leave tensors out with --drop NAME "
            "(docs/import.md)"
        )
    return stored


def _stored_one(
    origin: Origin, tensors: Mapping[str, Tensor], network: _Network, *, first_classes: bool
) -> Stored | str:
    """How the file stores the tensor, or what is wrong with it."""
    ours, names = origin.ours, origin.theirs
    wanted = network.shapes[ours]
    table = ours.startswith("fusion.") and len(wanted) == 2
    shapes = [tuple(tensors[name].shape) for name in names]
    if found := fitted(names, shapes, wanted, table=table):
        return found
    axis = network.class_axes.get(ours)
    if axis is not None:
        classes = wanted[axis]
        for rows in {axis, 0} if table else {axis}:
            held = {shape[rows] for shape in shapes if len(shape) > rows}
            cut = [(*shape[:rows], classes, *shape[rows + 1 :]) for shape in shapes]
            found = fitted(names, cut, wanted, table=table) if len(held) == 1 else None
            if found is None or (0 if found.transposed else axis) != rows:
                continue
            (count,) = held
            if count > classes and first_classes:
                return found
            way_out = f"; --first-classes takes the first {classes}" if count > classes else ""
            return f"classes: {_told(origin)} has {count}, the data has {classes}{way_out}"
    held_shape = " and ".join(map(str, shapes))
    return f"shape: {_told(origin)} is {held_shape}, expected {wanted}"


def _parts(stored: Stored, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The file's tensors, each cut to the shape that is taken of it."""
    return [
        tensors[name][tuple(slice(size) for size in shape)]
        for name, shape in zip(stored.names, stored.shapes, strict=True)
    ]


def _cut(stored: Stored, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name, shape in zip(stored.names, stored.shapes, strict=True):
        if (held := tuple(tensors[name].shape)) != shape:
            yield f"of {name} {held} the first classes are taken, {shape}"


def stored_as(model: ConditionalPixelCNN, layout: Layout | None = None) -> dict[str, Stored]:
    """How each tensor of the network is stored: as the starter code does, but for what the layout says."""
    table = _label_table(model.config.fusion, model.config.label_encoding)
    if layout is None:
        layout = Layout(transposed=(table,) if table is not None and table.startswith("fusion.") else ())
    back = {new: old for old, new in layout.rename.items()}
    if table is not None:
        back.setdefault(table, _LABEL_TABLE_NAME)
    stored = {}
    for name, tensor in model.state_dict().items():
        old = _substitute(name, back)
        if name == old:
            for pattern, replacement in _STARTER_NAMES:
                old = re.sub(pattern, replacement, old)
        shape = tuple(tensor.shape)
        transposed = name in layout.transposed
        if transposed:
            shape = shape[::-1]
        elif "lin_a.weight" in old:
            shape = (shape[0], tensor[0].numel())  # a 1x1 convolution is the starter code's linear layer
        stored[name] = Stored((old,), (shape,), transposed=transposed)
    return stored | dict(layout.stored)


def _is_usual(stored: Stored, usual: Stored) -> bool:
    """Whether an export stores it so without being told; it has the old weight norm's names."""
    names = tuple(
        re.sub(r"\.parametrizations\.weight\.original([01])$", lambda part: f".weight_{'gv'[int(part[1])]}", name)
        for name in stored.names
    )
    return (names, stored.shapes, stored.transposed) == (usual.names, usual.shapes, usual.transposed)


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


def _joined_shapes(origins: Sequence[Origin], tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shapes of what becomes our tensors, of those that are joined as along their first axis."""
    shapes = {}
    for origin in origins:
        first, *others = (tuple(tensors[name].shape) for name in origin.theirs)
        shapes[origin.ours] = (first[0] + sum(shape[0] for shape in others), *first[1:])
    return shapes


def _network(
    path: Path, found: Mapping[str, Shape], config: TrialConfig, image_shape: tuple[int, int, int], nr_classes: int
) -> _Network:
    try:
        config = config.with_settings(_sizes(path, found, config, image_shape))
    except ConfigError as error:
        raise CheckpointError(f"{path}: its shapes are of no network of ours: {error}") from None
    model = build_model(config, image_shape, nr_classes)
    return _Network(model, config, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})


def _sizes(
    path: Path, found: Mapping[str, Shape], config: TrialConfig, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The model's sizes, read off the shapes."""
    weight = "parametrizations.weight.original1"
    first, last = found.get(f"u_init.conv.{weight}"), found.get(f"nin_out.conv.{weight}")
    if first is None or last is None:
        prefixes = {name.partition(".")[0] for name in found}
        way_out = f"; --rename '{prefixes.pop()}.*=*' takes off what all names begin with" if len(prefixes) == 1 else ""
        raise CheckpointError(
            f"{path}: no u_init and nin_out weights in it, so not a network of the starter code; it has "
            f"{tensor_files.some(list(found))}{way_out}"
        )
    blocks = {int(match[1]) for name in found if (match := re.match(r"up_u\.0\.(\d{1,4})\.", name))}
    skip = found.get(f"up_ul.0.0.nin_skip.conv.{weight}")
    if not blocks or skip is None:
        raise CheckpointError(f"{path}: no gated blocks in it (up_layers.0.u_stream.0, ...), so not a whole network")
    if missing := set(range(max(blocks))) - blocks:
        raise CheckpointError(f"{path}: has block {max(blocks)} of up_layers.0.u_stream, but no block {min(missing)}")
    for name, shape in (("u_init", first), ("nin_out", last), ("nin_skip", skip)):
        if len(shape) < 2:
            raise CheckpointError(f"{path}: {name}'s weights are {shape}, expected those of a convolution")
    channels = image_shape[0]
    sizes: dict[str, Any] = {
        "model.nr_filters": first[0],
        "model.nr_resnet": max(blocks) + 1,
        "model.nr_logistic_mix": last[0] // (3 if channels == 1 else 10),
    }
    extra = first[1] - channels - 1
    parts = parse_name(config.model.fusion)
    if "input_concat" in parts and extra > 0:
        sizes["model.fusion_options.input_concat.dim"] = extra
    if "block_concat" in parts:
        sizes["model.fusion_options.block_concat.dim"] = skip[1] // 2 - first[0]
    for part in ("block_film", "bottleneck_film"):
        layers = [shape for name, shape in found.items() if re.match(rf"fusion\.{part}\.mlp\..*\.0\.weight$", name)]
        if layers:
            sizes[f"model.fusion_options.{part}.hidden"] = layers[0][0]
    return sizes
