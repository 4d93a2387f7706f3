"""What a section of the page is made of. The template knows how each kind looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Paragraph:
    """Text."""

    text: str
    strong: bool = False
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Fold:
    """Lines that are seen once they are asked for."""

    title: str
    lines: Sequence[str]
    kind: ClassVar[str] = "fold"


@dataclass(frozen=True)
class Facts:
    """Short facts, each with its name."""

    facts: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Figure:
    """A figure of plotly: `drawing` is its JSON."""

    id: str
    title: str
    caption: str  # how to read it
    alternative: str  # what it shows, for who does not see it
    drawing: str
    height: int
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `sort` is what its column sorts by, the text otherwise."""

    text: str
    sort: float | str | None = None
    link: str | None = None  # the id of an element of the page
    code: bool = False
    shade: float | None = None  # 0 to 1
    head: bool = False  # of its row


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    cells: Sequence[Cell]
    id: str | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Table:
    """A table. One that `sorts` has buttons in its heads, and a field to filter by; its rows are so many `of`."""

    id: str
    caption: str
    heads: Sequence[str]
    lines: Sequence[Line]
    numeric: frozenset[int] = frozenset()  # columns
    sorts: bool = False
    of: str = "trials"
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Image:
    """A picture as a data URI. With an `overlay`, another one lies over it, and a button hides that one."""

    source: str
    alternative: str
    caption: str = ""
    overlay: str | None = None
    side: int | None = None  # pixels that its longer side is shown at
    shape: tuple[int, int] = (1, 1)  # its width to its height

    @property
    def width(self) -> int | None:
        """Pixels that it is shown wide."""
        width, height = self.shape
        return None if self.side is None else max(1, round(self.side * width / max(width, height)))

    @property
    def height(self) -> int | None:
        """Pixels that it is shown high."""
        width, height = self.shape
        return None if self.side is None else max(1, round(self.side * height / max(width, height)))


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    title: str
    caption: str
    images: Sequence[Image]
    scale: tuple[str, str] | None = None  # what the ends of the overlays' colours mean
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Comparison:
    """Pictures in a table: a row for each class, a column for each trial."""

    title: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Sequence[Image]]]]
    kind: ClassVar[str] = "comparison"


@dataclass(frozen=True)
class Running:
    """Trials that run now. On a live page each can be stopped."""

    trials: Sequence[RunningTrial]
    kind: ClassVar[str] = "running"


@dataclass(frozen=True)
class RunningTrial:
    """A trial that runs."""

    trial_id: str
    sweep: str
    epoch: int
    epochs: int
    settings: str
    value: str


Block = Paragraph | Fold | Facts | Figure | Table | Gallery | Comparison | Running


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
