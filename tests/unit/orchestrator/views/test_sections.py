"""Every metric has its place in the tools that group names."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from cpcnn_core import grid
from cpcnn_core.metrics import METRICS, EpochMetrics
from orchestrator.views import sections
from orchestrator.views.tracker import classes_of, pixels_of, rows_of
from tests.support import odd
from tests.support.paths import local


def test_each_number_that_an_epoch_measures_is_under_a_heading_of_its_own_kind() -> None:
    apart = {"epoch", "score"}  # what all others are shown over; what the sweep alone knows the kind of
    numeric = {field.name for field in fields(EpochMetrics) if str(field.type).split(" ")[0] in {"int", "float"}}
    assert numeric == {name for names in sections.SECTIONS.values() for name in names} | apart
    assert set(METRICS) <= numeric
    for name in numeric - apart:
        assert not sections.sectioned(name).startswith(f"{sections.OTHER}/")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("val_acc", "classification/val_acc"),
        ("val_acc.7", "val_acc_by_class/7"),
        ("fid.sea lion.2", "fid_by_class/sea lion.2"),
        ("grad_norm.up.0", "grad_norm/up.0"),
        ("fusion.block_film.up.0.1.hidden.gamma_mean", "fusion/block_film.up.0.1.hidden.gamma_mean"),
        ("class_distance.0.1", "class_distance/0.1"),
        ("sharpness", "other/sharpness"),
    ],
)
def test_a_metric_of_a_part_stands_with_those_of_the_other_parts(name: str, shown: str) -> None:
    assert sections.sectioned(name) == shown


def test_no_two_names_become_one() -> None:
    names = [f"fid/{text}" for text in (*odd.TEXTS, "a/../b", "b", "a//b", "a/b")]
    tags = [sections.tag(name) for name in names]
    assert len(set(tags)) == len(set(names))
    assert sections.tag("classification/val_acc") == "classification/val_acc"


@pytest.mark.parametrize(("side", "channels", "count"), [(8, 1, 3), (32, 3, 2), (70, 3, 1)])
def test_a_picture_of_samples_falls_into_the_rows_of_its_classes(
    tmp_path: Path, side: int, channels: int, count: int
) -> None:
    labels = torch.arange(11).repeat_interleave(count)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 250, (len(labels), channels, side, side), dtype=torch.uint8, generator=generator)
    grid.write(tmp_path / "all.png", images, labels)
    pixels = pixels_of(tmp_path / "all.png")
    classes = classes_of({f"val_acc.{label}": None for label in reversed(range(11))})
    assert classes == [str(label) for label in range(11)]  # 10 after 9
    rows = rows_of(pixels, classes)
    for label in range(11):
        grid.write(tmp_path / "one.png", images[labels == label], labels[labels == label])
        np.testing.assert_array_equal(rows[str(label)], pixels_of(local(tmp_path / "one.png")))
    assert rows_of(pixels, classes[:-1]) == {}  # of a class that was not measured nothing is taken for another's
    assert rows_of(pixels, []) == {}
