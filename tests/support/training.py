"""A trial that trains in a second: random images of three classes that differ in brightness."""

from __future__ import annotations

from typing import Any

import torch

from cpcnn_core.data import Dataset, Split
from cpcnn_core.metrics import EpochMetrics

SETTINGS: dict[str, Any] = {
    "model.fusion": "stem_add",
    "model.nr_filters": 4,
    "model.nr_logistic_mix": 2,
    "model.dropout": 0.2,
    "train.epochs": 3,
    "train.batch_size": 16,
    "train.lr": 0.01,
    "train.deterministic": True,  # or a GPU would not give the same twice, which many tests ask for
    "eval.train_images": 10,
}

# What two runs of the same trial may differ in.
TIMES = (
    "seconds",
    "train_seconds",
    "compile_seconds",
    "eval_seconds",
    "sample_seconds",
    "scoring_seconds",
    "images_per_second",
    "peak_memory_bytes",
    "path_note",
)


def tiny_dataset() -> Dataset:
    """50 training images of 8x8, 9 for validation, 3 for test."""
    generator = torch.Generator().manual_seed(0)

    def split(name: str, count: int) -> Split:
        labels = torch.arange(count) % 3
        images = 60 + 50 * labels[:, None, None, None] + torch.randint(0, 40, (count, 1, 8, 8), generator=generator)
        return Split(images.to(torch.uint8), labels, tuple(f"{name}/{i}" for i in range(count)))

    return Dataset("tiny", split("train", 50), split("validation", 9), split("test", 3), ("a", "b", "c"))


def comparable(epoch: EpochMetrics) -> dict[str, Any]:
    """All that an epoch measured but the times, which no two runs share."""
    return {name: value for name, value in epoch.record().items() if name not in TIMES}
