"""`torchvision`: well-known data sets, from the files that torchvision's classes use.

They are downloaded where they are missing. torchvision itself is not needed: docs/decisions.md says why.
"""

from __future__ import annotations

import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cpcnn_core import cache, fetching, places
from cpcnn_core.data.array_files import damaged, file
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.pool import Pool
from cpcnn_core.data.published import PUBLISHED, Download, Published
from cpcnn_core.downloading import DownloadError, download, md5_of
from cpcnn_core.errors import DataError
from cpcnn_core.files import in_turn, write_atomically
from cpcnn_core.suggest import nearest

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig
    from cpcnn_core.data.split import Dataset

_SPLITS = ("train", "test")
_FORMAT = "1"  # of what is kept of labels; another number where the same files would give others


def load(config: DataConfig) -> Dataset:
    """The data set `data.dataset`, from below the folder `data.root`."""
    name = _name(config.dataset)
    published = PUBLISHED[name]
    root = fetching.folder(config.root or "")
    _obtain(name, published, root, may_download=not places.is_url(config.root or ""))
    pools = {split: _pool(name, published, root, split) for split in _SPLITS}
    return assemble(config, pools, published.form.names(root))


def _name(name: str | None) -> str:
    if name is None:
        raise DataError(f"data.dataset: torchvision needs the name of a data set, one of {', '.join(PUBLISHED)}")
    if name == "EMNIST":
        splits = ", ".join(known for known in PUBLISHED if known.startswith("EMNIST-"))
        raise DataError(f"data.dataset: EMNIST has several divisions into classes; choose one of {splits}")
    if name not in PUBLISHED:
        raise DataError(
            f"data.dataset: {name!r} is no data set of this source{nearest(name, PUBLISHED)}; "
            f"there are {', '.join(PUBLISHED)}"
        )
    return name


@dataclass
class _Stored:
    """The images of one split as `Images`. They are read when one is decoded, which is rare, since they are cached."""

    name: str
    published: Published
    root: Path
    split: str
    size: int
    _pixels: NDArray[np.uint8] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return self.size

    def stamps(self) -> Iterator[str]:
        return _stamps(self.name, self.published, self.root, self.split)

    def decode(self, index: int) -> NDArray[np.uint8]:
        """(H, W) or (H, W, 3)."""
        with self._lock:  # or several threads would read all of it
            if self._pixels is None:
                self._pixels = self._read()
        pixels: NDArray[np.uint8] = self._pixels[index]
        return pixels

    def _read(self) -> NDArray[np.uint8]:
        pixels = self.published.form.pixels(self.root, self.split)
        if len(pixels) != self.size:
            files = ", ".join(map(str, _files(self.published, self.root, self.split)))
            raise DataError(
                f"{files}: {len(pixels)} images and {self.size} labels; delete these files, and they are "
                "downloaded again"
            )
        return pixels


def _pool(name: str, published: Published, root: Path, split: str) -> Pool:
    """A split. Its labels are kept once per machine, so that a later start reads none of the large files."""

    def make() -> dict[str, torch.Tensor]:
        for file_name in published.form.files(split):
            expected = published.md5.get(file_name)
            if expected is not None and (found := md5_of(root / file_name)) != expected:
                raise damaged(root / file_name, f"its MD5 is {found}, expected {expected}")
        return {"labels": torch.from_numpy(published.form.labels(root, split))}

    key = cache.digest([_FORMAT, *_stamps(name, published, root, split)])
    labels = cache.tensors("labels", key, make)["labels"].tolist()
    images = _Stored(name, published, root, split, len(labels))
    return Pool(images, tuple(labels), tuple(f"{split}/{index:07d}" for index in range(len(labels))))


def _stamps(name: str, published: Published, root: Path, split: str) -> Iterator[str]:
    yield f"{name} {split} {root.resolve()}"
    for path in _files(published, root, split):
        found = path.stat()
        yield f"{path.name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _files(published: Published, root: Path, split: str) -> Sequence[Path]:
    return [path for name in published.form.files(split) if (path := file(root, name)) is not None]


def _obtain(name: str, published: Published, root: Path, *, may_download: bool) -> None:
    """Have all files there. Raise DataError, which says which files to put where."""
    needed = [wanted for split in _SPLITS for wanted in published.form.files(split)]
    missing = list(dict.fromkeys(wanted for wanted in needed if file(root, wanted) is None))
    if not missing:
        return
    if not may_download:
        raise DataError(f"data.root: {name} is not whole at this URL: there is no {', '.join(missing)}")
    wanted = [each for each in published.downloads if _gives(each, missing)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with in_turn(root / f".{name}.lock"):
            for each in wanted:
                if _gives(each, [wanted for wanted in needed if file(root, wanted) is None]):
                    _bring(each, root)
    except DownloadError as error:
        listed = ", ".join(f"{each.path} from {each.urls[0]}" for each in wanted if not (root / each.path).exists())
        raise DataError(
            f"data.root: {root} does not hold {name}, and it cannot be downloaded ({error}); on a machine with a "
            f"network fetch {listed}, and put it there under that path"
        ) from None
    except OSError as error:
        raise DataError(f"data.root: {name} cannot be put into {root}: {error}") from None


def _gives(each: Download, missing: Sequence[str]) -> bool:
    given = each.members or {each.path: ""}
    return any(path.removesuffix(".gz") in missing for path in given)


def _bring(each: Download, root: Path) -> None:
    """Download it where it is not there yet, and take out of an archive what is read."""
    path = root / each.path
    there = path.exists()
    download(each.urls, path, each.md5)
    if not each.members:
        return
    if there and (found := md5_of(path)) != each.md5:
        raise damaged(path, f"its MD5 is {found}, expected {each.md5}")
    with _opened(path) as read:
        for target, member in each.members.items():
            with read(member) as source:
                write_atomically(root / target, partial(shutil.copyfileobj, source))


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """What opens a member of an archive by its name."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as zipped:
                yield zipped.open
            return
        with tarfile.open(path) as tarred:
            yield lambda member: _file_in(tarred, member)
    except (KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from None


def _file_in(tarred: tarfile.TarFile, member: str) -> IO[bytes]:
    found = tarred.extractfile(member)
    if found is None:
        raise KeyError(f"{member} is no file")
    return found
