"""What data is called in pages and cards."""

from __future__ import annotations

import pytest

from cpcnn_core.config import DataConfig
from cpcnn_core.sources import title


@pytest.mark.parametrize(
    ("name", "dataset", "root", "called"),
    [
        ("digits", None, None, "digits"),
        ("cpen455", None, "/data/of/the/course", "cpen455"),
        ("torchvision", "FashionMNIST", "~/datasets", "FashionMNIST"),
        ("hf", "owner/pets", None, "owner/pets"),
        ("folder", None, "/data/pets", "pets"),
        ("folder", None, "/data/pets/", "pets"),
        ("csv", None, "s3://bucket/pets", "pets"),
        ("npz", None, "C:\\data\\pets.npz", "pets.npz"),
        ("folder", None, ".", "folder"),
        ("of a later release", None, "/data/pets", "of a later release"),
    ],
)
def test_a_title_says_which_data_it_is(name: str, dataset: str | None, root: str | None, called: str) -> None:
    assert title(name, dataset, root) == called


def test_a_configuration_has_its_datas_title() -> None:
    assert DataConfig(name="folder", root="/data/pets").title == "pets"
