"""Artifacts of a study: what its trials drew, as files that optuna-dashboard shows beside them."""

from __future__ import annotations

import io
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage
from PIL import Image

from orchestrator.records.location import Folder
from orchestrator.records.store import Store
from orchestrator.search import study_file

Pictures: TypeAlias = Mapping[str, Callable[[], bytes]]
"""Pictures of one trial, by name: what makes each a PNG."""

# Where optuna-dashboard also looks. Attributes of a trial itself do not change any more once it has finished.
_KEY = "dashboard:artifacts:{trial}:{artifact}"
_NAMES = uuid.UUID("5f3c1f0e-52a2-4e0c-8c1e-6f1c4b1c9a07")  # under which a picture's name becomes an artifact's


def attach(store: Store) -> int:
    """Attach to each trial of a sweep the pictures that it does not have yet. Return how many were new.

    Raise StudyError, StoreError, OSError.
    """
    pictures = _pictures(store)
    if not pictures or not store.study_file.exists():
        return 0
    store.artifacts_folder.mkdir(exist_ok=True)
    with study_file.writing(store.study_file):
        storage = RDBStorage(study_file.url(store.study_file), skip_table_creation=True)
        try:
            studies = storage.get_all_studies()
            new = sum(_attach(store.artifacts_folder, storage, study._study_id, pictures) for study in studies)
        finally:
            storage.scoped_session.remove()
            storage.engine.dispose()
    if new:
        store.publish_study()
    return new


def _attach(folder: Path, storage: RDBStorage, study: int, pictures: Mapping[str, Pictures]) -> int:
    held = storage.get_study_system_attrs(study)
    files = FileSystemArtifactStore(folder)
    new = 0
    for trial in storage.get_all_trials(study, deepcopy=False):
        trial_id = trial.user_attrs.get("trial_id", "")
        for name, written in pictures.get(trial_id, {}).items():
            artifact = str(uuid.uuid5(_NAMES, f"{trial_id}/{name}"))
            key = _KEY.format(trial=trial._trial_id, artifact=artifact)
            if held.get(key) == json.dumps(None):
                continue  # somebody deleted it in the dashboard
            if not (folder / artifact).is_file():
                files.write(artifact, io.BytesIO(written()))
            if key not in held:
                said = {"artifact_id": artifact, "filename": name, "mimetype": "image/png", "encoding": None}
                storage.set_study_system_attr(study, key, json.dumps(said))
                new += 1
    return new


def _pictures(store: Store) -> Mapping[str, Pictures]:
    """By trial: the last picture of its samples, and, of a finalist, the images that the report shows."""
    found: dict[str, dict[str, Callable[[], bytes]]] = defaultdict(dict)
    samples: list[Folder] = sorted(store.samples_folder.glob("*.png"), key=str)
    for trial_id, file in {file.stem.rpartition("-")[0]: file for file in samples}.items():
        name = f"samples-epoch-{file.stem.rpartition('-')[2]}.png"
        found[trial_id][name] = file.read_bytes
    for file in store.pictures_folder.glob("*.parquet"):
        trial_id, _, epoch = file.stem.rpartition("-")
        found[trial_id][f"drawn-epoch-{epoch}.png"] = partial(_drawn, store, trial_id, int(epoch))
    return found


def _drawn(store: Store, trial_id: str, epoch: int) -> bytes:
    """The images that a finalist drew as one picture, a row per class. Raise StoreError."""
    import torch

    from cpcnn_core import grid

    drawn = [one for one in store.pictures_of(trial_id, epoch) if one.kind == "drawn"]
    images = [np.atleast_3d(np.asarray(Image.open(io.BytesIO(one.png)))) for one in drawn]
    labels = torch.tensor([one.label for one in drawn])
    with TemporaryDirectory() as folder:
        grid.write(Path(folder) / "drawn.png", torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), labels)
        return (Path(folder) / "drawn.png").read_bytes()
