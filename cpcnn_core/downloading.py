"""Files from the web: resumed where a connection broke off, and there under their name only once they are whole."""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cpcnn_core import progress
from cpcnn_core.errors import RunError
from cpcnn_core.files import in_turn

_SECONDS = 20.0  # without a byte, after which a machine counts as one that does not answer
_PIECE = 2**20  # bytes
_ATTEMPTS = 5  # at one address; each goes on where the one before it broke off

_log = logging.getLogger(__name__)


class DownloadError(RunError, OSError):
    """A file that did not come; the message says from where, and why."""


def download(urls: Sequence[str], path: Path, md5: str) -> None:
    """Put the file with this MD5 at `path`, from the first of the addresses that has it.

    One process of a machine downloads, the others wait. What came before a connection broke off lies beside `path`, and
    serves the next attempt, of a later process too. Raise DownloadError where no address has the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_turn(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        part = path.with_name(f".{path.name}.part")
        problems = []
        for url in urls:
            _log.info("%s is downloaded to %s", url, path)
            try:
                _fetch(url, part, md5)
            except (OSError, http.client.HTTPException) as error:
                problems.append(f"{url}: {getattr(error, 'reason', None) or str(error) or type(error).__name__}")
                continue
            part.replace(path)
            return
        raise DownloadError("; ".join(problems))


def md5_of(path: Path) -> str:
    """The file's MD5 in hex, by which its publisher tells whether it is whole."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetch(url: str, part: Path, md5: str) -> None:
    """Fill `part` until its MD5 is right. What was there before may be of another file: then it begins anew."""
    resumed = part.exists() and part.stat().st_size > 0
    _fill(url, part)
    if md5_of(part) == md5:
        return
    part.unlink()
    if resumed:
        _fill(url, part)
        if md5_of(part) == md5:
            return
        part.unlink()
    raise DownloadError(f"what is there is another file than the one that is expected (its MD5 is not {md5})")


def _fill(url: str, part: Path) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            if _more(url, part):
                return
            problem: Exception = DownloadError("the connection broke off")
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            error.close()
            return  # there is no more: it is whole, or the wrong file, which its MD5 says
        except (OSError, http.client.HTTPException) as error:
            problem = error
        came = part.stat().st_size if part.exists() else 0
        if came <= before or attempt == _ATTEMPTS:
            raise problem
        _log.info("%s: %s after %d bytes; it is taken up there", url, problem, came)


def _more(url: str, part: Path) -> bool:
    """Append what is missing, or all of it where the server cannot begin in the middle. Whether that was the end."""
    there = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "cpcnn", "Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - addresses of our own table
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
        goes_on = answer.status == HTTPStatus.PARTIAL_CONTENT
        expected = answer.headers.get("Content-Length")
        before = there if goes_on else 0
        total = (before + int(expected or 0)) // _PIECE
        with (
            part.open("ab" if goes_on else "wb") as stream,
            progress.shown(f"downloading {url.rpartition('/')[2]}, in MiB", total) as advance,
        ):
            came = _copy(answer, stream, lambda count: advance((before + count) // _PIECE))
    return expected is None or came >= int(expected)


def _copy(source: Any, target: Any, tell: Callable[[int], None]) -> int:
    came = 0
    while piece := source.read(_PIECE):
        target.write(piece)
        came += len(piece)
        tell(came)
    return came
