"""Files that are either whole or not there: temporary name in the same folder, fsync, rename.

Also where a machine keeps what can be made again, and how its processes take turns in making it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

_log = logging.getLogger(__name__)

_IS_OPEN = frozenset({5, 32})  # Windows: access denied, sharing violation
_OPEN_SECONDS = 5.0


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a temporary file beside `path`, then rename it. On any error `path` is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp's 0600 would hide results from the rest of the team
        _replace(path, temporary)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def cache_folder() -> Path:
    """Where what can be made again lies: `$CPCNN_CACHE`, else `cpcnn` in `$XDG_CACHE_HOME` or `~/.cache`.

    Where there is no home folder that can be written, it is one of this user's own among the temporary ones.
    """
    if own := os.environ.get("CPCNN_CACHE"):
        return Path(own).expanduser()
    shared, at_home = os.environ.get("XDG_CACHE_HOME"), home()
    if shared and can_hold(Path(shared)):
        return Path(shared) / "cpcnn"
    if at_home is not None and can_hold(at_home / ".cache"):
        return at_home / ".cache" / "cpcnn"
    return temporary_cache() or (Path(shared) if shared else Path("~/.cache")) / "cpcnn"


def home() -> Path | None:
    """The user's home folder; None where there is none, as for a user that the machine does not know."""
    try:
        found = Path.home()
    except RuntimeError:
        return None
    return found if found.is_dir() else None


def can_hold(folder: Path) -> bool:
    """Whether files can be put into the folder, which need not be there yet."""
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def nearest_folder(path: Path) -> Path:
    """The path where it is a folder, else the folder that is nearest above it: on the same disk, or to be."""
    there = path.absolute()
    return next(place for place in (there, *there.parents) if place.is_dir())


def temporary_cache() -> Path | None:
    """A folder among the temporary ones that only this user can write; None where there can be none."""
    try:
        folder = Path(tempfile.gettempdir()) / f"cpcnn-{user()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        held = folder.lstat()
    except OSError:
        return None
    # Its name is known, so that somebody else may have made it. On Windows each user has temporary folders of his own.
    private = not hasattr(os, "getuid") or (held.st_uid == user() and not held.st_mode & 0o022)
    return folder if private and stat.S_ISDIR(held.st_mode) else None


def user() -> int:
    """This user's number, by which others' folders are told from his; 0 where users have none, as on Windows."""
    return os.getuid() if hasattr(os, "getuid") else 0


@contextlib.contextmanager
def in_turn(lock_file: Path) -> Generator[None]:
    """Wait until no other process of this machine is in here with the same lock file.

    Where the file system has no locks, or the file cannot be written, nobody waits: what is written in here must be
    whole whoever else writes it at the same time.
    """
    # Without the library's way out, a file whose existence is the lock: that of a killed process may stay for ever.
    with contextlib.ExitStack() as stack:
        try:
            # Without the library's way out, a file whose existence is the lock: a killed process's may stay for ever.
            stack.enter_context(FileLock(lock_file, fallback_to_soft=False))
        except OSError as error:
            _log.info("%s: no lock (%s); other processes may do the same work again", lock_file, error)
        yield


def irregular(mode: int) -> str | None:
    """What it is by its `st_mode` where it is no regular file: reading such a thing may wait for ever."""
    if stat.S_ISREG(mode):
        return None
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _replace(path: Path, temporary: Path) -> None:
    """Rename; on Windows wait for whoever reads the file that is to be replaced, as readers do for a moment only."""
    until = time.monotonic() + _OPEN_SECONDS
    while True:
        try:
            temporary.replace(path)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IS_OPEN or time.monotonic() > until:
                raise
        else:
            return
        time.sleep(_OPEN_SECONDS / 100)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folder, and writes names down in order by itself
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
