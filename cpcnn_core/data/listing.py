"""The CSV of a split: which image files it names, with which labels, and what is wrong with a row of it."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from cpcnn_core import image_files
from cpcnn_core.data.pool import Pool
from cpcnn_core.data.split import HIDDEN
from cpcnn_core.errors import DataError
from cpcnn_core.files import irregular

_LABEL = re.compile(r"-?[0-9]+")  # int() takes the digits of every script, and underscores between them
_SHOWN = 40  # characters of a cell that an error repeats
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Row:
    """One line of a split's CSV: an image file and its label."""

    csv: Path
    number: int  # 1-based line
    name: str
    path: Path
    label: int

    def stamp(self) -> str:
        """What changes when the file does: its name, its size, and two times, of which one cannot be set back."""
        found = self.stat
        return f"{self.name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"

    @cached_property
    def stat(self) -> os.stat_result:
        with self._naming_what_is_wrong():
            found = self.path.stat()
        if (what := irregular(found.st_mode)) is not None:
            raise self.error(f"{self.name} is {what}; expected an image file at {self.path}")
        return found

    def read(self) -> bytes:
        with self._naming_what_is_wrong():
            return self.path.read_bytes()

    def decode(self, file: bytes) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        try:
            return image_files.decode(file)
        except DataError as error:
            raise self.error(f"{self.name} {error}") from None

    @contextmanager
    def _naming_what_is_wrong(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise self.error(f"{self.name} does not exist; expected an image file at {self.path}") from None
        except OSError as error:
            raise self.error(f"{self.name} cannot be read: {error}") from None

    @property
    def place(self) -> str:
        return f"{self.csv}, row {self.number}"

    def error(self, problem: str) -> DataError:
        return _row_error(self.csv, self.number, problem)


@dataclass(frozen=True)
class ImageFiles:
    """The image files of the rows, as `Images`."""

    root: Path
    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    def stamps(self) -> Iterator[str]:
        yield str(self.root.resolve())
        yield from (row.stamp() for row in self.rows)

    def decode(self, index: int) -> NDArray[np.uint8]:
        row = self.rows[index]
        return row.decode(row.read())


def pool(root: Path, rows: Sequence[Row]) -> Pool:
    """The images of the rows, with their labels and names."""
    return Pool(
        ImageFiles(root, rows),
        tuple(None if row.label == HIDDEN else row.label for row in rows),
        tuple(row.name for row in rows),
        [row.place for row in rows],
    )


def read(root: Path, split: str, nr_classes: int) -> list[Row]:
    """The rows of `root/split.csv`, which has no header. Raise DataError for the first that cannot be used."""
    path = root / f"{split}.csv"
    expected = f"expected rows like {split}/0000001.jpg,0 without a header"
    inside = _Inside(root)
    rows: list[Row] = []
    for number, cells in _lines(path, expected):
        if len(cells) != 2:
            raise _row_error(path, number, f"{len(cells)} columns instead of 2; {expected}")
        name, label = cells
        label_of_row = _label(label, path, number, split, nr_classes, expected)
        shown = _shown(name)
        if not name.isprintable():
            raise _row_error(path, number, f"{shown} has characters that cannot be printed; rename the file")
        if any(part.startswith(_FORMULA_BEGINS) for part in PurePosixPath(name).parts):
            raise _row_error(
                path, number, f"{shown} is a formula to a spreadsheet that opens our CSVs; rename the file"
            )
        if (file := inside.find(name)) is None:
            raise _row_error(path, number, f"{shown} leads out of the data folder; expected a path inside {root}")
        rows.append(Row(path, number, name, file, label_of_row))
    if not rows:
        raise DataError(f"{path} is empty; {expected}")
    return rows


def _lines(path: Path, expected: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV and their numbers, blank lines apart. A byte order mark and CRLF are fine."""
    try:
        if (what := irregular(path.stat().st_mode)) is not None:
            raise DataError(f"{path} is {what}, which is not read as a CSV; {expected}")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                if cells:
                    yield reader.line_num, [cell.strip() for cell in cells]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {expected}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV ({error}); {expected}") from None


def _label(text: str, path: Path, number: int, split: str, nr_classes: int, expected: str) -> int:
    allowed = f"0 to {nr_classes - 1}" + (f", or {HIDDEN} where it is hidden" if split == "test" else "")
    if not _LABEL.fullmatch(text):
        raise _row_error(path, number, f"label {_shown(text)} is no integer; {expected}, labels {allowed}")
    label = int(text) if len(text) <= _SHOWN else nr_classes
    if label == HIDDEN and split == "train":
        raise _row_error(path, number, f"unlabelled split used for training (label {HIDDEN}); expected {allowed}")
    if label == HIDDEN and split == "validation":
        raise _row_error(path, number, f"unlabelled split used for validation (label {HIDDEN}); expected {allowed}")
    if not (0 <= label < nr_classes or label == HIDDEN):
        raise _row_error(
            path, number, f"label {text if len(text) <= _SHOWN else _shown(text)} is out of range; expected {allowed}"
        )
    return label


def _shown(cell: str) -> str:
    """A cell as an error repeats it: quoted, and of a long one the beginning."""
    return repr(cell) if len(cell) <= _SHOWN else f"{cell[:_SHOWN]!r}... ({len(cell)} characters)"


def _row_error(path: Path, number: int, problem: str) -> DataError:
    return DataError(f"{path}, row {number}: {problem}")


class _Inside:
    """Finds files by name within one folder, and refuses every way out of it: absolute names, `..`, symbolic links."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.resolved = root.resolve()
        self.parents: dict[str, bool] = {}  # thousands of names share a few folders

    def find(self, name: str) -> Path | None:
        pure = PurePosixPath(name)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts:
            return None
        path = self.root / name
        parent = os.fspath(path.parent)
        try:
            if parent not in self.parents:
                self.parents[parent] = path.parent.resolve().is_relative_to(self.resolved)
            if not self.parents[parent] or (path.is_symlink() and not path.resolve().is_relative_to(self.resolved)):
                return None
        except (OSError, RuntimeError):
            pass  # a name that is too long, a link to itself: whoever reads the file is told
        return path
