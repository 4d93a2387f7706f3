"""What is shown of a trial that is run by hand: a line per epoch, in 80 columns."""

from __future__ import annotations

from rich.console import Console

from cpcnn_core import alarms
from cpcnn_core.config import TrialConfig
from orchestrator.records.store import Row, as_number
from orchestrator.text.formatting import measured

_WIDTH = 9  # of a column


class Epochs:
    """Prints a trial's epochs. A metric that its configuration does not measure has no column."""

    def __init__(self, console: Console, config: TrialConfig) -> None:
        self._console = console
        measures = {"train_acc": config.eval.train_images > 0, "fid": config.eval.fid_every > 0}
        columns = ("train_bpd", "val_bpd", "train_acc", "val_acc", "fid", "seconds")
        self._columns = tuple(name for name in columns if measures.get(name, True))

    def print_head(self) -> None:
        """The names of the columns."""
        self._console.print("epoch  " + "  ".join(f"{name:>{_WIDTH}}" for name in self._columns), highlight=False)

    def print_epoch(self, row: Row) -> None:
        """An epoch, and below it what alarms, and why a FID that was due is missing."""
        values = "  ".join(f"{measured(as_number(row.get(name))):>{_WIDTH}}" for name in self._columns)
        self._console.print(f"{row['epoch']:5d}  {values}", highlight=False)
        if row.get("fid_error"):
            self._print_below(f"no FID: {row['fid_error']}")
        for sentence in alarms.of_epoch(row):
            self._print_below(f"warning: {sentence}")
        if row.get("test_acc") is not None:
            told = (
                f"test_acc {measured(as_number(row['test_acc']))}, of the last epoch's weights; nothing is chosen by it"
            )
            self._print_below(told)

    def _print_below(self, text: str) -> None:
        self._console.print(f"       {text}", soft_wrap=True, highlight=False)
