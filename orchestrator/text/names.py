"""Which names a sweep may have, and what stands for one where fewer characters are allowed."""

from __future__ import annotations

import hashlib
import re

LONGEST = 200  # bytes; file systems take 255, and a confirmation's or a replay's name is longer than its sweep's

PLAIN = "must be the plain name of a folder, without a path; --results says where"
_OTHERS = re.compile(r"[^A-Za-z0-9._-]")
_SUFFIX = re.compile(r"-[0-9a-f]{12}")
_KEPT = 64  # characters of a name that its identifier begins with


def is_plain(name: str) -> bool:
    """Whether it names one folder, and no path."""
    return name not in {"", ".", ".."} and "/" not in name


def problem(name: str) -> str | None:
    """Why no new sweep can be called that; None where one can.

    Whatever a file system holds and a terminal prints will do: blanks, brackets, quotes, letters of any script.
    """
    if not is_plain(name):
        return PLAIN
    if name.startswith("-"):
        return "begins with -, as options do; put another character before it"
    if not name.isprintable():
        odd = ", ".join(dict.fromkeys(repr(character) for character in name if not character.isprintable()))
        return f"holds what cannot be printed ({odd}); leave it out"
    if (size := len(name.encode())) > LONGEST:
        return f"has {size} bytes in UTF-8; at most {LONGEST} will do"
    return None


def identifier(name: str) -> str:
    """`name` itself where it is short and of letters, digits and `._-`, else as much of it as is, and a hash.

    Different names have different identifiers. None is `.` or `..`, which to a file system are folders.
    """
    plain = _OTHERS.sub("-", name)[:_KEPT]
    if plain == name and is_plain(name) and not _SUFFIX.fullmatch(name[-13:]):  # which could be another name's
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}".lstrip("-.")
