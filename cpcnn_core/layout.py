"""How a submission's file stores the tensors of a network, as far as the starter code stores them otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from cpcnn_core.errors import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """Where one of our tensors lies in a file.

    Tensors of several names are joined along `dim`. A `transposed` one has a row per class, as nn.Embedding has, where
    ours is a linear layer on the one-hot label.
    """

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    dim: int = 0
    transposed: bool = False

    @property
    def joined(self) -> Shape:
        """The shape of all parts joined."""
        whole = list(self.shapes[0])
        whole[self.dim] = sum(shape[self.dim] for shape in self.shapes)
        return tuple(whole)

    def as_ours(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """Our tensor of this shape, from the file's of `shapes`."""
        whole = torch.cat(list(parts), dim=self.dim)
        return (whole.flatten(1).T if self.transposed else whole).reshape(shape)

    def as_theirs(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The file's tensors by name, from ours."""
        whole = (tensor.T if self.transposed else tensor).reshape(self.joined)
        sizes = [shape[self.dim] for shape in self.shapes]
        yield from zip(self.names, (part.contiguous() for part in whole.split(sizes, dim=self.dim)), strict=True)


def fitted(names: Sequence[str], shapes: Sequence[Shape], wanted: Shape, *, table: bool) -> Stored | None:
    """How tensors of these names and shapes make one of the shape `wanted`; None where they do not.

    A 1x1 convolution may be stored as a linear layer. A `table`, a linear layer on the label, may have a row per class;
    where it is square, a name such as `embedding.weight` or `label_emb` says that it has.
    """
    found = []
    for dim in range(len(shapes[0]) if len(shapes) > 1 else 1):
        stored = Stored(tuple(names), tuple(shapes), dim)
        if not _joinable(shapes, dim):
            continue
        if stored.joined == wanted or (stored.joined == wanted[:2] and math.prod(wanted[2:]) == 1):
            found.append(stored)
        rows, rest = stored.joined[0], math.prod(stored.joined[1:])
        if table and len(stored.joined) > 1 and (rest, rows) == wanted:
            found.append(Stored(stored.names, stored.shapes, dim, transposed=True))
    named = "emb" in names[0].lower()
    return next((stored for stored in found if stored.transposed is named), found[0] if found else None)


def _joinable(shapes: Sequence[Shape], dim: int) -> bool:
    """Whether all shapes are the same but for their size along `dim`."""
    return len({(*shape[:dim], -1, *shape[dim + 1 :]) for shape in shapes}) == 1 and len(shapes[0]) > dim


@dataclass(frozen=True)
class Layout:
    """What an import found, so that an export can give it back. Tensors of ours that it leaves out are as usual."""

    stored: Mapping[str, Stored] = field(default_factory=dict)  # by our names
    # Notes of earlier releases have these two in its place.
    rename: Mapping[str, str] = field(default_factory=dict)  # the file's name, or dotted prefix, -> ours
    transposed: tuple[str, ...] = ()  # our names of the tables that the file holds with a row per class

    def as_notes(self) -> dict[str, Any]:
        """A JSON-ready form that `of_notes` reads back."""
        tensors = {
            name: {
                "names": list(at.names),
                "shapes": [list(shape) for shape in at.shapes],
                "dim": at.dim,
                "transposed": at.transposed,
            }
            for name, at in self.stored.items()
        }
        return {"stored": tensors}

    @classmethod
    def of_notes(cls, notes: Mapping[str, Any], origin: object) -> Layout | None:
        """The layout in the notes of the weights file `origin`; None where the weights were not imported.

        Raise CheckpointError where they are broken.
        """
        if "stored" not in notes and "rename" not in notes:
            return None
        try:
            read = _Notes.model_validate(notes)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise CheckpointError(
                f"{origin}: its header is broken (notes.{'.'.join(map(str, first['loc']))}: {first['msg'].lower()})"
            ) from None
        stored = {
            name: Stored(tuple(at.names), tuple(map(tuple, at.shapes)), at.dim, at.transposed)
            for name, at in read.stored.items()
        }
        return cls(stored, read.rename, tuple(read.transposed))


_Size = Annotated[int, Field(ge=0)]


class _StoredNotes(BaseModel):
    model_config = ConfigDict(strict=True)

    names: Annotated[list[str], Field(min_length=1)]
    shapes: list[list[_Size]]
    dim: _Size
    transposed: bool


class _Notes(BaseModel):
    model_config = ConfigDict(strict=True)

    stored: dict[str, _StoredNotes] = {}
    rename: dict[str, str] = {}
    transposed: list[str] = []
