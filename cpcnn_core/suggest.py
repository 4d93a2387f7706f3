"""The way out of a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 30  # names that a list has at most


def nearest(word: str, names: Iterable[str]) -> str:
    """`; did you mean X?` where one of `names` comes close to `word`, else the list of them; nothing of none."""
    known = list(names)
    if not known:
        return ""
    close = difflib.get_close_matches(word, known, n=1) or [
        name for name in known if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]
    ]
    return (
        f"; did you mean {close[0]}?"
        if close
        else f"; there are {', '.join(known[:_SHOWN])}{', ...' * (len(known) > _SHOWN)}"
    )
