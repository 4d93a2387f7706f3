"""What classes are called: in metrics of one class or of two, and where a class is named or asked for. Free of torch.

A class has a number, its place among the names of the data set, and a name, any text that can be printed. A metric of
one class is `METRIC.NAME`: what stands after the first dot is the whole name, dots and all. A metric of two classes has
their numbers, since no character is left that could stand between two names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

OF_CLASS = ("val_acc", "fid")
"""The metrics that are also measured of each class."""

DISTANCE = "class_distance"
"""The metric that is measured of each pair of classes."""

MOST_MEASURED = 100
"""Of more classes none has metrics of its own: they would be most of what the tables hold. The predictions have all."""

MOST_PAIRED = 5
"""Of more classes no pair has a distance of its own."""

MOST_DRAWN = 100
"""Of more classes a picture shows the first ones: a picture of a thousand takes memory that trials need."""


def numbers(count: int) -> tuple[str, ...]:
    """The names of classes that have none but their numbers."""
    return tuple(map(str, range(count)))


def name_of(label: int, names: Sequence[str]) -> str:
    """The name of a class, its number where no name is known."""
    return names[label] if 0 <= label < len(names) else str(label)


def in_words(label: int, names: Sequence[str]) -> str:
    """The name of a class within a text: `cat`, and `class 3` where the name is no more than a number."""
    name = name_of(label, names)
    return f"class {name}" if name.isdecimal() else name


def as_composed(text: str) -> str:
    """A text with letters and their accents in one character each where there is one (Unicode's form NFC)."""
    return unicodedata.normalize("NFC", text)


def label_of(given: str, names: Sequence[str]) -> int | None:
    """The number of the class that is called so, else of the class that has this number; None where there is none."""
    if given in names:
        return names.index(given)
    composed = list(map(as_composed, names))
    if as_composed(given) in composed:
        return composed.index(as_composed(given))
    if given.isascii() and given.isdecimal() and int(given) < len(names):
        return int(given)
    return None


def shortened(name: str, most: int) -> str:
    """The name in at most so many characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def of_class(metric: str, name: str) -> str:
    """The column of a metric of one class."""
    return f"{metric}.{name}"


def of_classes(metric: str, values: Iterable[tuple[str, float | None]], count: int) -> dict[str, float]:
    """The columns of a metric by class, of those that have a value; none where there are more than MOST_MEASURED."""
    if count > MOST_MEASURED:
        return {}
    return {of_class(metric, name): value for name, value in values if value is not None}


def class_in(column: str) -> tuple[str, str] | None:
    """The metric and the class's name of a column that is of one class."""
    metric, dot, name = column.partition(".")
    return (metric, name) if dot and name and metric in OF_CLASS else None


def of_pair(one: int, other: int) -> str:
    """The column of the distance of two classes."""
    return f"{DISTANCE}.{one}.{other}"


def pair_in(column: str, names: Sequence[str]) -> str | None:
    """The two classes of a distance's column in words; None of any other column, as of those that sum all pairs up.

    Earlier releases had names in the column. What cannot be read as two numbers of classes is shown as it is.
    """
    metric, dot, pair = column.partition(".")
    if metric != DISTANCE or not dot or "." not in pair:
        return None
    parts = pair.split(".")
    if len(parts) == 2 and all(part.isascii() and part.isdecimal() for part in parts):
        return " and ".join(in_words(int(part), names) for part in parts)
    return pair
