"""Where results lie: a folder on disk, or one behind a URL that fsspec reaches, s3://bucket/results.

A `RemotePath` has of pathlib's methods those that we use, under the same names, so that most of the code need not know
which of the two it has. A file there is written in one request, so that a reader meets all of it or none. What goes
wrong there is a `RemoteError`, whatever library it came from: an OSError, as a disk's would be.

No URL holds a credential: it would end up in sweep.json, in logs and in the arguments of processes. The libraries find
theirs in the environment or in their own files.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, TypeVar

from cpcnn_core import files, places
from cpcnn_core.errors import UserError
from orchestrator.records.errors import StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem as FileSystem  # takes a while, and results on a disk do without

T = TypeVar("T")

PATIENCE_SECONDS = 60.0  # that a run which has work to lose bears with storage that does not answer

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_PAUSES = (0.5, 15.0)  # seconds between two tries, the first and the longest
_TRANSFERS = 16  # at once; they wait for the network, not for the processor
_REFUSED = re.compile(
    r"\b40[13]\b|forbidden|access.?denied|unauthori[sz]ed|credential|InvalidAccessKeyId|SignatureDoesNotMatch|token",
    re.IGNORECASE,
)
# What Linux and macOS call file systems that several machines may have mounted, or a host and its guests. Few of them
# have the shared memory that a write-ahead log needs, and not all have locks.
_SHARED = re.compile(
    r"nfs\d?|cifs|smb\w*|lustre|gpfs|mmfs|beegfs\w*|ceph|glusterfs|afs|afpfs|ocfs2|gfs2?|pvfs2|orangefs|panfs|wekafs|"
    r"quobyte|acfs|davfs|webdav|coda|ncpfs|9p|virtiofs|vboxsf|prl_fs|vmhgfs|drvfs|fuse|fuse\.(?!fuse-overlayfs).*|macfuse"
)
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class RemoteError(UserError, OSError):
    """Storage that did not do what it was asked; the message names the URL."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or a folder behind a URL. Its methods raise RemoteError, and FileNotFoundError as pathlib's do."""

    url: str  # without a slash at its end
    patience: float = field(default=0.0, compare=False)  # seconds; what failed is tried again for so long

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return replace(self, url=f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder that it lies in."""
        return replace(self, url=self.url.rpartition("/")[0])

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def is_absolute(self) -> bool:
        """Yes: it means the same on every machine."""
        return True

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        return self._ask(lambda fs: bool(fs.exists(self._path)))

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self._ask(lambda fs: bool(fs.isfile(self._path)))

    def is_dir(self) -> bool:
        """Whether anything lies in it; buckets have no empty folders."""
        return self._ask(lambda fs: bool(fs.isdir(self._path)))

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in it; nothing where it is not there."""
        return (self / name for name in self.listing())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The files in it whose names match."""
        return (self / name for name in self.listing() if fnmatchcase(name, pattern))

    def listing(self) -> dict[str, str]:
        """The names in it, each with what changes when the file's content does."""
        try:
            listed = self._ask(lambda fs: fs.ls(self._path, detail=True))
        except FileNotFoundError:
            return {}
        tags = {info["name"].rstrip("/").rpartition("/")[2]: _tag(info) for info in listed}
        return {name: tags[name] for name in sorted(tags) if name}

    def size(self) -> int:
        """Bytes. Raise FileNotFoundError."""
        return int(self._ask(lambda fs: fs.info(self._path))["size"])

    def modified(self) -> float:
        """When it was last written, in seconds, by the storage's clock. Raise FileNotFoundError."""
        return float(self._ask(lambda fs: fs.modified(self._path)).timestamp())

    def read_bytes(self) -> bytes:
        """All of it. Raise FileNotFoundError."""
        return bytes(self._ask(lambda fs: fs.cat_file(self._path)))

    def read_text(self) -> str:
        """All of it, as UTF-8. Raise FileNotFoundError."""
        return self.read_bytes().decode()

    def open(self) -> BinaryIO:
        """A stream to read parts of it from."""
        stream: BinaryIO = self._ask(lambda fs: fs.open(self._path, "rb"))
        return stream

    def write_bytes(self, content: bytes) -> None:
        """Put the content there in one request: a reader meets what was there, or all of this."""
        self._change(lambda fs: fs.pipe_file(self._path, content))

    def create(self, content: bytes) -> bool:
        """Put the content there unless something is there already, and say whether it was put.

        Of several who try, one succeeds: S3 and Google's storage see to that.
        """
        try:
            # No second try: the first one may have arrived although its answer did not.
            replace(self, patience=0.0)._change(lambda fs: fs.pipe_file(self._path, content, mode="create"))
        except FileExistsError:
            return False
        return True

    def upload(self, source: BinaryIO) -> None:
        """Put a file of any size there. It appears when all of it has arrived."""

        def send(fs: FileSystem) -> None:
            source.seek(0)
            content = source.read()
            fs.pipe_file(self._path, content)

        self._change(send)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        try:
            self._ask(lambda fs: fs.rm_file(self._path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    @property
    def _path(self) -> str:
        return str(_filesystem(_scheme(self.url))._strip_protocol(self.url))

    def _change(self, action: Callable[[FileSystem], T]) -> T:
        try:
            return self._ask(action)
        except FileNotFoundError as error:
            # Nothing but the bucket, or what this file system has in its place, can be missing for a new file.
            raise RemoteError(errno.EIO, f"cannot be written: {_said(error)}; make it first", self.url) from error

    def _ask(self, action: Callable[[FileSystem], T]) -> T:
        until = time.monotonic() + self.patience
        pause, longest = _PAUSES
        while True:
            try:
                return action(_filesystem(_scheme(self.url)))
            except (FileNotFoundError, FileExistsError, RemoteError):
                raise
            except Exception as error:
                # Each file system has errors of its own; most are no OSError.
                text = _said(error)
                refused = isinstance(error, PermissionError) or self._is_refusal(f"{type(error).__name__} {text}")
                if refused or time.monotonic() + pause > until:
                    raise RemoteError(errno.EIO, _advised(text, refused), self.url) from error
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)

    def _is_refusal(self, text: str) -> bool:
        """Whether that is what storage says which lets nobody in; a folder called `token` may be named in it."""
        for part in sorted(self.url.split("/"), key=len, reverse=True):
            text = text.replace(part, "") if part else text
        return _REFUSED.search(text) is not None


Folder: TypeAlias = Path | RemotePath
"""A folder, or a file, in either place."""


def located(text: str | Path | RemotePath) -> Folder:
    """The folder that a path or URL names. Raise ValueError where it is none that results can lie in."""
    if not isinstance(text, str):
        return text
    if not places.is_url(text):
        return places.path(text)
    scheme, _, rest = text.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise ValueError(
            f"{shown}: give the URL without user, password or options; they would end up in logs. Credentials belong "
            "into the environment or the files where the storage's own tools look for them"
        )
    if scheme in {"file", "local"}:
        return places.path(rest)
    url = text.rstrip("/")
    if not rest.strip("/"):
        raise ValueError(f"{shown}: names no folder, as s3://bucket/results does")
    try:
        filesystem = _filesystem(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        way = f"uv sync --extra {extra}" if extra else f"its package, with uv pip install ({_said(error)})"
        raise ValueError(f"{shown}: needs what is not installed: {way}") from None
    except ValueError:
        raise ValueError(f"{shown}: fsspec knows no storage of that kind; s3://, gs:// or a folder will do") from None
    if str(filesystem._strip_protocol(url)).strip("/") != rest.strip("/"):
        raise ValueError(f"{shown}: storage whose URL names a host cannot hold results; mount it and give the folder")
    return RemotePath(url)


def given(text: str | Path | RemotePath) -> Folder:
    """The same for who was handed it by a program or a file. Raise StoreError."""
    try:
        return located(text)
    except ValueError as error:
        raise StoreError(str(error)) from None


def spelled(folder: Folder) -> str:
    """What a command has to be given to find the folder: `located` of it, where the text alone is taken otherwise."""
    text = str(folder)
    if isinstance(folder, RemotePath):
        return text
    try:
        means_itself = not text.startswith("-") and places.path(text) == folder
    except ValueError:
        means_itself = False
    return text if means_itself else f"./{text}"


def write_atomically(path: Folder, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill the file at `path`, whole or not at all. Raise OSError."""
    if isinstance(path, Path):
        files.write_atomically(path, write)
        return
    stream = io.BytesIO()
    write(stream)
    path.write_bytes(stream.getvalue())


def fetch(source: Folder, target: Path) -> None:
    """Copy a file to this machine, whole or not at all. Raise FileNotFoundError."""
    if isinstance(source, Path):
        shutil.copyfile(source, target)
        return
    content = source.read_bytes()
    files.write_atomically(target, lambda stream: stream.write(content))


@contextmanager
def on_disk(file: Folder) -> Generator[Path]:
    """The file on this machine: itself, or a copy that is gone afterwards. Raise FileNotFoundError."""
    if isinstance(file, Path):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="cpcnn-") as folder:
        fetch(file, Path(folder) / file.name)
        yield Path(folder) / file.name


def size(path: Folder) -> int | None:
    """The file's bytes, None where there is none."""
    try:
        return path.stat().st_size if isinstance(path, Path) else path.size()
    except FileNotFoundError:
        return None


def create(path: Folder, content: bytes) -> bool:
    """Put the content there unless something is there already, and say whether it was put. Raise OSError.

    Of several who try, one succeeds, and a reader meets all of it or nothing.
    """
    if isinstance(path, RemotePath):
        return path.create(content)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        temporary.chmod(0o644)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError:
            if temporary.stat().st_nlink > 1:
                return True  # the answer was lost on its way from a server, the link was made
            return _create_without_links(path, content)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_without_links(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        return False
    return True


def modified(path: Folder) -> float:
    """When the file was last written, in seconds, by the storage's clock. Raise FileNotFoundError."""
    return path.stat().st_mtime if isinstance(path, Path) else path.modified()


def touch(path: Folder, content: bytes) -> None:
    """Let a file that holds this content be written now. Raise OSError."""
    if isinstance(path, Path):
        os.utime(path)  # takes no room, and has no moment in which half of it is there
    else:
        path.write_bytes(content)


def listing(folder: Folder) -> dict[str, str]:
    """The names in a folder, each with what changes when the file's content does."""
    if isinstance(folder, RemotePath):
        return folder.listing()
    with os.scandir(folder) as entries:
        return {entry.name: str(entry.stat().st_mtime_ns) for entry in entries}


def names(folder: Folder) -> Iterable[str]:
    """The names in a folder; none where it is not there."""
    if isinstance(folder, RemotePath):
        return folder.listing()
    try:
        return [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return ()


def remove(paths: Iterable[Folder]) -> None:
    """Delete files; one that is not there is no error."""
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        list(pool.map(lambda path: path.unlink(missing_ok=True), paths))


def remove_tree(folder: Folder) -> None:
    """Delete a folder of files and all that lies in it, if it is there."""
    if isinstance(folder, RemotePath):
        remove(folder.iterdir())
    else:
        shutil.rmtree(folder, ignore_errors=True)


def local_mirror(folder: Folder) -> Path:
    """Where on this machine a sweep's own files lie: its folder, or one in the cache that goes with its URL."""
    return folder if isinstance(folder, Path) else files.cache_folder() / _own(folder)


def own_disk(folder: Folder) -> Path:
    """Where on a disk of this very machine a sweep's database lies: the local mirror, if that is on one."""
    here = local_mirror(folder)
    if not is_shared(here):
        return here
    others = (files.cache_folder(), files.temporary_cache())
    return next((place / _own(folder) for place in others if place is not None and not is_shared(place)), here)


def is_shared(path: Path) -> bool:
    """Whether the path lies on a file system that other machines, or the host of this one, may share."""
    return _SHARED.fullmatch(kind_of_disk(path)) is not None


def kind_of_disk(path: Path) -> str:
    """The type of the file system that the path lies on, or would: ext4, nfs4, fuse.sshfs; empty where unknown."""
    import psutil

    there = path.resolve()
    mounted = {Path(partition.mountpoint): partition.fstype for partition in psutil.disk_partitions(all=True)}
    return next((mounted[place] for place in (there, *there.parents) if place in mounted), "")


def _own(folder: Folder) -> Path:
    name = str(folder.absolute())
    return Path("results") / f"{folder.name}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def beside(folder: Folder) -> Path:
    """Where on this machine reports and exports of results in `folder` go by default: into it, or into `results`."""
    return folder if isinstance(folder, Path) else Path("results")


def _scheme(url: str) -> str:
    return url.partition("://")[0]


@cache
def _filesystem(scheme: str) -> FileSystem:
    import fsspec

    # What another machine has written since must be seen.
    return fsspec.filesystem(scheme, use_listings_cache=False)


def _tag(info: Mapping[str, object]) -> str:
    for key in ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created"):
        if info.get(key) is not None:
            return f"{info[key]} {info.get('size')}"
    return str(info.get("size"))


def _said(error: BaseException) -> str:
    """What an error says, in one line, without anything that should not be read in a log."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "...")
    return re.sub(r"//[^/@\s]+@", "//...@", text)


def _advised(text: str, refused: bool) -> str:
    if refused:
        return (
            f"refused ({text}). Credentials are read from the environment (AWS_ACCESS_KEY_ID and the like, "
            "GOOGLE_APPLICATION_CREDENTIALS), the files of the storage's own tools, or the machine's role"
        )
    return f"cannot be reached ({text}). Is the network up, and the address right?"
