"""What a source of images hands over: images where they are kept, and the class and the name of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpcnn_core.class_names import as_composed
from cpcnn_core.errors import DataError

# As str() writes it: "01" is a name, or two classes would become one. So is what no array of integers holds.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


class Images(Protocol):
    """Images where they are kept, decoded one at a time, by several threads at once perhaps."""

    def __len__(self) -> int: ...

    def stamps(self) -> Iterable[str]:
        """Texts of which one changes when the content of an image does, or their order."""
        ...

    def decode(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3), or (H, W) where it is grey. Raise DataError, which names the file and row."""
        ...


@dataclass(frozen=True)
class Pool:
    """Images that a source keeps together: one of its splits, or all it has."""

    images: Images
    labels: tuple[str | int | None, ...]  # the class of each image as the source says it, None where it is hidden
    names: tuple[str, ...]  # "train/cat/0001.png": distinct, and the same wherever the data lies
    places: Sequence[str] = ()  # where the source says the label, for errors: "/data/train.csv, row 3"

    def __post_init__(self) -> None:
        # Classes that look the same are the same: there are file systems that write an umlaut as two characters.
        object.__setattr__(self, "labels", tuple(map(composed, self.labels)))
        if not len(self.images) == len(self.labels) == len(self.names):
            raise DataError(
                f"{len(self.images)} images, {len(self.labels)} labels and {len(self.names)} names: "
                "a pool has as many of each"
            )

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        """Where an error about an image sends its reader."""
        return self.places[index] if self.places else self.names[index]


def composed(label: str | int | None) -> str | int | None:
    """The label, as `as_composed` has it where it is a name."""
    return as_composed(label) if isinstance(label, str) else label


def as_numbers(texts: Iterable[str | None]) -> bool:
    """Whether labels that are written as text are whole numbers, all of them; those that are hidden say nothing."""
    return all(text is None or _NUMBER.fullmatch(text) for text in texts)
