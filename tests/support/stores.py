"""The store of a sweep whose trials train in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcnn_core.config import DataConfig
from cpcnn_core.data import Dataset
from orchestrator.records.store import Store
from orchestrator.training import trainer
from tests.support.training import tiny_dataset


def tiny_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A new store; whatever data its trials name, they train on `tiny_dataset`."""
    whole = tiny_dataset()

    def tiny(_config: DataConfig) -> Dataset:
        return whole

    monkeypatch.setattr(trainer, "dataset", tiny)
    made = Store(folder)
    made.create()
    return made
