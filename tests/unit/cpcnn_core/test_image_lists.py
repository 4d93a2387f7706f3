"""The sources csv and folder: which files are which split and class, and one clear error for what is wrong."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cpcnn_core import data, image_files
from cpcnn_core.config import DataConfig
from cpcnn_core.data import Dataset
from cpcnn_core.data.listing import is_image
from cpcnn_core.errors import DataError

Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    return made


def put(root: Path, *names: str) -> None:
    """Images of 8x8 pixels of noise, each another one."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def lines(root: Path, file: str, *rows: str) -> None:
    (root / file).write_text("".join(f"{row}\n" for row in rows))


def of_csv(root: Path, **settings: Any) -> Dataset:
    return data.load(DataConfig(name="csv", root=str(root), **settings))


def of_folder(root: Path, **settings: Any) -> Dataset:
    return data.load(DataConfig(name="folder", root=str(root), **settings))


def labelled(split: data.Split, dataset: Dataset) -> dict[str, str | None]:
    return {
        name: None if label < 0 else dataset.class_names[label]
        for name, label in zip(split.names, split.labels.tolist(), strict=True)
    }


def test_a_folder_is_the_same_data_however_its_names_are_encoded(tmp_path: Path) -> None:
    """A Mac's file system may write each umlaut as two characters, and archives keep them."""
    found = []
    for form in ("NFC", "NFD"):
        root = tmp_path / form
        classes, files = ("Äpfel", "Zwetschgen"), [f"{letter}{index}.png" for letter in "äz" for index in range(6)]
        put(root, *(f"{name}/{file}" for name in classes for file in files))
        for folder in list(root.iterdir()):
            for file in [*folder.iterdir(), folder]:
                file.rename(file.with_name(unicodedata.normalize(form, file.name)))
        loaded = of_folder(root)
        paths = data.files(DataConfig(name="folder", root=str(root)), loaded.validation)
        assert paths
        assert all(path.is_file() for path in paths)
        found.append(loaded)
    composed, decomposed = found
    assert composed.class_names == decomposed.class_names == ("Zwetschgen", "Äpfel")
    assert composed.digest == decomposed.digest


def test_two_spellings_of_a_class_that_look_the_same_are_one_class(root: Path) -> None:
    spelt = [unicodedata.normalize(form, "Ä") for form in ("NFC", "NFD")]
    put(root, *(f"{name}/{index}.png" for name in (*spelt, "b") for index in range(10)))
    lines(root, "images.csv", *(f"{name}/{index}.png,{name}" for name in (*spelt, "b") for index in range(10)))
    for loaded in (of_folder(root), of_csv(root)):
        assert loaded.class_names == ("b", "Ä")
        names = [name for split in (loaded.train, loaded.validation, loaded.test) for name in split.names]
        assert len(set(names)) == len(names) == 30


def test_a_file_in_two_splits_has_one_label_however_it_is_spelt(root: Path) -> None:
    put(root, *(f"{index}.png" for index in range(4)))
    lines(root, "train.csv", *(f"{index}.png,{'Äb'[index % 2]}" for index in range(4)))
    lines(root, "validation.csv", f"0.png,{unicodedata.normalize('NFD', 'Ä')}")
    assert labelled(of_csv(root).validation, of_csv(root)) == {"0.png": "Ä"}


# ------------------------------------------------------------------------------------------------------------- csv


def pets(
    root: Path, file: str = "train.csv", before: Sequence[str] = (), row: str = "{name},{label}"
) -> dict[str, str]:
    """Five images of cats and five of dogs, and a CSV of them."""
    expected = {f"{label}s/{index}.png": label for index in range(5) for label in ("cat", "dog")}
    put(root, *expected)
    lines(root, file, *before, *(row.format(name=name, label=label) for name, label in expected.items()))
    return expected


@pytest.mark.parametrize(
    ("before", "row", "settings"),
    [
        ([], "{name},{label}", {}),
        (["file,class"], "{name},{label}", {}),
        (["\ufeffid,label", ""], "{name}, {label} ", {}),
        (["x,class,file"], "1,{label},{name}", {"image_column": "file", "label_column": "class"}),
        (["class,file"], "{label},{name}", {"image_column": "file"}),
        (["class,file"], "{label},{name}", {"label_column": "class"}),
        (["a.png,b.png"], "{name},{label}", {"image_column": "a.png"}),
    ],
)
def test_rows_are_read_with_a_header_or_none(root: Path, before: list[str], row: str, settings: dict[str, str]) -> None:
    expected = pets(root, "train.csv", before, row)
    dataset = of_csv(root, **settings)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.test) == 0
    assert labelled(dataset.train, dataset) | labelled(dataset.validation, dataset) == expected


def test_one_list_is_cut_into_three_splits(root: Path) -> None:
    expected = pets(root, "images.csv")
    dataset = of_csv(root)
    found = [labelled(getattr(dataset, split), dataset) for split in data.SPLITS]
    assert [len(split) for split in found] == [6, 2, 2]
    assert found[0] | found[1] | found[2] == expected


@pytest.mark.parametrize("validation", ["validation.csv", "valid.csv", "val.csv", "Validation.CSV"])
@pytest.mark.parametrize(
    ("test", "label"),
    [
        ("cats/7.png", None),
        ("cats/7.png,", None),
        ("cats/7.png,-1", None),
        ("cats/7.png,cat", "cat"),
        ("id\ncats/7.png", None),
    ],
)
def test_splits_of_ones_own_stay_and_test_labels_may_be_hidden(
    root: Path, validation: str, test: str, label: str | None
) -> None:
    expected = pets(root)
    put(root, "dogs/7.png", "cats/7.png")
    lines(root, validation, "dogs/7.png,dog")
    lines(root, "test.csv", test)
    dataset = of_csv(root)
    assert labelled(dataset.train, dataset) == expected
    assert labelled(dataset.validation, dataset) == {"dogs/7.png": "dog"}
    assert labelled(dataset.test, dataset) == {"cats/7.png": label}


def test_a_test_list_may_lack_the_column_of_classes(root: Path) -> None:
    pets(root, "train.csv", ["n,file,class"], "1,{name},{label}")
    put(root, "cats/7.png")
    lines(root, "test.csv", "n,file", "1,cats/7.png")
    dataset = of_csv(root, image_column="file", label_column="class")
    assert labelled(dataset.test, dataset) == {"cats/7.png": None}


@pytest.mark.parametrize(
    ("written", "names"), [((10, 9), ("9", "10")), (("01", "1"), ("01", "1")), ((1, "x"), ("1", "x"))]
)
def test_labels_are_numbers_only_where_all_are(root: Path, written: tuple[Any, Any], names: tuple[str, str]) -> None:
    put(root, *(f"{index}.png" for index in range(6)))
    lines(root, "train.csv", *(f"{index}.png,{written[index % 2]}" for index in range(6)))
    assert of_csv(root).class_names == names


def test_the_course_s_folder_is_read_as_any_other(root: Path) -> None:
    for split, labels in (("train", (0, 2, 0, 2)), ("validation", (2, 0)), ("test", (-1, -1))):
        names = [f"{split}/{index}.png" for index in range(len(labels))]
        put(root, *names)
        lines(root, f"{split}.csv", *(f"{name},{label}" for name, label in zip(names, labels, strict=True)))
    assert of_csv(root).class_names == ("0", "2")
    with pytest.raises(DataError, match=r"train\.csv: no training image has the label 1, 3; .*choose data\.name=csv"):
        data.load(DataConfig(name="cpen455", root=str(root)))


def test_four_classes_numbered_alike_are_the_same_data_for_both(root: Path) -> None:
    for split, labels in (("train", (0, 1, 2, 3)), ("validation", (3, 2)), ("test", (-1, -1))):
        names = [f"{split}/{index}.png" for index in range(len(labels))]
        put(root, *names)
        lines(root, f"{split}.csv", *(f"{name},{label}" for name, label in zip(names, labels, strict=True)))
    assert of_csv(root).digest == data.load(DataConfig(name="cpen455", root=str(root))).digest


def row(number: int, text: str, file: str = "train.csv") -> Change:
    def change(root: Path) -> None:
        rows = (root / file).read_text().splitlines()
        lines(root, file, *rows[: number - 1], text, *rows[number:])

    return change


def write(file: str, *rows: str) -> Change:
    return lambda root: lines(root, file, *rows)


def two_validations(root: Path) -> None:
    for name in ("val.csv", "valid.csv"):
        lines(root, name, "cats/0.png,cat")


def fifo_instead(name: str) -> Change:
    def change(root: Path) -> None:
        (root / name).unlink()
        os.mkfifo(root / name)

    return change


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (lambda root: (root / "train.csv").unlink(), {}, ["has no train.csv, nor images.csv", "expected one of them"]),
        (write("images.csv", "cats/0.png,cat"), {}, ["has images.csv and train.csv; expected images.csv alone"]),
        (
            two_validations,
            {},
            ["has val.csv and valid.csv; expected one of them, for the validation split"],
        ),
        (write("train.csv"), {}, ["train.csv is empty; expected rows like"]),
        (write("train.csv", "file,class"), {}, ["train.csv has a header and no rows"]),
        (
            write("train.csv", "f,c,x", "a.png,b,1"),
            {},
            ["its header names 'f', 'c', 'x'; say which", "data.label_column"],
        ),
        (write("train.csv", "f,f", "a.png,b"), {}, ["its header names 'f', 'f'; expected a name of its own"]),
        (write("train.csv", "file", "a.png"), {}, ["its header names 'file'; say which"]),
        (write("train.csv", "a.png"), {}, ["train.csv, row 1: 1 columns instead of 2"]),
        (write("train.csv", "a.png;b"), {}, ["train.csv, row 1: semicolons stand between the columns; write commas"]),
        (write("train.csv", "file\tclass", "a.png\tb"), {"label_column": "class"}, ["row 1: tabs stand between"]),
        (
            lambda _: None,
            {"image_column": "file"},
            ["data.image_column: ", "has no column 'file'; its header names 'cats/0"],
        ),
        (lambda _: None, {"label_column": "x"}, ["data.label_column: ", "has no column 'x'"]),
        (row(3, "cats/1.png,cat,x"), {}, ["train.csv, row 3: 3 columns instead of 2"]),
        (row(3, "cats/1.png,"), {}, ["train.csv, row 3: unlabelled image used for training", "test split"]),
        (row(3, "cats/1.png,-1"), {}, ["train.csv, row 3: unlabelled image used for training"]),
        (row(3, "cats/1.png,=1+1"), {}, ["train.csv, row 3: the class '=1+1' is a formula"]),
        (row(3, "cats/0.png,cat"), {}, ["train.csv, row 3: cats/0.png is in row 1 already"]),
        (row(3, "../secret.png,cat"), {}, ["train.csv, row 3: '../secret.png' leads out of the data folder"]),
        (row(3, "cats/9.png,cat"), {}, ["train.csv, row 3: cats/9.png does not exist; expected an image file at"]),
        (row(3, "@x.png,cat"), {}, ["train.csv, row 3: '@x.png' is a formula"]),
        (row(3, "cats/\x1b.png,cat"), {}, ["train.csv, row 3: 'cats/\\x1b.png' has characters that cannot be printed"]),
        (fifo_instead("cats/1.png"), {}, ["train.csv, row 3: cats/1.png is a named pipe; expected an image file"]),
        (fifo_instead("train.csv"), {}, ["train.csv is a named pipe, which is not read as a CSV"]),
        (lambda root: (root / "cats/1.png").write_text("<html>"), {}, ["row 3: cats/1.png cannot be decoded"]),
        (lambda root: (root / "train.csv").write_bytes(b"\xff\xfe"), {}, ["train.csv cannot be read as a CSV"]),
    ],
)
def test_a_list_that_cannot_be_used_is_named_with_row_and_way_out(
    root: Path, change: Change, settings: dict[str, str], words: list[str]
) -> None:
    pets(root)
    change(root)
    with pytest.raises(DataError) as caught:
        of_csv(root, **settings)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_first_row_whose_image_is_called_like_none_is_no_header_where_there_is_the_file(root: Path) -> None:
    expected = pets(root)
    for name in expected:
        (root / name).rename((root / name).with_suffix(""))
    lines(root, "train.csv", *(f"{name.removesuffix('.png')},{label}" for name, label in expected.items()))
    dataset = of_csv(root)
    assert len(dataset.train) + len(dataset.validation) == len(expected)


# ---------------------------------------------------------------------------------------------------------- folder


def test_a_folder_for_each_class_is_cut_into_three_splits(root: Path) -> None:
    names = [f"{label}/{index}.png" for label in ("cat", "dog", "eel") for index in range(5)]
    put(root, *names)
    dataset = of_folder(root)
    assert dataset.class_names == ("cat", "dog", "eel")
    found = [labelled(getattr(dataset, split), dataset) for split in data.SPLITS]
    assert [len(split) for split in found] == [9, 3, 3]
    assert found[0] | found[1] | found[2] == {name: name.split("/")[0] for name in names}


@pytest.mark.parametrize("validation", [None, "val", "valid", "validation"])
@pytest.mark.parametrize("test", [None, "labelled", "hidden"])
def test_folders_of_splits_stay_as_they_are(root: Path, validation: str | None, test: str | None) -> None:
    put(root, *(f"train/{label}/{index}.png" for label in ("cat", "dog") for index in range(5)))
    if validation is not None:
        put(root, f"{validation}/cat/a.png", f"{validation}/dog/b.png")
    if test is not None:
        put(root, "test/cat/c.png" if test == "labelled" else "test/c.png")
    dataset = of_folder(root)
    assert len(dataset.train) == (10 if validation else 8)
    assert len(dataset.validation) == 2
    if validation:
        assert labelled(dataset.validation, dataset) == {
            f"{validation}/cat/a.png": "cat",
            f"{validation}/dog/b.png": "dog",
        }
    expected = {None: {}, "labelled": {"test/cat/c.png": "cat"}, "hidden": {"test/c.png": None}}[test]
    assert labelled(dataset.test, dataset) == expected


def test_folders_called_by_numbers_are_in_the_order_of_the_numbers(root: Path) -> None:
    put(root, *(f"{label}/{index}.png" for label in range(12) for index in range(2)))
    assert of_folder(root).class_names == tuple(map(str, range(12)))


def test_a_class_may_be_called_as_a_split(root: Path) -> None:
    put(root, *(f"{label}/{index}.png" for label in ("train", "plane") for index in range(4)))
    assert of_folder(root).class_names == ("plane", "train")


def test_what_is_no_image_is_passed_over_and_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(root, *(f"train/{label}/{index}.png" for label in ("cat", "dog") for index in range(4)))
    (root / "train/cat/notes.txt").write_text("x")
    (root / "train/.DS_Store").write_text("x")
    (root / "train/dog/.cache").mkdir()
    (root / "extra").mkdir()
    of_folder(root)
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}: extra is no split, and not read",
        f"{root}: files without the ending of an image are not read: 1 of them, the first is 'train/cat/notes.txt'",
    ]


def link(name: str, target: str) -> Change:
    return lambda root: (root / name).symlink_to(root / target)


def link_out(root: Path) -> None:
    (root / "cat").rename(root.parent / "elsewhere")
    (root / "cat").symlink_to(root.parent / "elsewhere")


def hard_link(root: Path) -> None:
    os.link(root / "cat/0.png", root / "dog/9.png")


@pytest.mark.parametrize(
    ("names", "change", "words"),
    [
        ([], lambda _: None, ["there are no images; expected CLASS/*.png in it for each class, or train/CLASS/*.png"]),
        (["a.png", "b.png"], lambda _: None, ["'a.png' lies in no class's folder, as do 1 others"]),
        (["train/cat/a.png", "train/dog/a.png", "train/b.png"], lambda _: None, ["train: 'b.png' lies in no class's"]),
        (
            ["cat/a.png", "val/cat/b.png"],
            lambda _: None,
            ["has val/, but no train/ that holds a folder for each class"],
        ),
        (["train/a.png", "val/a.png"], lambda _: None, ["has train/, val/, but no train/ that holds a folder"]),
        (
            ["train/cat/a.png", "val/cat/b.png", "valid/cat/c.png"],
            lambda _: None,
            ["has val and valid; expected one of"],
        ),
        (
            ["Training/cat/a.png", "Testing/cat/b.png"],
            lambda _: None,
            ["Testing: holds the folder 'cat'", "called train"],
        ),
        (["cat/a.png"], lambda root: (root / "dog").mkdir(), ["dog: there are no images of this class"]),
        (["cat/a.png", "cat/b.png"], lambda _: None, ["all images are of the class 'cat'"]),
        (
            ["train/cat/a.png", "train/dog/a.png", "val/eel/a.png"],
            lambda _: None,
            ["val/eel: val/eel/a.png", "class 'eel'"],
        ),
        (
            ["train/cat/a.png", "train/dog/a.png", "val/b.png"],
            lambda _: None,
            ["val: 'b.png' lies in no class's folder"],
        ),
        (
            ["cat/0.png", "dog/0.png"],
            link("dog/1.png", "dog/0.png"),
            ["dog: dog/1.png is already as dog/0.png; expected"],
        ),
        (["cat/0.png", "dog/0.png"], hard_link, ["dog: dog/9.png is already as cat/0.png; expected each image once"]),
        (["cat/0.png", "dog/0.png"], link_out, ["cat: 'cat/0.png' leads out of the data folder"]),
        (["cat/0.png", "dog/0.png"], lambda root: os.mkfifo(root / "cat/1.png"), ["cat: cat/1.png is a named pipe"]),
        (["cat/0.png", "dog/0.png", "dog/=1.png"], lambda _: None, ["dog: 'dog/=1.png' is a formula"]),
        (["cat/0.png", "=dog/0.png"], lambda _: None, ["'=dog/0.png' is a formula"]),
        (["cat/0.png", "dog/0.png"], link("cat/1.png", "cat/1.png"), ["cat/1.png cannot be read"]),
        (
            ["cat/0.png", "dog/0.png"],
            lambda root: (root / "cat/0.png").write_text("x"),
            ["cat: cat/0.png cannot be dec"],
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_with_the_way_out(
    root: Path, names: list[str], change: Change, words: list[str]
) -> None:
    put(root, *names)
    change(root)
    with pytest.raises(DataError) as caught:
        of_folder(root)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["csv", "folder"])
def test_a_missing_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"data\.root: .*nowhere is no folder; expected"):
        data.load(DataConfig(name=name, root=str(tmp_path / "nowhere")))


def test_files_are_images_by_the_endings_that_their_formats_have() -> None:
    Image.init()
    endings = [ending for ending, found in Image.registered_extensions().items() if found in image_files.FORMATS]
    known = [ending for ending in endings if is_image(f"a{ending}")]
    assert {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"} <= set(known)
    assert set(endings) - set(known) <= {".apng", ".pfm", ".mpo"}  # animations, floats, and a camera's own
    assert is_image("A.JPG")
    assert not is_image("notes.txt")
    assert not is_image("png")
