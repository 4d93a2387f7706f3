"""A recorded trial, run again: its configuration from the rows, and what came out otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.suggest import nearest
from orchestrator.objective import Objective
from orchestrator.space import parse_settings
from orchestrator.storage import remove_tree
from orchestrator.store import Store, StoreError, config_of

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
    "images_per_second",
    "peak_memory_bytes",
    "micro_batch",
    "checkpoint",
}


def recorded_config(store: Store, trial_id: str, given: Iterable[str]) -> TrialConfig:
    """The trial's configuration, its data where `given` (data.root=PATH) says. Raise StoreError or ConfigError."""
    settings = parse_settings(given)
    if set(settings) - {"data.root"}:
        raise ConfigError(f"--set {', '.join(settings)}: only data.root can be set here; the rest is as recorded")
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
    asked = (store.read_sweep() or {}).get("asked")
    return None if asked is None else Objective.from_description(asked["objective"])


def forget(store: Store, trial_id: str) -> None:
    """Delete an earlier replay of the trial."""
    remove_tree(store.training_folder(trial_id))
    remove_tree(store.checkpoint_folder(trial_id))
    for folder in (store.trials_folder, store.epochs_folder):
        (folder / f"{trial_id}.parquet").unlink(missing_ok=True)


def differences(recorded: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]]) -> list[str]:
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
