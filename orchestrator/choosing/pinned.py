"""What the user says of a choice: of which sweeps, under which conditions, perhaps of this trial and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

from cpcnn_core.suggest import nearest
from orchestrator.choosing import selection, where
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.choosing.selection import Selection
from orchestrator.choosing.where import Condition
from orchestrator.records import trial_ids
from orchestrator.records.location import Folder
from orchestrator.records.store import Store, as_int


def asked(
    results: Folder, sweeps: Sequence[str], condition: str, trial: str | None, epoch: int | None
) -> tuple[Selection, tuple[Condition, ...]]:
    """The sweeps to choose from, and what an epoch must meet. Raise ChoiceError, WhereError."""
    selected = selection.select(results, sweeps)
    trial = None if trial is None else trial_ids.of(selected.stores, trial)
    given = where.parse(condition) if condition else ()
    return selected, (*given, *conditions(selected.stores, trial, epoch))


def conditions(stores: Sequence[Store], trial_id: str | None, epoch: int | None) -> tuple[Condition, ...]:
    """The conditions that leave this trial and epoch alone to choose from. Raise ChoiceError where they are not there.

    The epoch's weights must have been kept: else the epochs are named whose weights are there.
    """
    if trial_id is None:
        if epoch is not None:
            raise ChoiceError(f"--epoch {epoch}: of which trial? Give --trial TRIAL_ID too")
        return ()
    rows = [row for store in stores for row in store.epochs_of(trial_id)]
    if not rows:
        there = [str(row["trial_id"]) for store in stores for row in store.latest_attempts().rows()]
        names = ", ".join(store.folder.name for store in stores)
        hint = nearest(trial_id, there) if there else ""
        raise ChoiceError(f"--trial {trial_id}: no such trial with a finished epoch in {names}{hint}")
    found = (Condition("trial_id", "==", trial_id),)
    if epoch is None:
        return found
    kept = sorted({as_int(row["epoch"]) for row in rows if row["checkpoint"] is not None})
    if epoch not in kept:
        raise ChoiceError(
            f"--epoch {epoch}: its weights were not kept; of trial {trial_id} there are those of "
            f"{', '.join(map(str, kept)) or 'none'}"
        )
    return (*found, Condition("epoch", "==", float(epoch)))
