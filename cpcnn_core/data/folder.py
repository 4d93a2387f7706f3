"""`folder`: a folder of image files for each class, perhaps within one for each split, as torchvision's ImageFolder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpcnn_core import fetching
from cpcnn_core.class_names import as_composed
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.listing import Finder, Row, by_split, is_image, numbered, pools, shown
from cpcnn_core.data.split import Dataset
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig

_log = logging.getLogger(__name__)

_EXPECTED = "expected CLASS/*.png in it for each class, or train/CLASS/*.png, val/CLASS/*.png and test/CLASS/*.png"


def load(config: DataConfig) -> Dataset:
    """The folder `data.root`: a folder for each class, or train/ with perhaps val/ and test/, which have those."""
    root = fetching.folder(config.root or "")
    if not root.is_dir():
        raise DataError(f"data.root: {root} is no folder; {_EXPECTED}")
    files = _Files(root)
    splits = _splits(root, files)
    rows = {split: files.of_classes(name, split) for split, name in splits.items()} or {"all": files.of_classes("", "")}
    files.say_what_is_passed_over()
    return assemble(config, pools(root, numbered(rows)))


def _splits(root: Path, files: _Files) -> dict[str, str]:
    """The folder of each split; none where those in `root` are classes. Raise DataError where there are some only."""
    folders = files.entries("")[0]
    found = by_split(root, {name: name for name in folders})
    if "train" in found and files.entries(found["train"])[0]:
        others = sorted(set(folders) - set(found.values()))
        if others:
            _log.warning("%s: %s is no split, and not read", root, ", ".join(others))
        return found
    if found.keys() - {"train"}:
        there = ", ".join(f"{name}/" for name in found.values())
        raise DataError(f"{root}: has {there}, but no train/ that holds a folder for each class; {_EXPECTED}")
    return {}  # a single "train" with images is a class, as cars and planes are


class _Files:
    """Looks into the folders of `root`, and remembers what it passed over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.finder = Finder(root)
        self.passed_over: list[str] = []

    def of_classes(self, within: str, split: str) -> Sequence[Row]:
        """The images of all classes in a folder; of the split `test` they may lie there without a class."""
        folders, files = self.entries(within)
        listed = self.root / within
        alone = [name for name in files if is_image(name)]
        if split == "test" and not folders:
            self._pass_over(within, files)
            rows = [self.finder.row(listed, None, _joined(within, name), None) for name in alone]
        else:
            if alone:
                raise DataError(
                    f"{listed}: {shown(alone[0])} lies in no class's folder, as do {len(alone) - 1} others; {_EXPECTED}"
                )
            self._pass_over(within, files)
            rows = [row for name in folders for row in self._of_class(_joined(within, name), name)]
        if not rows:
            raise DataError(f"{listed}: there are no images; {_EXPECTED}")
        return rows

    def entries(self, within: str) -> tuple[list[str], list[str]]:
        """The names of the folders and of all else in a folder, sorted; hidden ones (`.cache`) are none of them."""
        folder = self.root / within
        try:
            with os.scandir(folder) as found:
                there = [(entry.name, _is_folder(entry)) for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{folder} cannot be read: {error}") from None
        there.sort(key=lambda entry: (as_composed(entry[0]), entry))
        return [name for name, is_folder in there if is_folder], [name for name, is_folder in there if not is_folder]

    def say_what_is_passed_over(self) -> None:
        if self.passed_over:
            _log.warning(
                "%s: files without the ending of an image are not read: %d of them, the first is %s",
                self.root,
                len(self.passed_over),
                shown(self.passed_over[0]),
            )

    def _of_class(self, within: str, label: str) -> Sequence[Row]:
        listed = self.root / within
        folders, files = self.entries(within)
        if folders:
            raise DataError(
                f"{listed}: holds the folder {shown(folders[0])}; expected the images of one class, and no folders. Is "
                f"{shown(label)} a split? Those are called train, val or validation, and test"
            )
        self._pass_over(within, files)
        rows = [self.finder.row(listed, None, _joined(within, name), label) for name in files if is_image(name)]
        if not rows:
            raise DataError(f"{listed}: there are no images of this class; add some, or remove the folder")
        return rows

    def _pass_over(self, within: str, files: Sequence[str]) -> None:
        self.passed_over += [_joined(within, name) for name in files if not is_image(name)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself: whoever reads the file is told


def _joined(within: str, name: str) -> str:
    return f"{within}/{name}" if within else name
