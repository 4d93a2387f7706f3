"""What a file of arrays may be called and look like, and the one error for each that is something else."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cpcnn_core import data
from cpcnn_core.config import DataConfig
from cpcnn_core.data import DataError, npz

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 8, 4, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


def loaded(file: Path, **settings: object) -> data.Dataset:
    return data.load(DataConfig.model_validate({"name": "npz", "root": str(file), **settings}))


def splits(names: tuple[str, str], **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Arrays by `names` of images and labels, in which {} is the split: the first 21 images and those after them."""
    parts = {"train": slice(0, 21), "validation": slice(21, 30)}
    return {
        name.format(split): array[part]
        for name, array in zip(names, (PIXELS, LABELS), strict=True)
        for split, part in parts.items()
    } | more


NAMES = {
    "documented": ("images_{}", "labels_{}"),
    "medmnist": ("{}_images", "{}_labels"),
    "keras": ("x_{}", "y_{}"),
    "scikit-learn": ("X_{}", "y_{}"),
}


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_splits_are_found_by_the_names_in_use(names: tuple[str, str], validation: str, save: Any, file: Path) -> None:
    arrays = {name.replace("validation", validation): array for name, array in splits(names).items()}
    save(file, **arrays)
    found = loaded(file)
    assert (len(found.train), len(found.validation), len(found.test)) == (21, 9, 0)
    assert torch.equal(found.train.images, torch.from_numpy(PIXELS[:21]).permute(0, 3, 1, 2))
    assert found.validation.labels.tolist() == LABELS[21:].tolist()
    assert found.train.names[20] == "train/000020"
    assert found.image_shape == (3, 8, 4)


@pytest.mark.parametrize("in_a_folder", [True, False])
@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("pixels", "target")])
def test_one_pair_of_arrays_is_split_here(names: tuple[str, str], in_a_folder: bool, file: Path) -> None:
    np.savez(file, **dict(zip(names, (PIXELS, LABELS), strict=True)))
    asked = {"image_column": "pixels", "label_column": "target"} if names[0] == "pixels" else {}
    found = loaded(file.parent if in_a_folder else file, **asked)
    assert (len(found.train), len(found.validation), len(found.test)) == (24, 3, 3)
    for split in (found.train, found.validation, found.test):
        for name, image, label in zip(split.names, split.images, split.labels, strict=True):
            at = int(name.removeprefix("images/"))
            assert torch.equal(image, torch.from_numpy(PIXELS[at]).permute(2, 0, 1))
            assert label == LABELS[at]


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (LABELS.astype(np.uint8)[:, None], ("0", "1", "2")),
        (LABELS + 3, ("3", "4", "5")),
        (np.array(["cat", "eel", "dog"])[LABELS], ("cat", "dog", "eel")),
        (np.array([b"cat", b"eel", b"dog"])[LABELS], ("cat", "dog", "eel")),
        (np.array(["10", "9", "2"])[LABELS], ("2", "9", "10")),
    ],
)
def test_labels_are_integers_or_text(labels: NDArray[Any], named: tuple[str, ...], file: Path) -> None:
    np.savez(file, images=PIXELS, labels=labels)
    assert loaded(file).class_names == named


def test_classes_may_have_names_of_their_own_and_test_images_no_labels(file: Path) -> None:
    np.savez(file, **splits(NAMES["keras"], images_test=PIXELS[:5], class_names=np.array(["cat", "eel", "dog"])))
    found = loaded(file)
    assert found.class_names == ("cat", "eel", "dog")
    assert found.test.labels.tolist() == [data.HIDDEN] * 5
    assert found.train.labels.tolist() == LABELS[:21].tolist()


@pytest.mark.parametrize("shape", [(30, 8, 4), (30, 8, 4, 1)])
def test_grey_images_have_one_channel(shape: tuple[int, ...], file: Path) -> None:
    np.savez(file, images=PIXELS[..., 0].reshape(shape), labels=LABELS)
    assert loaded(file).image_shape == (1, 8, 4)


def test_a_second_start_reads_labels_and_no_images(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(file, images=PIXELS, labels=LABELS)
    first = loaded(file)
    seen: list[str] = []
    read = npz._Archive.read

    def noted(archive: npz._Archive, name: str) -> NDArray[np.generic]:
        seen.append(name)
        return read(archive, name)

    monkeypatch.setattr(npz._Archive, "read", noted)
    second = loaded(file)
    assert seen == ["labels"]
    assert torch.equal(first.train.images, second.train.images)
    np.savez(file, images=255 - PIXELS, labels=LABELS)
    assert loaded(file).digest != first.digest


WRONG: dict[str, tuple[dict[str, NDArray[Any]], str]] = {
    "floats": (
        {"images": PIXELS / 255, "labels": LABELS},
        r"images is of float64 and shape \(30, 8, 4, 3\); expected uint8.*as numpy\.rint\(images \* 255\)\.astype",
    ),
    "booleans": ({"images": PIXELS > 9, "labels": LABELS}, r"images\.astype\(numpy\.uint8\) \* 255"),
    "wide integers": ({"images": PIXELS.astype(int), "labels": LABELS}, r"images\.astype\(numpy\.uint8\)"),
    "channels first": (
        {"images": PIXELS.transpose(0, 3, 1, 2), "labels": LABELS},
        r"shape \(30, 3, 8, 4\).*write channels last, as images\.transpose\(0, 2, 3, 1\)",
    ),
    "flat": ({"x": PIXELS.reshape(30, -1), "y": LABELS}, r"x\.reshape\(-1, HEIGHT, WIDTH\)"),
    "transparent": ({"images": PIXELS.repeat(2, 3)[..., :4], "labels": LABELS}, r"images\[\.\.\., :3\]"),
    "two channels": ({"images": PIXELS[..., :2], "labels": LABELS}, "1 or 3 channels: write an array of that shape"),
    "one image": ({"images": PIXELS[0, 0], "labels": LABELS}, "expected uint8"),
    "no images": ({"images": PIXELS[:0], "labels": LABELS[:0]}, "leave the array out, or write one with images"),
    "fewer labels": ({"images": PIXELS, "labels": LABELS[1:]}, "images has 30 images, and labels 29 labels"),
    "one-hot": ({"images": PIXELS, "labels": np.eye(3)[LABELS]}, r"labels\.argmax\(axis=1\)"),
    "fractions": ({"images": PIXELS, "labels": LABELS / 2}, r"labels\.astype\(int\)"),
    "objects": ({"images": PIXELS, "labels": LABELS.astype(object)}, "objects are not unpickled"),
    "a table": ({"images": PIXELS, "labels": LABELS.reshape(5, 2, 3)}, "expected integers or text"),
    "not UTF-8": ({"images": PIXELS, "labels": np.array([b"\xff", b"a", b"b"])[LABELS]}, "labels is no UTF-8"),
    "hidden": ({"images": PIXELS, "labels": LABELS - 1}, r"data\.npz, labels\[0\]: unlabelled image used"),
    "no labels": ({"images_train": PIXELS}, "has images_train and no labels for them"),
    "no images of labels": (splits(NAMES["keras"], y_test=LABELS), "has y_test and no images for them"),
    "other names": ({"pixels": PIXELS, "target": LABELS}, "has pixels, target; expected images_train and labels_train"),
    "twice": ({"images": PIXELS, "x": PIXELS, "labels": LABELS}, "has images and x; expected one of them"),
    "all and splits": (splits(NAMES["keras"], x=PIXELS, y=LABELS), "expected x alone, which is split here"),
    "classes by number": (
        {"images": PIXELS, "labels": LABELS, "class_names": LABELS},
        r"class_names is of int64 and shape \(30,\); expected text",
    ),
    "a name twice": (
        {"images": PIXELS, "labels": LABELS, "class_names": np.array(["cat", "dog", "cat"])},
        r"two classes are called 'cat'",
    ),
    "too few names": (
        {"images": PIXELS, "labels": LABELS, "class_names": np.array(["cat", "dog"])},
        r"labels\[2\]: label 2 of images/000002 is none of the 2 classes",
    ),
}


@pytest.mark.parametrize(("arrays", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_images_and_labels_is_one_error(arrays: dict[str, NDArray[Any]], said: str, file: Path) -> None:
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=said):
        loaded(file)


def test_an_array_that_is_not_read_is_said(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(file, images=PIXELS, labels=LABELS, mean=PIXELS.mean())
    loaded(file)
    assert [message for message in caplog.messages if "not read" in message] == [f"{file}: mean is not read"]


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _flipped(file: Path) -> None:
    """A pixel: the zip's own checksum tells."""
    content = bytearray(file.read_bytes())
    content[content.index(PIXELS[3].tobytes())] ^= 1
    file.write_bytes(content)


def _shorter(file: Path) -> None:
    """The array's header promises more than there is."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:-7])


def _pickled(file: Path) -> None:
    np.save(file.with_suffix(".npy"), np.array([{}], dtype=object))
    file.with_suffix(".npy").replace(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _folder_of_two(file: Path) -> None:
    _folder(file)
    for name in ("a.npz", "b.npz"):
        (file / name).touch()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncated, "is no .npz file; expected a zip of arrays"),
        (_flipped, r"images cannot be read \(Bad CRC-32"),
        (_shorter, "images is damaged: it has 2873 bytes"),
        (_pickled, "is no .npz file; expected a zip of arrays"),
        (Path.unlink, r"data\.root: .*data\.npz cannot be read \(No such file"),
        (_folder, r"expected one \.npz file in it, and there is none; name the file"),
        (_folder_of_two, r"expected one \.npz file in it, and there are a\.npz, b\.npz; name the file"),
    ],
)
def test_a_damaged_file_is_one_error(damage: Any, said: str, file: Path) -> None:
    np.savez(file, images=PIXELS, labels=LABELS)
    damage(file)
    with pytest.raises(DataError, match=said):
        loaded(file)
