"""The classes of a data set: which there are, what they are called, and which number each has inside."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cpcnn_core.class_names import as_composed
from cpcnn_core.data.split import HIDDEN
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.data.cutting import Chosen
    from cpcnn_core.data.pool import Pool

FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")
"""What makes a cell a formula to a spreadsheet."""

_LONGEST = 80  # characters of a name: it becomes part of columns, labels of figures and tables
_SHOWN = 10  # classes that a message lists

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classes:
    """Names in the order of their numbers, and the number of each label as the source says it."""

    names: tuple[str, ...]
    numbers: Mapping[str | int, int]

    @classmethod
    def of(cls, pools: Mapping[str, Pool], names: Sequence[str] | None) -> Classes:
        """The classes that the labels are: numbers in their order, names in that of the alphabet.

        With `names`, labels are positions in it, or of it. Raise DataError where a label cannot be used.
        """
        _check_known(pools)
        if names is not None:
            names = list(map(as_composed, names))
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise DataError(f"two classes are called {twice!r}; expected a name of its own for each class")
            numbers: dict[str | int, int] = dict(enumerate(range(len(names))))
            found = cls(tuple(names), numbers | {name: number for number, name in enumerate(names)})
        else:
            labels = {label for pool in pools.values() for label in pool.labels if label is not None}
            in_order = sorted(labels, key=lambda label: (isinstance(label, str), label))
            found = cls(tuple(map(str, in_order)), {label: number for number, label in enumerate(in_order)})
        for pool in pools.values():
            found._check_labels(pool)
        if len(found.names) < 2:
            raise DataError(
                f"all images are of the class {found.names[0]!r}; there is nothing to tell apart with fewer than two "
                "classes: give each image the label of its class"
            )
        if names is None and found.numbered() and not found.canonical():
            _log.warning(
                "labels are %s: the classes keep these numbers as names, and are 0 to %d where only positions count",
                shown(found.names),
                len(found.names) - 1,
            )
        return found

    def index(self, pool: Pool, at: int) -> int:
        """The number of an image's class, HIDDEN where it is not told."""
        label = pool.labels[at]
        return HIDDEN if label is None else self.numbers[label]

    def check(self, splits: Mapping[str, Chosen]) -> None:
        """Raise DataError where a class has no training image: nothing could be learnt of it."""
        trained = {self.index(pool, at) for pool, at in splits["train"]}
        for split, chosen in splits.items():
            for pool, at in chosen:
                number = self.index(pool, at)
                if number != HIDDEN and number not in trained:
                    raise DataError(
                        f"{pool.place(at)}: {pool.names[at]} of the {split} split is of class {self.names[number]!r}, "
                        "of which there is no training image; add some, or leave the class out"
                    )
        missing = [name for number, name in enumerate(self.names) if number not in trained]
        if missing:
            raise DataError(
                f"there are no training images of {len(missing)} of the {len(self.names)} classes ({shown(missing)}); "
                "add some, or make a data set of the other classes alone"
            )

    def numbered(self) -> bool:
        """Whether labels are numbers."""
        return all(isinstance(label, int) for label in self.numbers)

    def canonical(self) -> bool:
        """Whether the names are nothing but the numbers of the classes."""
        return self.names == tuple(map(str, range(len(self.names))))

    def identity(self) -> Iterable[str]:
        """What names add to a digest: nothing where they only number the classes."""
        return () if self.canonical() else tuple(f"class {name}" for name in self.names)

    def _check_labels(self, pool: Pool) -> None:
        for label in dict.fromkeys(pool.labels):  # each once: there may be a million of them
            if label is None:
                continue
            at = pool.labels.index(label)
            if label not in self.numbers:
                raise DataError(
                    f"{pool.place(at)}: label {label!r} of {pool.names[at]} is none of the {len(self.names)} classes "
                    f"({shown(self.names)})"
                )
            if (problem := _unusable(self.names[self.numbers[label]])) is not None:
                raise DataError(f"{pool.place(at)}: the class {label!r} {problem}; call it otherwise")


def _check_known(pools: Mapping[str, Pool]) -> None:
    for split, pool in pools.items():
        if split == "test" or None not in pool.labels:
            continue
        at = pool.labels.index(None)
        used = {"train": "training", "validation": "validation"}.get(split, "training and validation")
        raise DataError(
            f"{pool.place(at)}: unlabelled image used for {used} ({pool.names[at]}); give it a label, or put it into "
            "the test split, where labels may be hidden"
        )


def _unusable(name: str) -> str | None:
    if not name.strip() or not name.isprintable():
        return "has characters that cannot be printed, or none"
    if name.startswith(FORMULA_BEGINS):
        return "is a formula to a spreadsheet that opens our CSVs"
    if len(name) > _LONGEST:
        return f"has more than {_LONGEST} characters"
    return None


def shown(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
