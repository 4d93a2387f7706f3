"""Studies whose trials end at once: what a sampler suggests, without training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.objectives.objective import Objective
from orchestrator.records.store import Attempt, Store
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study, Suggestion
from search_spaces import choice, floats, ints
from tests.support.fakes import metrics
from tests.support.times import at

GRID = {
    "model.fusion": choice({"none": {}, "input_concat": {"model.fusion_options.input_concat.dim": ints(8, 9)}}),
    "model.dropout": floats(0.1, 0.3, step=0.1),
}
FIELDS = {
    "model.fusion": choice({"none": {}, "input_concat": {"model.fusion_options.input_concat.dim": ints(8, 64)}}),
    "train.lr": floats(1e-4, 1e-2, log=True),
    "model.nr_filters": ints(8, 40),
}
SETTINGS = {"train.epochs": 1, "seed": 0, "eval.fid_every": 1}


def space_of(sampler: str, objective: object = "val_acc", fields: Any = None) -> SearchSpace:
    fields = fields or (GRID if sampler == "grid" else FIELDS)
    return SearchSpace("a test", "", fields, SETTINGS, 99, Objective.of(objective), sampler=sampler)


@contextmanager
def studying(folder: Path, space: SearchSpace, *, trials: int, seed: int = 0) -> Iterator[Study]:
    store = Store(folder)
    store.create()
    study = Study(space, store, seed=seed, trials=trials)
    try:
        yield study
    finally:
        study.close()


def row_of(suggestion: Suggestion) -> dict[str, Any]:
    # More filters are better for the accuracy and worse for the FID.
    config = suggestion.config
    return {"epoch": 1, "val_acc": config.model.nr_filters / 50 - config.train.lr, "fid": 2.0 * config.model.nr_filters}


def in_one_go_and_killed(folder: Path, space: SearchSpace, *, trials: int) -> tuple[list[str], list[str]]:
    """The trials that a study suggests in one go, and those of one that is killed after two, with a third running."""
    with studying(folder / "whole", space, trials=trials) as study:
        whole = run_all(study, folder / "whole")
    with studying(folder / "parts", space, trials=2) as study:
        parts = run_all(study, folder / "parts")
    with studying(folder / "parts", space, trials=trials) as study:
        assert study.next() is not None  # killed while this one runs
    with studying(folder / "parts", space, trials=trials) as study:
        parts += run_all(study, folder / "parts")
    return whole, parts


def run_all(study: Study, folder: Path) -> list[str]:
    """Run what is left; the rows of each trial go to the sweep in `folder`, where the study looks for them."""
    store, done = Store(folder), []
    while (suggestion := study.next()) is not None:
        row, trial_id = row_of(suggestion), suggestion.config.trial_id
        store.add_epoch(trial_id, 1, metrics(**row))
        study.report(suggestion.number, row)
        ended = Attempt(trial_id=trial_id, attempt=1, number=suggestion.number, state="COMPLETE", started=at())
        store.write_attempt(ended, suggestion.config)
        study.end(suggestion.number, "COMPLETE", row)
        done.append(trial_id)
    return done
