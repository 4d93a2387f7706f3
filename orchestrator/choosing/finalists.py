"""The best trials, which the report shows in pictures: which they are, and which have none yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.choosing import decision as decisions
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.choosing.decision import Decision
from orchestrator.choosing.selection import Selection
from orchestrator.records.location import Folder
from orchestrator.records.store import NotThereError, Store, StoreError

FINALISTS = 3
METRIC = "val_acc"  # by which the report orders trials unless it is asked otherwise


@dataclass(frozen=True)
class Finalist:
    """An epoch that the report shows in pictures."""

    store: Store
    trial_id: str
    epoch: int

    @property
    def has_pictures(self) -> bool:
        """Whether they are stored; a file that cannot be read is written again."""
        try:
            self.store.pictures_of(self.trial_id, self.epoch)
        except StoreError as error:
            return not isinstance(error, NotThereError) and self.store.is_remote  # it may be there, out of reach
        return True

    @property
    def weights(self) -> Folder | None:
        """The file of its weights, None where they were not kept or are not there."""
        for row in self.store.epochs_of(self.trial_id):
            if row["epoch"] == self.epoch and row["checkpoint"] is not None:
                file = self.store.folder / str(row["checkpoint"])
                return file if file.is_file() else None
        return None


def of(decision: Decision) -> list[Finalist]:
    """The epochs by which the first trials of the standings stand there."""
    stores = {store.folder.name: store for store in decision.epochs.stores}
    return [Finalist(stores[one.sweep], one.trial_id, one.epoch) for one in decision.standings()[:FINALISTS]]


def of_sweep(store: Store) -> list[Finalist]:
    """The finalists of a sweep by the report's metric; none where no epoch could be chosen."""
    try:
        return of(decisions.choose(decisions.read(Selection((store,), "sweep"), METRIC)))
    except ChoiceError:
        return []


def without_pictures(finalists: Iterable[Finalist]) -> list[Finalist]:
    """Those of which pictures can be made, and are not yet."""
    return [one for one in finalists if not one.has_pictures and one.weights is not None]
