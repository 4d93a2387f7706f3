"""What a text that names a place means: a URL, or a path on this machine."""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_ONE_SLASH = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/(?!/)(?P<rest>.*)", re.DOTALL)


def is_url(text: str) -> bool:
    """Whether `text` is a URL and no path."""
    return _URL.match(text) is not None


def path(text: str) -> Path:
    """The path that `text` names; `~` and `~user` are home folders, as in a shell.

    Raise ValueError for a URL, and for what would become a folder that nobody meant: `s3:/bucket`, an unknown `~user`,
    nothing at all.
    """
    if not text:
        raise ValueError("an empty path; give a folder or a file, . being the folder that you are in")
    if url := _URL.match(text):  # not repeated: it may hold a password
        raise ValueError(f"{url['scheme']}://...: is a URL; expected a path on this machine")
    if half := _ONE_SLASH.match(text):
        raise ValueError(
            f"{text}: is neither a path nor a URL, which has two slashes ({half['scheme']}://{half['rest']}); a folder "
            f"of that name is ./{text}"
        )
    if not text.startswith("~"):
        return Path(text)  # ./~x is a folder of that name
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = text.partition("/")[0]
        raise ValueError(f"{text}: {user} is nobody's home folder here; a folder of that name is ./{text}") from None
