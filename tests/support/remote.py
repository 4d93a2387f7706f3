"""Storage behind a URL that fails when a test wants it to: in this process's memory, without a server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.records.location import RemotePath

_PUTTING = threading.Lock()


class FragileFileSystem(MemoryFileSystem):  # fsspec has no types
    """A MemoryFileSystem that asks `before` what to do about each call that goes over the network elsewhere."""

    protocol = "fragile"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    before: ClassVar[Callable[[str, str], None]]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("fragile://")))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        type(self).before("put", path)
        with _PUTTING:  # S3 creates a file for one of several; looking first and writing then would not
            super().pipe_file(path, value, mode=mode, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        type(self).before("get", path)
        return bytes(super().cat_file(path, start, end, **options))

    def rm_file(self, path: str) -> None:
        type(self).before("delete", path)
        if self.exists(path):
            super().rm_file(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        type(self).before("list", path)
        return super().ls(path, detail=detail, **options)


def _nothing(_operation: str, _path: str) -> None:
    pass


FragileFileSystem.before = staticmethod(_nothing)
fsspec.register_implementation("fragile", FragileFileSystem, clobber=True)


def folder() -> RemotePath:
    """A folder that nothing lies in."""
    return RemotePath(f"fragile://{uuid.uuid4().hex}/results/one")


@contextmanager
def asking(before: Callable[[str, str], None]) -> Iterator[None]:
    """Have `before(operation, path)` called before each operation; it may raise."""
    FragileFileSystem.before = staticmethod(before)
    try:
        yield
    finally:
        FragileFileSystem.before = staticmethod(_nothing)
