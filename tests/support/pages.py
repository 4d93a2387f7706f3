"""Tables of the pages in docs/: their rows, and the value in a cell."""

from __future__ import annotations

import json

from cpcnn_core.config import Scalar


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of each row below a heading that begins with a name in code font."""
    section = page.split(f"\n## {head}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def default_of(cell: str) -> Scalar:
    """The value in a cell, as `--set` would take it."""
    text = cell.strip("`")
    try:
        value: Scalar = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value
