"""Text within Markdown (CommonMark and GitHub's), so that it reads as it was given and nothing of it is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable

_INLINE = re.compile(r"[\\`*\[\]<~|$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")  # within a word an underscore is itself
_LINE = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[-+#>=]))", re.MULTILINE)  # what begins a heading, a list or a quotation
_TICKS = re.compile(r"`+")


def prose(text: str) -> str:
    """Paragraphs of plain text."""
    lines = "\n".join(line.strip() for line in text.splitlines())
    return _LINE.sub(r"\1\\", _INLINE.sub(r"\\\g<0>", lines))


def code(text: str) -> str:
    """A text in one line, set as code. Backticks in it are enclosed by more of them."""
    line = " ".join(text.splitlines()) or " "
    ticks = "`" * (_longest(line) + 1)
    pad = " " if line.strip() and (line[0] in "` " or line[-1] in "` ") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def block(lines: Iterable[str]) -> list[str]:
    """Lines set as a block of code."""
    content = list(lines)
    fence = "`" * max(3, *(_longest(line) + 1 for line in content))
    return [fence, *content, fence]


def _longest(text: str) -> int:
    return max(map(len, _TICKS.findall(text)), default=0)
