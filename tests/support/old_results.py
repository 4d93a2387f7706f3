"""Results folders of earlier releases, as their code wrote them.

`results-0.1` is of release 0.1: protocol 1, tables of schema 1. `results-schema-3.tar.xz` is of commit e2c2fa8:
protocol 2, tables of schema 3; a sweep of three trials of two fusions on `pictures.write_course(folder, SEED)`, which
Ctrl-C ended in the second epoch of the last trial.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from orchestrator.records.store import Store
from tests.support.paths import DATA

SEED = 7
COMPLETE = {"79ae432b80fd": "none", "be8bcaa36bac": "block_film"}
INTERRUPTED = "9da43d751314"

SPACE = '''"""Does FiLM classify better than no label at all, and how wide need its MLP be?"""

from search_spaces import choice

space = {"model.fusion": choice({"none": {}, "block_film": {"model.fusion_options.block_film.hidden": choice(1, 2)}})}
settings = {
    "data.name": "cpen455",
    "data.image_size": 8,
    "model.nr_filters": 2,
    "model.nr_logistic_mix": 1,
    "model.dropout": 0.0,
    "train.epochs": 2,
    "train.batch_size": 4,
    "train.lr": 0.02,
    "eval.train_images": 8,
}
resources = {"cpus": 2}
trials = 3
sampler = "grid"
objective = "val_acc"
'''
"""The space file that it was run with."""


def of_0_1(results: Path) -> Store:
    """A copy of the sweep of release 0.1 as a results folder."""
    shutil.copytree(DATA / "results-0.1", results)
    return Store(results / "two_fusions")


def of_schema_3(results: Path) -> Store:
    """The sweep of schema 3, unpacked into a results folder."""
    with tarfile.open(DATA / "results-schema-3.tar.xz") as archive:
        archive.extractall(results, filter="data")
    return Store(results / "two_fusions")
