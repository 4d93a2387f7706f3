"""A table that no terminal cuts off: as many columns as fit, the most important ones first, and the rest below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_PLAIN_HEAD = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)  # SIMPLE_HEAD without its one letter
_UNBOUNDED = 10_000  # columns


class Rank(IntEnum):
    """How much a column matters; one of a lower rank has room first."""

    ALWAYS = 0
    VALUE = 1  # how sure the metric is, and what it is made of
    SETTING = 2
    BESIDE = 3
    LAST = 4


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, and a cell for each row."""

    head: str
    cells: Sequence[str]
    rank: Rank = Rank.BESIDE
    is_number: bool = False
    below: str | None = None  # what it is called in the lines below, where not by its head

    def said(self, row: int) -> str:
        """A cell, as the lines below the table have it."""
        return f"{self.head if self.below is None else self.below} {self.cells[row]}".lstrip()


class Board:
    """What `columns` say of each row. With `wide` all of them stand in the table, however wide that becomes.

    Printed with `soft_wrap=True`, nothing in it is ever shortened. The lines below the table call a row by the first
    cells of the columns in `names`.
    """

    def __init__(
        self,
        title: str | None,
        columns: Sequence[Column],
        *,
        names: Sequence[str],
        wide: bool = False,
        ruled: bool = True,
    ) -> None:
        self.title = title
        self.columns = tuple(columns)
        self._names = tuple(names)
        self._wide = wide
        self._ruled = ruled

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, and what it has no room for."""
        unbounded = options.update(width=_UNBOUNDED)
        shown = self.columns if self._wide else self._fitting(console, options)
        table = self._table(shown, options)
        yield from console.render(table, options.update(width=self._width(table, console, unbounded)))
        left = [column for column in self.columns if column not in shown]
        yield from self._below(left, options.max_width)

    def _fitting(self, console: Console, options: ConsoleOptions) -> tuple[Column, ...]:
        """The columns that fit, in their order: each that matters more has had the choice before."""
        chosen: list[Column] = []
        unbounded = options.update(width=_UNBOUNDED)
        for column in sorted(self.columns, key=lambda column: column.rank):
            tried = [each for each in self.columns if each in chosen or each is column]
            width = self._width(self._table(tried, options), console, unbounded)
            if column.rank is Rank.ALWAYS or width <= options.max_width:
                chosen = tried
        return tuple(chosen)

    def _table(self, columns: Sequence[Column], options: ConsoleOptions) -> Table:
        box = (_PLAIN_HEAD if options.ascii_only else SIMPLE_HEAD) if self._ruled else None
        made = Table(title=self.title, box=box, pad_edge=False, collapse_padding=True)
        for column in columns:
            made.add_column(column.head, justify="right" if column.is_number else "left", no_wrap=True)
        for cells in zip(*(column.cells for column in columns), strict=True):
            made.add_row(*(Text(cell) for cell in cells))
        return made

    @staticmethod
    def _width(table: Table, console: Console, unbounded: ConsoleOptions) -> int:
        return Measurement.get(console, unbounded, table).maximum

    def _below(self, left: Sequence[Column], width: int) -> Iterator[Text]:
        """A paragraph for each row on the columns that are not in the table; what all rows share stands once."""
        shared = [column for column in left if column.cells and len(set(column.cells)) == 1 < len(column.cells)]
        own = [column for column in left if column not in shared]
        names = [column for column in self.columns if column.head in self._names]
        for row in range(len(own[0].cells) if own else 0):
            items = [column.said(row) for column in own if column.cells[row]]
            if items:
                called = " ".join(column.cells[row] for column in names)
                yield from _paragraph(f" {called}: ", items, width)
        if shared:
            yield from _paragraph(" all: ", [column.said(0) for column in shared], width)


def _paragraph(begin: str, items: Sequence[str], width: int) -> Iterator[Text]:
    """Items in lines, none of which breaks within an item."""
    line = begin + items[0]
    for item in items[1:]:
        if len(line) + len(item) + 3 > width:  # a comma, a space, and a comma at the end
            yield Text(f"{line},")
            line = " " * len(begin) + item
        else:
            line += f", {item}"
    yield Text(line)
