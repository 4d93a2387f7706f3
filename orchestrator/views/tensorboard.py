"""TensorBoard as a view of a sweep."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row, Store, as_int
from orchestrator.text.names import identifier
from orchestrator.views.tracker import metrics_of, pixels_of, settings_of

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

_TAG = re.compile(r"[\w.-][\w./-]*")  # what tensorboardX leaves as it is; it would make one of two others


class TensorBoard:
    """Event files in `tensorboard/<trial_id>`."""

    def __init__(self, store: Store, mode: str = "") -> None:
        self._folder = store.local_mirror / "tensorboard"
        self._writers: dict[str, SummaryWriter] = {}

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """See `Tracker`."""
        epoch = as_int(row["epoch"])
        writer = self._writer(trial, epoch)
        for name, value in metrics_of(row).items():
            writer.add_scalar(_tag(name), value, epoch)
        if samples is not None:
            writer.add_image("samples", pixels_of(samples), epoch, dataformats="HWC")
        writer.flush()

    def end(self, trial: Entry, best: Row | None) -> None:
        """See `Tracker`."""
        writer = self._writers.pop(trial.trial_id, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        """See `Tracker`."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, trial: Entry, epoch: int) -> SummaryWriter:
        if trial.trial_id not in self._writers:
            from tensorboardX import SummaryWriter

            # Whatever an earlier process wrote of this epoch or a later one is not shown twice.
            folder = str(self._folder / trial.trial_id)
            writer = SummaryWriter(folder, purge_step=epoch, filename_suffix=f".from-{epoch}")
            text = "\n".join(f"    {name}: {value}" for name, value in settings_of(trial).items())
            writer.add_text("configuration", text, epoch)
            self._writers[trial.trial_id] = writer
        return self._writers[trial.trial_id]


def _tag(name: str) -> str:
    return name if _TAG.fullmatch(name) else identifier(name)
