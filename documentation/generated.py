"""The parts of a page that a program writes: what stands between two comments, which name the part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from cpcnn_core.errors import UserError

END = "<!-- end of generated -->"


class PageError(UserError, ValueError):
    """A page that lacks a part, or a cell that a person writes."""


def begin(name: str) -> str:
    """The comment above a part."""
    return f"<!-- generated: {name} -->"


def part(page: str, name: str) -> str:
    """What the page has between the comments of that part. Raise PageError where they are not there."""
    found = re.search(f"{re.escape(begin(name))}\n(.*?){re.escape(END)}", page, re.DOTALL)
    if found is None:
        raise PageError(f"the page has no {begin(name)} with {END} below it")
    return found[1]


def with_parts(page: str, parts: Mapping[str, Callable[[str], str]]) -> str:
    """The page with each part written anew, by what is given for it: a function of what stands there."""
    for name, written in parts.items():
        old = part(page, name)
        page = page.replace(f"{begin(name)}\n{old}{END}", f"{begin(name)}\n\n{written(old).strip()}\n\n{END}")
    return page


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def meanings(old: str) -> dict[str, str]:
    """The last cell of each row by its first: what a person writes, which the program keeps."""
    rows = [cells(line) for line in old.splitlines() if line.startswith("| ")]
    return {row[0]: row[-1] for row in rows}


def cells(line: str) -> list[str]:
    """The cells of a row."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def kept(old: Mapping[str, str], name: str) -> str:
    """The meaning that a person wrote for a name. Raise PageError where there is none."""
    if not old.get(name):
        raise PageError(f"{name} has no row yet; add `| {name} | | what it does |` to the table, and run this again")
    return old[name]
