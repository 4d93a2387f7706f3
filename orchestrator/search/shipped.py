"""The space files that ship with this program, each known by its name; read, and not run, to say what they ask."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import search_spaces
from orchestrator.text import literals

_FOLDER = Path(search_spaces.__file__).parent
_TEMPLATE = _FOLDER / "_template.py"  # what a new space file begins as

_COST = re.compile(r"\bCost: (.+?\.)(?:\s|$)", re.DOTALL)


@dataclass(frozen=True)
class Shipped:
    """What a space file says of itself."""

    name: str
    question: str  # the first paragraph of its docstring
    cost: str  # the sentence that begins with `Cost:`
    presets: tuple[str, ...]


def names() -> tuple[str, ...]:
    """The spaces that ship, in alphabetic order."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.py") if not file.stem.startswith("_")))


def file(name: str) -> Path:
    """The file of a space that ships."""
    return _FOLDER / f"{name}.py"


def hint(typed: str, others: Iterable[str] = ()) -> str:
    """What a name that is none was probably meant for, and what there is: those that ship, and `others`."""
    there = [*names(), *others]
    close = difflib.get_close_matches(typed, there, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"{meant}{' There' if meant else '; there'} are {', '.join(there)}"


def text(name: str) -> str:
    """The content of a space that ships. Raise SpaceError, with the names that there are."""
    if name not in names():
        from orchestrator.search.settings import SpaceError

        raise SpaceError(f"{name}: no space of that name ships{hint(name)}")
    return file(name).read_text(encoding="utf-8")


def write_template(path: Path) -> None:
    """Write a space file to change, where there is none yet. Raise SpaceError."""
    from orchestrator.search.settings import SpaceError

    if path.suffix != ".py":
        raise SpaceError(f"{path}: a space file is a Python file; call it {path.with_suffix('.py')}")
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(_TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise SpaceError(f"{path}: exists, and stays as it is; give another name") from None
    except OSError as error:
        raise SpaceError(f"{path}: cannot be written: {error.strerror}") from None


def is_meant(typed: str) -> bool:
    """Whether what was typed for a space file is the name of one that ships: no path, and no file here."""
    return typed in names() and not Path(typed).is_file()


def every() -> Iterator[Shipped]:
    """What each of them asks, and what it costs."""
    for name in names():
        tree = ast.parse(file(name).read_text(encoding="utf-8"))
        said = ast.get_docstring(tree) or ""
        cost = _COST.search(said)
        yield Shipped(
            name,
            " ".join(said.split("\n\n")[0].split()),
            "" if cost is None else " ".join(cost[1].split()),
            literals.keys(tree, "presets"),
        )


def asked(typed: str | Path, path: Path) -> Path:
    """The space file that is meant: the name of one that ships, as it was typed; else the path."""
    return file(path.name) if is_meant(str(typed)) else path


def sweep_name(space_file: Path, preset: str | None) -> str:
    """The name of what a space file asks, where none is given: a preset asks something else."""
    return space_file.stem if preset is None else f"{space_file.stem}-{preset}"
