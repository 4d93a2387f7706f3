"""Image files as a data set names them, a row each, and what is wrong with a name, a file, or one named twice."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpcnn_core import image_files
from cpcnn_core.data.classes import FORMULA_BEGINS
from cpcnn_core.data.pool import Pool, as_numbers, composed
from cpcnn_core.errors import DataError
from cpcnn_core.files import irregular

_SHOWN = 40  # characters of a cell that an error repeats
_ENDINGS = re.compile(r".*\.(jpg|jpeg|jpe|jfif|png|bmp|dib|gif|ppm|pgm|pbm|pnm|tif|tiff|webp)", re.IGNORECASE)
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


class Seen(NamedTuple):
    """What is kept of a look at a file: all that the system says would take three times the memory."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> Seen:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(slots=True, eq=False)  # not frozen: of thousands, setting each field by the detour takes longest
class Row:
    """An image file and its label: a line of a CSV, or a file of a folder."""

    listed: Path  # the CSV or the folder
    number: int | None  # 1-based line of the CSV
    name: str
    file: str  # its path
    label: str | int | None  # None where it is hidden
    looked_at: Seen | None = None  # None where it could not be, is a link, or no file

    def stamp(self) -> str:
        """What changes when the file does: its name, its size, and two times, of which one cannot be set back."""
        found = self.seen
        return f"{self.name} {found.size} {found.modified} {found.changed}"

    @property
    def seen(self) -> Seen:
        """What is there. Raise DataError where that is nothing, or no file."""
        if self.looked_at is None:
            with self._naming_what_is_wrong():
                found = os.stat(self.file)  # noqa: PTH116 - a Path of each takes longest
            if (what := irregular(found.st_mode)) is not None:
                raise self.error(f"{self.name} is {what}; expected an image file at {self.file}")
            self.looked_at = Seen.of(found)
        return self.looked_at

    def read(self) -> bytes:
        with self._naming_what_is_wrong(), open(self.file, "rb") as stream:  # noqa: PTH123 - as above
            return stream.read()

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
            raise self.error(f"{self.name} does not exist; expected an image file at {self.file}") from None
        except OSError as error:
            raise self.error(f"{self.name} cannot be read: {error}") from None

    @property
    def place(self) -> str:
        """Where it is listed, as errors begin."""
        return place(self.listed, self.number)

    def error(self, problem: str) -> DataError:
        return DataError(f"{self.place}: {problem}")


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


def pools(root: Path, splits: Mapping[str, Sequence[Row]]) -> dict[str, Pool]:
    """The images of the rows by split, with their labels and names. Raise DataError where a file is named twice."""
    _check_each_once(splits)
    return {
        split: Pool(
            ImageFiles(root, rows),
            tuple(row.label for row in rows),
            tuple(row.name for row in rows),
            [row.place for row in rows],
        )
        for split, rows in splits.items()
    }


def numbered(splits: Mapping[str, Sequence[Row]]) -> Mapping[str, Sequence[Row]]:
    """The same rows, with numbers for labels where all of them are written as such."""
    labelled = [row for rows in splits.values() for row in rows if row.label is not None]
    if as_numbers({str(row.label) for row in labelled}):
        for row in labelled:
            row.label = int(str(row.label))
    return splits


def by_split(root: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Those of the files or folders that are splits, by the split; the keys are what they are called.

    Raise DataError where two are the same split.
    """
    found: dict[str, str] = {}
    for called, name in names.items():
        split = _SPLITS.get(called.lower())
        if split is not None and found.setdefault(split, name) != name:
            raise DataError(f"{root}: has {found[split]} and {name}; expected one of them, for the {split} split")
    return found


def is_image(name: str) -> bool:
    """Whether a file is called as one of the formats that are read."""
    return _ENDINGS.fullmatch(name) is not None


def _check_each_once(splits: Mapping[str, Sequence[Row]]) -> None:
    """Raise DataError where a split names a file twice, or two splits disagree about its label.

    Whatever the names are: `a.png`, `./a.png` and a link to it are one file.
    """
    seen: dict[tuple[int, int], tuple[str, Row]] = {}
    for split, rows in splits.items():
        for row in rows:
            found = row.seen
            split_before, before = seen.setdefault((found.device, found.inode), (split, row))
            if before is row:
                continue
            name = "" if before.name == row.name else f" as {before.name}"
            line = "" if before.number is None else f" in row {before.number}"
            if split_before == split:
                raise row.error(f"{row.name} is{line} already{name}; expected each image once")
            if row.label != before.label and None not in {row.label, before.label}:
                of = "" if before.number is None else f" of {before.listed}"
                raise row.error(
                    f"{row.name} has label {row.label}, and label {before.label}{line}{of}{name}; expected one label "
                    "for one file"
                )


def lines(path: Path, expected: str) -> Iterator[tuple[int, list[str]]]:
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


class Finder:
    """Finds image files by name within one folder, and refuses names that would do harm.

    That is every way out of the folder (absolute names, `..`, symbolic links), what cannot be printed, and what a
    spreadsheet would run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.within = os.fspath(root)
        self.resolved = root.resolve()
        self.parents: dict[str, bool] = {}  # thousands of names share a few folders

    def row(self, listed: Path, number: int | None, name: str, label: str | int | None) -> Row:
        """The row of a file. Raise DataError where its name cannot be taken."""
        parent, _, last = name.rpartition("/")
        if not name.isprintable():
            problem = "has characters that cannot be printed; rename the file"
        elif last.startswith(FORMULA_BEGINS) or any(part.startswith(FORMULA_BEGINS) for part in parent.split("/")):
            problem = "is a formula to a spreadsheet that opens our CSVs; rename the file"
        else:
            file = f"{self.within}/{name}"  # a Path of each of thousands would take longer than all else
            looked_at, inside = self._look(file, name, parent, last)
            if inside:
                return Row(listed, number, name, file, composed(label), looked_at)
            problem = f"leads out of the data folder; expected a path inside {self.root}"
        raise DataError(f"{place(listed, number)}: {shown(name)} {problem}")

    def _look(self, file: str, name: str, parent: str, last: str) -> tuple[Seen | None, bool]:
        """What is there, unless it is no file or cannot be looked at, and whether it lies in the folder."""
        try:
            if parent not in self.parents:
                self.parents[parent] = self._holds(parent)
            if not self.parents[parent] or name.startswith("/") or last in {"", ".", ".."}:
                return None, False
            found = os.lstat(file)
            if S_ISREG(found.st_mode):
                return Seen.of(found), True
            return None, not S_ISLNK(found.st_mode) or Path(file).resolve().is_relative_to(self.resolved)
        except (OSError, RuntimeError):
            return None, True  # a name that is too long, a link to itself: whoever reads the file is told

    def _holds(self, folder: str) -> bool:
        if folder.startswith("/") or ".." in folder.split("/"):
            return False
        return (self.root / folder).resolve().is_relative_to(self.resolved)


def place(listed: Path, number: int | None) -> str:
    """A line of a CSV, or a folder."""
    return str(listed) if number is None else f"{listed}, row {number}"


def shown(cell: str) -> str:
    """A cell as an error repeats it: quoted, and of a long one the beginning."""
    return repr(cell) if len(cell) <= _SHOWN else f"{cell[:_SHOWN]!r}... ({len(cell)} characters)"
