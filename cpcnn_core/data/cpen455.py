"""`cpen455`: the course's folder of image files, with a CSV of names and labels for each split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpcnn_core import fetching
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.listing import Finder, Row, lines, place, pools, shown
from cpcnn_core.data.split import HIDDEN, SPLITS, Dataset
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig

_CLASSES = ("0", "1", "2", "3")
_LABEL = re.compile(r"-?[0-9]+")  # int() takes the digits of every script, and underscores between them
_LONG = 40  # characters of a label that is no number of a class, however many more it has


def load(config: DataConfig) -> Dataset:
    """The folder `data.root`: train.csv, validation.csv and test.csv, and the images that they name."""
    root = fetching.folder(config.root or "")
    if not root.is_dir():
        raise DataError(
            f"data.root: {root} is no folder; expected the one that holds train.csv, validation.csv and test.csv"
        )
    splits = pools(root, {split: _read(root, split) for split in SPLITS})
    missing = sorted(set(range(len(_CLASSES))) - set(splits["train"].labels))
    if missing:
        raise DataError(
            f"{root / 'train.csv'}: no training image has the label {', '.join(map(str, missing))}; cpen455 has the "
            "course's four classes, 0 to 3. For the classes that there are, choose data.name=csv, which reads this "
            "folder too"
        )
    return assemble(config, splits, _CLASSES)


def _read(root: Path, split: str) -> Sequence[Row]:
    """The rows of `root/split.csv`, which has no header. Raise DataError for the first that cannot be used."""
    path = root / f"{split}.csv"
    expected = f"expected rows like {split}/0000001.jpg,0 without a header"
    finder = Finder(root)
    rows: list[Row] = []
    for number, cells in lines(path, expected):
        if len(cells) != 2:
            raise DataError(f"{place(path, number)}: {len(cells)} columns instead of 2; {expected}")
        name, text = cells
        try:
            label = _label(text, split, expected)
        except DataError as error:
            raise DataError(f"{place(path, number)}: {error}") from None
        rows.append(finder.row(path, number, name, label))
    if not rows:
        raise DataError(f"{path} is empty; {expected}")
    return rows


def _label(text: str, split: str, expected: str) -> int | None:
    highest = len(_CLASSES) - 1
    allowed = f"0 to {highest}" + (f", or {HIDDEN} where it is hidden" if split == "test" else "")
    if not _LABEL.fullmatch(text):
        raise DataError(f"label {shown(text)} is no integer; {expected}, labels {allowed}")
    label = int(text) if len(text) <= _LONG else highest + 1
    if label == HIDDEN and split == "test":
        return None
    if label == HIDDEN:
        used = {"train": "training"}.get(split, split)
        raise DataError(f"unlabelled split used for {used} (label {HIDDEN}); expected {allowed}")
    if not 0 <= label <= highest:
        raise DataError(f"label {text if len(text) <= _LONG else shown(text)} is out of range; expected {allowed}")
    return label
