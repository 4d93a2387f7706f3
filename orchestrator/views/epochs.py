"""What is shown of a trial that is run by hand: a line per epoch, in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from cpcnn_core import alarms
from cpcnn_core.config import TrialConfig
from orchestrator.records.store import Row, as_number
from orchestrator.text.formatting import measured

_COLUMNS = ("train_bpd", "val_bpd", "train_acc", "val_acc", "fid", "seconds")
_FIRST = ("val_acc", "val_bpd", "fid", "train_bpd", "train_acc", "seconds")  # which has room first
_WIDTH = 9  # of a column
_GAP = 2  # in front of each
_EPOCH = 5  # columns of the epoch's number


class Epochs:
    """Prints a trial's epochs. A metric that its configuration does not measure has no column.

    What a narrow terminal has no room for stands below each epoch.
    """

    def __init__(self, console: Console, config: TrialConfig) -> None:
        self._console = console
        measures = {"train_acc": config.eval.train_images > 0, "fid": config.eval.fid_every > 0}
        columns = [name for name in _COLUMNS if measures.get(name, True)]
        room = max(1, (console.width - _EPOCH) // (_GAP + _WIDTH))
        shown = sorted(columns, key=_FIRST.index)[:room]
        self._columns = tuple(name for name in columns if name in shown)
        self._below = tuple(name for name in columns if name not in shown)

    def print_head(self) -> None:
        """The names of the columns."""
        self._print_line("epoch", [f"{name:>{_WIDTH}}" for name in self._columns])

    def print_epoch(self, row: Row) -> None:
        """An epoch, and below it what alarms, and why a FID that was due is missing."""
        self._print_line(f"{row['epoch']:{_EPOCH}d}", [f"{_value(row, name):>{_WIDTH}}" for name in self._columns])
        if self._below:
            self._print_below(", ".join(f"{name} {_value(row, name)}" for name in self._below))
        if row.get("fid_error"):
            self._print_below(f"no FID: {row['fid_error']}")
        for sentence in alarms.of_epoch(row):
            self._print_below(f"warning: {sentence}")
        if row.get("test_acc") is not None:
            told = (
                f"test_acc {measured(as_number(row['test_acc']))}, of the last epoch's weights; nothing is chosen by it"
            )
            self._print_below(told)

    def _print_line(self, first: str, cells: Sequence[str]) -> None:
        self._console.print((" " * _GAP).join([first, *cells]), soft_wrap=True, highlight=False)

    def _print_below(self, text: str) -> None:
        self._console.print(f"       {text}", soft_wrap=True, highlight=False)


def _value(row: Row, name: str) -> str:
    return measured(as_number(row.get(name)))
