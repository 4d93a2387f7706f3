"""Data sets of the library `datasets`: on disk, as Parquet, as image files, and on a hub that is a stand-in."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from cpcnn_core import data
from cpcnn_core.config import DataConfig
from cpcnn_core.data import hub as source
from cpcnn_core.errors import DataError
from tests.support import hub, hub_data
from tests.support.paths import ROOT

if TYPE_CHECKING:
    import datasets
else:
    datasets = pytest.importorskip("datasets")

CLASSES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "PNG")
    return stream.getvalue()


def table(
    seeds: Sequence[int], labels: Sequence[Any] | None = None, kind: Any = None, **columns: tuple[Any, Any]
) -> Any:
    """Images in `image`, classes in `label`, and further columns of a kind and with values."""
    features = {"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=CLASSES)}
    content = {
        "image": [{"bytes": png(seed), "path": None} for seed in seeds],
        "label": [seed % 2 for seed in seeds] if labels is None else list(labels),
    }
    for name, (of_kind, values) in columns.items():
        features[name], content[name] = of_kind, list(values)
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


def saved(found: Any, folder: Path) -> DataConfig:
    found.save_to_disk(str(folder))
    return DataConfig(name="hf", root=str(folder))


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "dev"])
def test_splits_go_by_their_names_and_stay_as_they_are(tmp_path: Path, validation: str) -> None:
    parts = {"train": table(range(8)), validation: table(range(8, 11)), "test": table([11, 12], [-1, None])}
    parts["unlabelled"] = table([20], [-1])
    dataset = data.load(saved(datasets.DatasetDict(parts), tmp_path / "saved"))
    assert dataset.class_names == tuple(CLASSES)
    assert dataset.train.labels.tolist() == [0, 1] * 4
    assert dataset.validation.labels.tolist() == [0, 1, 0]
    assert dataset.test.labels.tolist() == [data.HIDDEN] * 2
    assert dataset.validation.names == tuple(f"validation/{row:07d}" for row in range(3))
    expected = torch.from_numpy(np.stack([pixels(seed) for seed in range(8)])).permute(0, 3, 1, 2)
    assert torch.equal(dataset.train.images, expected)


def test_one_table_is_cut(tmp_path: Path) -> None:
    dataset = data.load(saved(table(range(20)), tmp_path / "saved"))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [16, 2, 2]


@pytest.mark.parametrize(
    ("kind", "labels", "names"), [("int64", [7, 30], ("7", "30")), ("string", ["eel", "Cat"], ("Cat", "eel"))]
)
def test_a_column_that_is_named_may_hold_numbers_or_names(
    tmp_path: Path, kind: str, labels: list[Any], names: tuple[str, ...]
) -> None:
    config = saved(table(range(8), labels * 4, datasets.Value(kind)), tmp_path / "saved")
    with pytest.raises(DataError, match=r"data\.label_column: none of the columns .* of the kind ClassLabel"):
        data.load(config)
    assert data.load(config.model_copy(update={"label_column": "label"})).class_names == names


def test_parquet_files_and_folders_of_images_are_read(tmp_path: Path) -> None:
    parquet, images = tmp_path / "parquet", tmp_path / "images"
    parquet.mkdir()
    for split, seeds in (("train", range(8)), ("test", range(8, 12))):
        table(seeds).to_parquet(str(parquet / f"{split}-00000-of-00001.parquet"))
        for seed in seeds:
            file = images / split / CLASSES[seed % 2] / f"{seed:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(seed))
    in_parquet, in_images = (data.load(DataConfig(name="hf", root=str(root))) for root in (parquet, images))
    for dataset in (in_parquet, in_images):
        assert dataset.class_names == tuple(CLASSES)
        assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [6, 2, 4]
    file = images / "test" / "cat" / "08.png"
    file.write_bytes(png(99))  # the library goes by the tables that it has made, and these still name the file
    assert data.load(DataConfig(name="hf", root=str(images))).digest != in_images.digest


def test_a_table_that_was_written_over_is_read_again(tmp_path: Path) -> None:
    first = data.load(saved(table(range(8)), tmp_path / "saved"))
    assert data.load(saved(table(range(8)), tmp_path / "elsewhere")).digest == first.digest
    assert data.load(saved(table(range(1, 9)), tmp_path / "saved")).digest != first.digest


class TestRefused:
    @pytest.mark.parametrize(
        ("further", "said"),
        [
            ({"second": (lambda: datasets.Image(), [None] * 4)}, r"image_column: 2 of the columns"),
            ({"coarse": (lambda: datasets.ClassLabel(names=CLASSES), [0] * 4)}, r"label_column: 2 of the columns"),
        ],
    )
    def test_columns_that_are_not_clear_are_listed(self, tmp_path: Path, further: dict[str, Any], said: str) -> None:
        columns = {name: (kind(), values) for name, (kind, values) in further.items()}
        with pytest.raises(
            DataError, match=rf"data\.{said} .*name the one to use.*image \(Image\), label \(ClassLabel\)"
        ):
            data.load(saved(table(range(4), **columns), tmp_path / "saved"))

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"image_column": "picture"}, r"image_column: there is no column 'picture'.*image \(Image\)"),
            ({"image_column": "label"}, r"image_column: label holds ClassLabel, not images"),
            ({"label_column": "image"}, r"label_column: image holds neither numbers nor names"),
            ({"label_column": "weight"}, r"label_column: weight holds neither numbers nor names"),
            ({"dataset": "ada/pets"}, r"root, data\.dataset: hf reads a folder or a data set of the hub"),
            ({"root": None}, r"root, data\.dataset: hf reads a folder or a data set of the hub"),
        ],
    )
    def test_settings_that_do_not_fit(self, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
        config = saved(table(range(4), weight=(datasets.Value("float32"), [0.5] * 4)), tmp_path / "saved")
        with pytest.raises(DataError, match=rf"^data\.{said}"):
            data.load(config.model_copy(update=settings))

    @pytest.mark.parametrize(
        ("splits", "said"),
        [(("fit", "test"), "none is called train"), (("train", "val", "valid"), "two validation splits")],
    )
    def test_splits_that_are_not_clear(self, tmp_path: Path, splits: tuple[str, ...], said: str) -> None:
        with pytest.raises(DataError, match=said):
            data.load(saved(datasets.DatasetDict({name: table(range(4)) for name in splits}), tmp_path / "saved"))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ({"bytes": b"none", "path": None}, "train, row 3: cannot be decoded"),
            (None, "train, row 3: is empty"),
        ],
    )
    def test_an_image_that_is_none(self, tmp_path: Path, content: Any, said: str) -> None:
        rows = [{"bytes": png(seed), "path": None} for seed in range(6)]
        rows[3] = content
        features = datasets.Features(
            {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=CLASSES)}
        )
        found = datasets.Dataset.from_dict({"image": rows, "label": [0, 1] * 3}, features=features)
        found.to_parquet(str(tmp_path / "train.parquet"))
        with pytest.raises(DataError, match=said):
            data.load(DataConfig(name="hf", root=str(tmp_path)))

    def test_an_image_file_that_is_gone(self, tmp_path: Path) -> None:
        for seed, name in enumerate(CLASSES):
            (tmp_path / name).mkdir()
            (tmp_path / name / f"{seed}.png").write_bytes(png(seed))
        found = datasets.load_dataset(str(tmp_path))["train"]
        (tmp_path / "dog" / "1.png").unlink()
        images = source._pool("train", found, "image", "label").images
        assert images.decode(0).shape == (8, 8, 3)
        with pytest.raises(DataError, match=r"train, row 1: .*1\.png cannot be read"):
            images.decode(1)
        with pytest.raises(DataError, match=r"1\.png cannot be read"):
            list(images.stamps())

    def test_a_folder_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"data\.root: .*missing is no folder"):
            data.load(DataConfig(name="hf", root=str(tmp_path / "missing")))
        (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
        with pytest.raises(DataError, match=r"data\.root: .* cannot be read by the library datasets"):
            data.load(DataConfig(name="hf", root=str(tmp_path)))


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    """In a process of its own, since the library reads the hub's address when it is imported."""
    table(range(12)).to_parquet(str(tmp_path / "table"))
    lines = [
        "from cpcnn_core import data",
        "from cpcnn_core.config import DataConfig",
        "dataset = data.load(DataConfig(name='hf', dataset='ada/pets'))",
        "print(dataset.class_names, len(dataset.train), len(dataset.validation), len(dataset.test))",
    ]
    with hub_data.serving({"data/train-00000-of-00001.parquet": (tmp_path / "table").read_bytes()}) as url:
        environment = hub.environment(url, tmp_path / "home") | {"CPCNN_CACHE": str(tmp_path / "cache")}
        run = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.stdout.strip() == "('cat', 'dog') 10 2 0", run.stderr
