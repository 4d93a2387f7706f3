"""A recorded trial, run again: its configuration from the rows, and what came out otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.suggest import nearest
from orchestrator.objectives.objective import Objective
from orchestrator.records.kinds import kind_of
from orchestrator.records.location import Folder, remove_tree
from orchestrator.records.store import Row, Store, StoreError, as_int, config_of, sweeps
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search.settings import parse_data_root

if TYPE_CHECKING:
    from orchestrator.training.continuing import Start  # takes torch

# What two runs of the same trial may differ in; and the score, which follows from the metrics.
_NOT_COMPARED = {
    "score",
    "score_error",
    "attempt",
    "seconds",
    "train_seconds",
    "compile_seconds",
    "eval_seconds",
    "sample_seconds",
    "scoring_seconds",
    "val_images",  # these four follow from the settings, and earlier releases did not record them
    "val_images_of",
    "test_images",
    "test_images_of",
    "images_per_second",
    "peak_memory_bytes",
    "micro_batch",
    "path",
    "path_note",
    "sample_path",
    "checkpoint",
}


@dataclass(frozen=True)
class Replay:
    """A recorded trial that is run again."""

    config: TrialConfig
    store: Store  # where the new rows go
    wanted: Sequence[Row]  # the rows of the recorded epochs
    threads: Mapping[int, int]  # of torch, by epoch
    objective: Objective | None
    start: Start | None = None  # of a trial that continues another one

    def differences(self) -> list[str]:
        """One line for each metric that came out otherwise."""
        return differences(self.wanted, self.store.epochs_of(self.config.trial_id))


def prepared(recorded: Store, trial_id: str, given: Iterable[str], store: Store) -> Replay:
    """The replay into `store` of a trial that `recorded` holds. Raise StoreError or ConfigError where there is none."""
    config = recorded_config(recorded, trial_id, given)
    wanted = recorded.epochs_of(trial_id)
    threads = threads_by_epoch(recorded.attempts_of(trial_id), wanted)
    start = None
    if config.continues:
        from orchestrator.training import continuing

        start = continuing.recorded(recorded, config)
    return Replay(config, store, wanted, threads, recorded_objective(recorded), start)


def holder(results: Folder, trial_id: str, sweep: str | None) -> Store:
    """The sweep that ran the trial, `sweep` or the only one. Raise StoreError where none did, or several."""
    if sweep is not None:
        return Store((results / sweep).absolute())
    begun = [store for store in sweeps(results) if _may_hold(store)]
    holders = [store for store in begun if store.attempts_of(trial_id)]
    if not holders:
        there = [str(row["trial_id"]) for store in begun for row in store.latest_attempts().rows()]
        raise StoreError(f"{results}: no sweep holds a trial {trial_id}{nearest(trial_id, there) if there else ''}")
    if len(holders) > 1:
        names = ", ".join(store.folder.name for store in holders)
        raise StoreError(f"{results}: trial {trial_id} is in {names}; say which with --sweep")
    return Store(holders[0].folder.absolute())


def scratch(results: Folder, name: str) -> Store:
    """The folder that replays go to, which are deleted when they are run again. Raise StoreError for a sweep's."""
    store = Store((results / name).absolute())
    if not _is_scratch(store):
        raise StoreError(f"--name {name}: {store.folder} holds a sweep, whose rows a replay would replace")
    return store


def _may_hold(store: Store) -> bool:
    """Whether a recorded trial is looked for in the folder: in none of replays, as far as it can be told."""
    try:
        return not _is_scratch(store)
    except StoreError:  # somebody else's sweep.json, perhaps, and nothing that this trial needs
        return kind_of(store.folder.name, None) != "replays"


def _is_scratch(store: Store) -> bool:
    """Whether the folder holds replays, or is one of before folders said what they hold. Raise StoreError."""
    record = store.read_sweep()
    return record is None or kind_of(store.folder.name, record) == "replays"


def threads_by_epoch(attempts: Iterable[Row], epochs: Iterable[Row]) -> dict[int, int]:
    """How many threads of torch trained each epoch, where its attempt says so: another number adds up in another
    order.
    """
    of_attempt = {row["attempt"]: row.get("threads") for row in attempts}
    of_epoch = {as_int(row["epoch"]): of_attempt.get(row["attempt"]) for row in epochs}
    return {epoch: as_int(threads) for epoch, threads in of_epoch.items() if threads is not None}


def recorded_config(store: Store, trial_id: str, given: Iterable[str]) -> TrialConfig:
    """The trial's configuration, its data where `given` (data.root=PATH) says. Raise StoreError or ConfigError."""
    settings = parse_data_root(given)
    attempts = store.attempts_of(trial_id) if store.trials_folder.is_dir() else []
    if not attempts:
        there = sorted({str(row["trial_id"]) for row in store.latest_attempts().rows()})
        hint = nearest(trial_id, there) if there and len(there) <= 20 else ""
        raise StoreError(f"{store.folder}: holds no trial {trial_id}{hint}")
    if not store.epochs_of(trial_id):
        raise StoreError(f"{store.folder}: trial {trial_id} has no epoch to compare with")
    config = config_of(attempts[-1]).with_settings(settings)
    if config.source is not None:
        raise ConfigError(f"trial {trial_id} is an imported checkpoint, which was evaluated and not trained")
    return config


def recorded_objective(store: Store) -> Objective | None:
    """What the sweep optimised; None for trials that were run by hand. It decides which weights are kept."""
    described = (store.read_sweep() or SweepRecord()).objective
    return None if described is None else Objective.from_description(described)


def forget(store: Store, trial_id: str) -> None:
    """Delete an earlier replay of the trial."""
    remove_tree(store.training_folder(trial_id))
    remove_tree(store.checkpoint_folder(trial_id))
    for folder in (store.trials_folder, store.epochs_folder):
        (folder / f"{trial_id}.parquet").unlink(missing_ok=True)


def differences(recorded: Sequence[Row], again: Sequence[Row]) -> list[str]:
    """One line for each metric of each epoch that is not what it was."""
    replayed = {row["epoch"]: row for row in again}
    found = []
    for row in recorded:
        now = replayed.get(row["epoch"], {})
        found += [
            f"epoch {row['epoch']}: {name} was {row.get(name)!r}, is {now.get(name)!r}"
            for name in dict.fromkeys((*row, *now))
            if name not in _NOT_COMPARED and not _same(row.get(name), now.get(name))
        ]
    return found


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return one == other
