"""What a file is by its first bytes, so that one which is no checkpoint is called what it is. Free of torch."""

from __future__ import annotations

import enum
import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from cpcnn_core.errors import CheckpointError
from cpcnn_core.files import irregular


class Kind(enum.Enum):
    """The formats that tensors are read from."""

    TORCH = "torch.save"
    OLD_TORCH = "torch.save before torch 1.6"
    SAFETENSORS = "safetensors"


_HEAD = 512  # bytes that are looked at
_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"  # the number that every old file of torch.save begins with, pickled
_UNPACK = "unpack it and name the checkpoint in it"
_AGAIN = "download or copy it again"

# How the files begin that people have in place of a checkpoint; what each is, and the way out where it is its own.
_BEGINNINGS: tuple[tuple[bytes, str, str | None], ...] = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file it stands for", "run `git lfs pull` in the clone"),
    (
        rb"(?i)(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)",
        "a web page",
        "a link or a login page was saved; download the file itself",
    ),
    (rb"\s*<\?xml", "an XML file, perhaps a server's error message", "download the file itself"),
    (rb"\x1f\x8b", "a gzip archive", _UNPACK),
    (rb"BZh[1-9]", "a bzip2 archive", _UNPACK),
    (rb"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "a zstandard archive", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\x00{4}|RIFF.{4}WEBP", "an image", None),
    (rb"%PDF", "a PDF", None),
    (rb"\x89HDF", "an HDF5 file, as Keras writes", None),
    (rb"\x93NUMPY", "a NumPy array", None),
    (rb"GGUF", "a GGUF file", None),
    (rb"\x80[\x02-\x05]", "a pickle that torch.save did not write, and reading it could execute code", None),
)


@dataclass(frozen=True)
class Found:
    """What a file is: in a format of tensors, or in none; then also the way out, where there is one of its own."""

    kind: Kind | None
    what: str
    way_out: str | None = None


def look(path: Path, origin: object = None) -> Found:
    """What the file is by its first bytes, and by its table of contents where it is a zip file.

    Raise CheckpointError where it is no file, or cannot be opened; it names `origin`, where `path` is a copy.
    """
    head = _head(path, path if origin is None else origin)
    if head.startswith(b"PK\x03\x04"):
        return _look_into_zip(path)
    if head.startswith(b"\x80") and _TORCH_MAGIC in head[:40]:
        return Found(Kind.OLD_TORCH, "a file of torch.save")
    # The length of a JSON header in eight bytes, of which the library allows the lower four, then the header.
    if head[8:9] == b"{" and b"\x00" in head[:8]:
        return Found(Kind.SAFETENSORS, "a safetensors file")
    if not head:
        return Found(None, "empty", _AGAIN)
    for pattern, what, way_out in _BEGINNINGS:
        if re.match(pattern, head, re.DOTALL):
            return Found(None, what, way_out)
    if _is_text(head):
        return Found(None, "JSON" if head.lstrip()[:1] in (b"{", b"[") else "plain text")
    return Found(None, f"neither a file of torch.save nor safetensors; it begins with {head[:8].hex(' ')}")


def damaged_part(path: Path) -> str | None:
    """The first part of a zip file of torch.save whose checksum is not that of its bytes; torch looks at none.

    Raise CheckpointError where the file cannot be read to its end.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except _BROKEN_ZIP as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path}: is damaged ({reason}); {_AGAIN}") from None


def is_compressed(path: Path) -> bool:
    """Whether a zip file was packed by another program than torch.save, whose parts lie in it as they are."""
    with zipfile.ZipFile(path) as archive:
        return any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())


_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)


def _head(path: Path, origin: object) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(f"{origin}: is a folder; name the file in it{_candidates(path)}")
        if (what := irregular(mode)) is not None:
            raise CheckpointError(f"{origin}: is {what}, not a regular file")
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    except FileNotFoundError:
        raise CheckpointError(f"{origin}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{origin}: cannot be read: {error.strerror}") from None


def _candidates(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.suffix in {".pth", ".pt", ".ckpt", ".safetensors"})
    return f": {', '.join(names[:5])}" if names else ""


def _look_into_zip(path: Path) -> Found:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _BROKEN_ZIP:
        return Found(None, "a zip file without its end, so the download or the copy stopped early", "get it again")
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        way_out = "where you trust it, save torch.jit.load(FILE).state_dict() with torch.save"
        return Found(None, "a TorchScript program, which reading would execute", way_out)
    if "data.pkl" in last:
        return Found(Kind.TORCH, "a file of torch.save")
    listing = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    if names and all(name.endswith(".npy") for name in names):
        return Found(None, f"a NumPy archive ({listing})")
    return Found(None, f"a zip archive of {listing or 'nothing'}", _UNPACK)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else a character that ends beyond what was read
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character.isspace() for character in text)
