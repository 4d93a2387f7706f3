"""`csv`: image files that CSVs list, with the class of each: one CSV for each split, or one that is split here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpcnn_core import fetching
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.listing import Finder, Row, by_split, is_image, lines, numbered, place, pools, shown
from cpcnn_core.data.split import HIDDEN, Dataset
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig

_ALL = "images.csv"
_EXPECTED = "expected rows like cats/0001.png,cat, or a header that names the columns"
_HIDES = frozenset({"", str(HIDDEN)})  # labels of images whose class is not told


def load(config: DataConfig) -> Dataset:
    """The folder `data.root`: train.csv with perhaps validation.csv and test.csv, or images.csv."""
    root = fetching.folder(config.root or "")
    if not root.is_dir():
        raise DataError(f"data.root: {root} is no folder; expected the one that holds train.csv or {_ALL}")
    rows = {split: _read(config, root, file, split) for split, file in _files(root).items()}
    return assemble(config, pools(root, numbered(rows)))


def _files(root: Path) -> Mapping[str, str]:
    """The CSV of each split, or of `all`. Raise DataError where it is not clear which ones are meant."""
    there = {path.name for path in root.iterdir() if path.name.lower().endswith(".csv")}
    found = by_split(root, {name[: -len(".csv")]: name for name in sorted(there)})
    if _ALL in there and found:
        raise DataError(
            f"{root}: has {_ALL} and {', '.join(found.values())}; expected {_ALL} alone, which is split here, or "
            "train.csv with the splits that you made"
        )
    if _ALL in there:
        return {"all": _ALL}
    if "train" not in found:
        others = f"; there are {', '.join(sorted(there))}" if there else ""
        raise DataError(
            f"{root}: has no train.csv, nor {_ALL} with all images; expected one of them, with rows like "
            f"cats/0001.png,cat{others}"
        )
    return found


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # which are none here


@dataclass(frozen=True)
class _Columns:
    """What the cells of a row are."""

    count: int
    image: int
    label: int | None  # None where no class is told


def _read(config: DataConfig, root: Path, file: str, split: str) -> Sequence[Row]:
    path = root / file
    found = lines(path, _EXPECTED)
    first = next(found, None)
    if first is None:
        raise DataError(f"{path} is empty; {_EXPECTED}")
    _check_separator(path, *first)
    asked = (config.image_column, config.label_column)
    if any(asked) or _is_header(root, first[1]):
        columns = _by_header(path, first[1], asked, split)
    else:
        columns = _by_position(path, first, split)
        found = itertools.chain([first], found)
    finder = Finder(root)
    rows = []
    for number, cells in found:
        if len(cells) != columns.count:
            raise DataError(f"{place(path, number)}: {len(cells)} columns instead of {columns.count}; {_EXPECTED}")
        label = None if columns.label is None else cells[columns.label]
        hidden = label is None or label in _HIDES
        rows.append(finder.row(path, number, cells[columns.image], None if hidden else label))
    if not rows:
        raise DataError(f"{path} has a header and no rows; {_EXPECTED}")
    return rows


def _check_separator(path: Path, number: int, cells: Sequence[str]) -> None:
    """Raise DataError for one cell that something else than a comma divides, as some languages' spreadsheets do it."""
    other = next((name for sign, name in _SEPARATORS.items() if sign in cells[0]), None)
    if len(cells) == 1 and other is not None and not is_image(cells[0]):
        raise DataError(f"{place(path, number)}: {other} stand between the columns; write commas")


def _is_header(root: Path, cells: Sequence[str]) -> bool:
    """Whether the first line names columns: nothing in it is, or is called like, an image file."""
    return not any(is_image(cell) or (cell and cell.isprintable() and (root / cell[:255]).is_file()) for cell in cells)


def _by_position(path: Path, first: tuple[int, list[str]], split: str) -> _Columns:
    number, cells = first
    if len(cells) == 2:
        return _Columns(2, 0, 1)
    if len(cells) == 1 and split == "test":
        return _Columns(1, 0, None)
    raise DataError(f"{place(path, number)}: {len(cells)} columns instead of 2; {_EXPECTED}")


def _by_header(path: Path, header: Sequence[str], asked: tuple[str | None, str | None], split: str) -> _Columns:
    """The columns that are asked for; of two, images and classes in this order. Test images may lack classes."""
    told = f"its header names {', '.join(map(shown, header))}"
    if len(set(header)) < len(header):
        raise DataError(f"{path}: {told}; expected a name of its own for each column")
    image, label = asked
    rest = [name for name in header if name not in asked] if len(header) <= 2 else []
    if image is None and rest:
        image = rest.pop(0)
    if label is None and rest:
        label = rest.pop(0)
    if image is None or (label is None and not (split == "test" and len(header) == 1)):
        raise DataError(
            f"{path}: {told}; say which of them has the image files and which the classes, with data.image_column and "
            "data.label_column"
        )
    for setting, column in (("image_column", image), ("label_column", label)):
        if column not in header and not (setting == "label_column" and split == "test"):
            raise DataError(f"data.{setting}: {path} has no column {shown(column or '')}; {told}")
    return _Columns(len(header), header.index(image), header.index(label) if label in header else None)
