"""Where a sweep's folder lies: on a disk that this machine sees, or behind a URL. One interface, chosen once.

Files are named by where they lie in the folder, as `trials/0123456789ab.parquet`. What must be a file on this machine
lies under the same name in the local mirror, which on disk is the folder itself.
"""

from __future__ import annotations

import dataclasses
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from orchestrator.records import location
from orchestrator.records.errors import StoreError
from orchestrator.records.location import Folder, RemoteError, RemotePath, write_atomically

Fill: TypeAlias = Callable[[BinaryIO], object]
"""Writes the content of a file."""

Fence: TypeAlias = Callable[[], None]
"""Called before each write; raises where somebody else has taken over."""

_WHOLE_BYTES = 32 * 2**20  # a file behind a URL up to which one request for all of it beats several for its parts
_EXPECTED = "expected"  # stands for the content of a file that is remembered whatever becomes of it
_REMEMBERED_BYTES = 64 * 2**20  # of such files that are kept in memory while they do not change


class Place(ABC):
    """A sweep's folder and how files get into it and out of it."""

    is_remote: bool
    readers: int  # threads that read at once
    way_out: str = ""  # where it cannot be written to

    def __init__(self, folder: Folder, fence: Fence | None = None) -> None:
        self.fence = fence
        self.local_mirror = location.local_mirror(folder)

    @property
    @abstractmethod
    def folder(self) -> Folder:
        """The folder itself."""

    def path(self, name: str) -> Folder:
        """Where the file lies."""
        return self.folder / name

    def write(self, name: str, fill: Fill) -> None:
        """Have `fill` write the file, whole or not at all. Raise StoreError."""
        self._write(self.path(name), fill)

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; one that is not there is no error."""
        location.remove(self.path(name) for name in names)

    @abstractmethod
    def retrying(self) -> Place:
        """The same for a run that has work to lose: what fails behind a URL is tried again for a while."""

    @abstractmethod
    def check(self) -> None:
        """See that it can be written to, beyond what making a folder on this machine shows. Raise StoreError."""

    @abstractmethod
    def write_soon(self, name: str, fill: Fill) -> None:
        """The same as `write` for what is written again soon: it is not tried again. Raise StoreError."""

    @abstractmethod
    def write_as_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Have `write` make a file that it can only write under a path of this machine. Raise StoreError."""

    @abstractmethod
    def move(self, name: str, to: str) -> None:
        """Give a file another name."""

    @abstractmethod
    def tables(self, folder: str) -> dict[str, str | None]:
        """The Parquet files in a folder, in order, each with what changes with its content, where that costs nothing.

        Raise StoreError out of reach.
        """

    @abstractmethod
    def may_have(self, name: str, listed: Container[str]) -> bool:
        """Whether to look for a file, of a folder that was `listed` a moment ago."""

    @abstractmethod
    def opened(
        self, name: str, tag: str | None = None, *, may_be_large: bool = False
    ) -> AbstractContextManager[pq.ParquetFile]:
        """A Parquet file to read from; with a `tag` of `tables` its content is remembered."""

    @abstractmethod
    def rows(self, name: str, filters: Sequence[tuple[str, str, str]]) -> pa.Table:
        """Those rows of a Parquet file that its own statistics lead to."""

    @abstractmethod
    def schema(self, name: str, tag: str | None = None) -> pa.Schema:
        """The columns of a Parquet file."""

    @abstractmethod
    def expect(self, names: Iterable[str]) -> None:
        """Fetch files all at once that will be opened. Raise RemoteError."""

    @abstractmethod
    def fetch_near(self, name: str) -> None:
        """Bring a file into the local mirror, unless it is there. Raise RemoteError."""

    @abstractmethod
    def send_near(self, name: str) -> None:
        """Put a file of the local mirror where the folder is. Raise RemoteError."""

    @abstractmethod
    def modified(self, name: str) -> float:
        """When a file was written last, by the clock of where it lies. Raise OSError."""

    def _write(self, path: Folder, fill: Fill) -> None:
        if self.fence is not None:
            self.fence()
        try:
            write_atomically(path, fill)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


class OnDisk(Place):
    """A folder on a disk."""

    is_remote = False
    readers = 8  # reading thousands of small files waits for the disk, not for the processor

    def __init__(self, folder: Path, fence: Fence | None = None) -> None:
        super().__init__(folder, fence)
        self._folder = folder

    @property
    def folder(self) -> Path:
        return self._folder

    def retrying(self) -> OnDisk:
        return self

    def check(self) -> None:
        pass  # the local mirror is all there is

    def write_soon(self, name: str, fill: Fill) -> None:
        self.write(name, fill)

    def write_as_file(self, name: str, write: Callable[[Path], object]) -> None:
        write(self.folder / name)

    def move(self, name: str, to: str) -> None:
        (self.folder / to).parent.mkdir(exist_ok=True)
        (self.folder / name).replace(self.folder / to)

    def tables(self, folder: str) -> dict[str, str | None]:
        return {f"{folder}/{file.name}": None for file in sorted((self.folder / folder).glob("*.parquet"))}

    def may_have(self, name: str, listed: Container[str]) -> bool:
        return True  # it may have come since, and looking costs nothing

    @contextmanager
    def opened(self, name: str, tag: str | None = None, *, may_be_large: bool = False) -> Generator[pq.ParquetFile]:
        # Not read_table(path): it goes through the dataset reader, which costs several times as much for a small file.
        with pq.ParquetFile(self.folder / name) as file:
            yield file

    def rows(self, name: str, filters: Sequence[tuple[str, str, str]]) -> pa.Table:
        return pq.read_table(self.folder / name, filters=list(filters))

    def schema(self, name: str, tag: str | None = None) -> pa.Schema:
        return pq.read_schema(self.folder / name)

    def expect(self, names: Iterable[str]) -> None:
        pass

    def fetch_near(self, name: str) -> None:
        pass

    def send_near(self, name: str) -> None:
        pass

    def modified(self, name: str) -> float:
        return location.modified(self.folder / name)


class BehindUrl(Place):
    """A folder behind a URL."""

    is_remote = True
    readers = 32  # they wait much longer for a network
    way_out = "; CPCNN_CACHE names another place"

    def __init__(self, folder: RemotePath, fence: Fence | None = None) -> None:
        super().__init__(folder, fence)
        self._folder = folder
        self._remembered: dict[str, tuple[str, bytes]] = {}

    @property
    def folder(self) -> RemotePath:
        return self._folder

    def retrying(self) -> BehindUrl:
        return BehindUrl(dataclasses.replace(self.folder, patience=location.PATIENCE_SECONDS), self.fence)

    def check(self) -> None:
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        except RemoteError as error:
            raise StoreError(f"{self.folder}: cannot hold results: {error.strerror}") from None

    def write_soon(self, name: str, fill: Fill) -> None:
        self._write(self._at_once(name), fill)

    def write_as_file(self, name: str, write: Callable[[Path], object]) -> None:
        with TemporaryDirectory() as folder:
            made = Path(folder) / Path(name).name
            write(made)
            content = made.read_bytes()
        self.write(name, lambda stream: stream.write(content))

    def move(self, name: str, to: str) -> None:
        (self.folder / to).write_bytes((self.folder / name).read_bytes())
        (self.folder / name).unlink()

    def tables(self, folder: str) -> dict[str, str | None]:
        try:
            listed = (self.folder / folder).listing()
        except RemoteError as error:
            raise StoreError(str(error)) from None
        return {f"{folder}/{name}": tag for name, tag in listed.items() if name.endswith(".parquet")}

    def may_have(self, name: str, listed: Container[str]) -> bool:
        return name in listed

    @contextmanager
    def opened(self, name: str, tag: str | None = None, *, may_be_large: bool = False) -> Generator[pq.ParquetFile]:
        if tag is None and name in self._remembered and self._remembered[name][0] == _EXPECTED:
            tag = _EXPECTED
        if tag is None and may_be_large and (location.size(self.folder / name) or 0) > _WHOLE_BYTES:
            with (self.folder / name).open() as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
                yield file
        else:
            with pq.ParquetFile(pa.BufferReader(self._content(name, tag))) as file:
                yield file

    def rows(self, name: str, filters: Sequence[tuple[str, str, str]]) -> pa.Table:
        with (self.folder / name).open() as stream:
            return pq.read_table(stream, filters=list(filters))

    def schema(self, name: str, tag: str | None = None) -> pa.Schema:
        with self.opened(name, tag) as file:
            return file.schema_arrow

    def expect(self, names: Iterable[str]) -> None:
        def fetch(name: str) -> None:
            with suppress(FileNotFoundError):
                self._content(name, _EXPECTED)

        with ThreadPoolExecutor(self.readers) as pool:
            list(pool.map(fetch, names))

    def fetch_near(self, name: str) -> None:
        here = self.local_mirror / name
        if not here.exists():
            with suppress(FileNotFoundError):
                location.fetch(self.folder / name, here)

    def send_near(self, name: str) -> None:
        here = self.local_mirror / name
        if here.exists():
            self._at_once(name).write_bytes(here.read_bytes())

    def modified(self, name: str) -> float:
        here = self.local_mirror / name
        return location.modified(here if here.exists() else self._at_once(name))

    def _at_once(self, name: str) -> RemotePath:
        """The file, for what is not tried again: what comes next brings all of it, and nothing waits for it."""
        return dataclasses.replace(self.folder / name, patience=0.0)

    def _content(self, name: str, tag: str | None) -> bytes:
        path = self.folder / name
        if tag is None:
            return path.read_bytes()
        remembered = self._remembered.get(name)
        if remembered is not None and remembered[0] == tag:
            return remembered[1]
        content = path.read_bytes()
        if len(content) + sum(len(kept) for _, kept in list(self._remembered.values())) < _REMEMBERED_BYTES:
            self._remembered[name] = (tag, content)
        return content


def place_of(folder: Folder, fence: Fence | None = None) -> Place:
    """The place that a folder is."""
    return BehindUrl(folder, fence) if isinstance(folder, RemotePath) else OnDisk(folder, fence)
