"""`cpen455`: the course's folder of image files, with a CSV of names and labels for each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpcnn_core import fetching
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.listing import Row, pool, read
from cpcnn_core.data.split import HIDDEN, SPLITS, Dataset
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig

_CLASSES = ("0", "1", "2", "3")


def load(config: DataConfig) -> Dataset:
    """The folder `data.root`: train.csv, validation.csv and test.csv, and the images that they name."""
    root = fetching.folder(config.root or "")
    if not root.is_dir():
        raise DataError(
            f"data.root: {root} is no folder; expected the one that holds train.csv, validation.csv and test.csv"
        )
    rows = {split: read(root, split, len(_CLASSES)) for split in SPLITS}
    _check_each_once(rows)
    _check_classes(root, rows["train"])
    return assemble(config, {split: pool(root, listed) for split, listed in rows.items()}, _CLASSES)


def _check_classes(root: Path, rows: Sequence[Row]) -> None:
    """Raise DataError where this is no data of the course, of whose four classes each has images."""
    missing = sorted(set(range(len(_CLASSES))) - {row.label for row in rows})
    if missing:
        raise DataError(
            f"{root / 'train.csv'}: no training image has the label {', '.join(map(str, missing))}; cpen455 has the "
            "course's four classes, 0 to 3. For the classes that there are, choose data.name=csv, which reads this "
            "folder too"
        )


def _check_each_once(splits: Mapping[str, Sequence[Row]]) -> None:
    """Raise DataError where a split names a file twice, or two splits disagree about its label.

    Whatever the names are: `a.png`, `./a.png` and a link to it are one file.
    """
    seen: dict[tuple[int, int], Row] = {}
    for rows in splits.values():
        for row in rows:
            found = row.stat
            before = seen.setdefault((found.st_dev, found.st_ino), row)
            if before is row:
                continue
            name = "" if before.name == row.name else f" as {before.name}"
            if before.csv == row.csv:
                raise row.error(f"{row.name} is in row {before.number} already{name}; expected each image once")
            if row.label != before.label and HIDDEN not in {row.label, before.label}:
                raise row.error(
                    f"{row.name} has label {row.label}, and label {before.label} in row {before.number} of "
                    f"{before.csv}{name}; expected one label for one file"
                )
