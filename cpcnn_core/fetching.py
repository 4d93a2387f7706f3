"""A data set behind a URL, fetched once per machine: `s3://bucket/images`, or any other that fsspec reaches."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from cpcnn_core import places
from cpcnn_core.errors import DataError
from cpcnn_core.files import cache_folder, in_turn

_log = logging.getLogger(__name__)

# What file systems call that which changes with a file's content: S3, Google's, Azure's, a disk.
_STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "updated", "last_modified", "mtime")


def folder(root: str) -> Path:
    """The folder that `root` names, or this machine's copy of what lies behind a URL. Raise DataError.

    One process fetches, the others wait. What is listed there with another size or time is fetched anew.
    """
    if not places.is_url(root):
        try:
            return places.path(root)
        except ValueError as error:
            raise DataError(f"data.root: {error}") from None
    if "@" in root.partition("://")[2].partition("/")[0]:
        raise DataError("data.root: holds credentials, and is recorded; leave them to the environment")
    from cpcnn_core import cache  # torch, which whoever only looks at a root does without

    try:
        system, path = _reached(root)
        listed = {_inside(name, path, root): held for name, held in system.find(path, detail=True).items()}
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        raise _unreachable(root, error) from None
    if not listed:
        raise DataError(f"data.root: there is nothing at {root}; expected a folder with the data")
    stamps = (f"{name} {held['size']} {_stamp(held)}" for name, held in sorted(listed.items()))
    copy = cache_folder() / f"fetched-{cache.digest([root, *stamps])}"
    if copy.is_dir():
        return copy
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(copy.with_name(f"{copy.name}.lock")):
            if not copy.is_dir():
                _log.info("%s is fetched to %s", root, copy)
                _fetch(system, {held["name"]: name for name, held in listed.items()}, copy)
    except Exception as error:  # noqa: BLE001
        raise _unreachable(root, error) from None
    return copy


def _reached(root: str) -> tuple[Any, str]:
    """The file system that a URL names, and the path there."""
    import fsspec

    # Not fsspec's url_to_fs, to which `::` in a folder's name begins another file system's URL.
    kind = fsspec.get_filesystem_class(fsspec.core.split_protocol(root)[0])
    return kind(**kind._get_kwargs_from_urls(root)), str(kind._strip_protocol(root))


def _fetch(system: Any, names: dict[str, str], copy: Path) -> None:
    """All of it or nothing: a folder has its name only once it is whole."""
    partial = Path(tempfile.mkdtemp(prefix="fetching-", dir=copy.parent))
    try:
        for name in names.values():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
        system.get(list(names), [str(partial / name) for name in names.values()])
        try:
            partial.rename(copy)
        except OSError:
            if not copy.is_dir():  # else another process was first, where there are no locks
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _inside(name: str, path: str, root: str) -> str:
    """A listed name, relative to the root. Raise DataError where a copy of it would lie outside the copy's folder."""
    relative = name.removeprefix(path).lstrip("/") if name.startswith(path) else name
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or not relative.isprintable():
        raise DataError(f"data.root: {root} lists {name!r}, which leads out of it; rename that file")
    return relative


def _stamp(held: dict[str, Any]) -> str:
    return next((str(held[key]) for key in _STAMPS if held.get(key) is not None), "")


def _unreachable(root: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"data.root: {root} cannot be fetched: {reason}")
