"""What the data module promises: right pixels, right labels, decoded once, and one clear error for what is wrong."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close

from cpcnn_core import cache, data
from cpcnn_core.config import DataConfig
from cpcnn_core.data import DataError
from cpcnn_core.data.listing import Row
from tests.support.paths import SHARED

REAL = SHARED / "data" / "cpen455"
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the cpen455 images are not at {REAL}")

ARABIC_ONE = "\N{ARABIC-INDIC DIGIT ONE}"
SIZES = {"train": 8, "validation": 4, "test": 3}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CPCNN_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def digits_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the raw digits, so that scikit-learn is imported once and not once a test."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPCNN_CACHE", str(folder))
        data.load(DataConfig(name="digits"))
    return folder


@pytest.fixture
def digits_cache(digits_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(digits_once))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small folder in the layout of cpen455: lossless images, CRLF, hidden test labels."""
    folder = tmp_path / "images"
    random = np.random.default_rng(0)
    for split, size in SIZES.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for index in range(size):
            name = f"{split}/{index:07d}.png"
            Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / name)
            rows.append(f"{name},{-1 if split == 'test' else index % 4}")
        (folder / f"{split}.csv").write_bytes("\r\n".join([*rows, ""]).encode())
    return folder


def config(root: Path | str, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"name": "cpen455", "root": str(root), **settings})


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(f"{row}\n" for row in change(path.read_text().splitlines())))


# ---------------------------------------------------------------------------------------------------------- digits


@pytest.mark.usefixtures("digits_cache")
def test_digits_are_split_by_class_and_lose_no_image() -> None:
    digits = data.load(DataConfig(name="digits"))
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1197, 300, 300)
    names = [*digits.train.names, *digits.validation.names, *digits.test.names]
    assert sorted(names) == [f"digits/{index:04d}" for index in range(1797)]
    for split in (digits.validation, digits.test):
        assert Counter(split.labels.tolist()) == dict.fromkeys(range(10), 30)
        assert split.labelled
    assert digits.nr_classes == 10
    assert digits.image_shape == (1, 8, 8)


@pytest.mark.usefixtures("digits_cache")
def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    digits = data.load(DataConfig(name="digits"))
    for split in (digits.train, digits.validation, digits.test):
        rows = [int(name.removeprefix("digits/")) for name in split.names]
        expected = torch.from_numpy(levels[rows] * 255 / 16).round().to(torch.uint8)
        assert torch.equal(split.images.flatten(1), expected)
        assert split.labels.tolist() == labels[rows].tolist()


@pytest.mark.usefixtures("digits_cache")
def test_digits_fit_another_shape() -> None:
    plain = data.load(DataConfig(name="digits")).test.images
    large = data.load(DataConfig(name="digits", image_size=12, channels=3)).test.images
    assert large.shape == (300, 3, 12, 12)
    assert large.dtype == torch.uint8
    assert torch.equal(large[:, 0], large[:, 1])
    assert torch.equal(large[:, 0], large[:, 2])
    assert_close(large.float().mean(), plain.float().mean(), rtol=0.05, atol=0)


@pytest.mark.usefixtures("digits_cache")
def test_unrounded_digits_are_floats_of_the_same_images() -> None:
    rounded = data.load(DataConfig(name="digits")).train.images
    exact = data.load(DataConfig(name="digits", quantize=False)).train.images
    assert exact.dtype == torch.float32
    assert_close(data.to_model(rounded), exact, atol=0.5 / 127.5 + 1e-6, rtol=0)
    assert_close((exact + 1) * 8, ((exact + 1) * 8).round())  # the 17 levels, as scikit-learn has them


@pytest.mark.usefixtures("digits_cache")
@settings(max_examples=20)
@given(fractions=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)))
def test_smaller_training_fractions_nest_in_larger_ones_and_keep_every_class(fractions: tuple[float, float]) -> None:
    small, large = (
        data.load(DataConfig(name="digits", train_fraction=fraction)).train for fraction in sorted(fractions)
    )
    assert set(small.names) <= set(large.names)
    assert set(small.labels.tolist()) == set(range(10))
    assert list(small.names) == sorted(small.names)
    whole = Counter(data.load(DataConfig(name="digits")).train.labels.tolist())
    for label, count in Counter(large.labels.tolist()).items():
        assert abs(count - max(fractions) * whole[label]) <= 1


# --------------------------------------------------------------------------------------------------------- cpen455


def test_a_folder_of_images_becomes_three_splits(root: Path) -> None:
    loaded = data.load(config(root, image_size=12))
    assert loaded.image_shape == (3, 12, 12)
    assert loaded.nr_classes == 4
    for split, size in SIZES.items():
        part: data.Split = getattr(loaded, split)
        assert part.names == tuple(f"{split}/{index:07d}.png" for index in range(size))
        assert part.images.dtype == torch.uint8
        for name, image in zip(part.names, part.images, strict=True):
            pixels = np.asarray(Image.open(root / name))
            assert torch.equal(image, torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    assert loaded.train.labels.tolist() == [index % 4 for index in range(8)]
    assert loaded.train.labels.dtype == torch.int64
    assert loaded.validation.labelled
    assert not loaded.test.labelled


def test_resizing_is_bilinear_and_antialiased(root: Path) -> None:
    floats = data.load(config(root, image_size=8)).validation  # as the course trains and grades
    rounded = data.load(config(root, image_size=8, quantize=True)).validation
    for name, exact, integer in zip(floats.names, floats.images, rounded.images, strict=True):
        channels = np.asarray(Image.open(root / name), dtype=np.float32).transpose(2, 0, 1)
        resized = [Image.fromarray(channel).resize((8, 8), Image.Resampling.BILINEAR) for channel in channels]
        expected = torch.from_numpy(np.stack([np.asarray(channel) for channel in resized]))
        assert_close(exact, expected / 127.5 - 1, atol=1e-5, rtol=0)
        assert torch.equal(integer, expected.round().to(torch.uint8))


def test_an_image_of_one_grey_channel_is_repeated(root: Path) -> None:
    pixels = np.arange(144, dtype=np.uint8).reshape(12, 12)
    Image.fromarray(pixels).save(root / "train" / "0000000.png")
    image = data.load(config(root, image_size=12)).train.images[0]
    assert torch.equal(image, torch.from_numpy(pixels).expand(3, 12, 12))


def test_one_channel_is_the_luma_of_the_image(root: Path) -> None:
    loaded = data.load(config(root, image_size=12, channels=1))
    assert loaded.image_shape == (1, 12, 12)
    colours = data.load(config(root, image_size=12)).test.images.float()
    luma = (colours * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert_close(loaded.test.images.float(), luma, atol=1, rtol=0)


def test_a_byte_order_mark_and_blank_lines_do_no_harm(root: Path) -> None:
    names = data.load(config(root)).train.names
    rows = (root / "train.csv").read_text()
    (root / "train.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode() + b"\r\n\r\n")
    assert data.load(config(root)).train.names == names


def test_the_home_folder_may_be_written_as_a_tilde(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(data.load(config("~/images")).train) == SIZES["train"]


# ---------------------------------------------------------------------------------------------------------- errors


def set_row(split: str, number: int, text: str) -> Callable[[Path], None]:
    def change(rows: list[str]) -> list[str]:
        return [*rows[: number - 1], text, *rows[number:]]

    return lambda root: edit(root / f"{split}.csv", change)


def replace_image(content: bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / "validation" / "0000001.png").write_bytes(content)

    return damage


def deep_image(root: Path) -> None:
    Image.fromarray(np.zeros((12, 12), dtype=np.uint16)).save(root / "validation" / "0000001.png")


def cut_image(root: Path) -> None:
    path = root / "validation" / "0000001.png"
    path.write_bytes(path.read_bytes()[:200])


def link_out(root: Path) -> None:
    outside = root.parent / "secret.png"
    (root / "test" / "0000000.png").rename(outside)
    (root / "test" / "0000000.png").symlink_to(outside)


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).unlink()
        make(root / name)

    return change


def listen(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have some hundred bytes
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)
    os.chdir(here)


def to_null(path: Path) -> None:
    path.symlink_to(os.devnull)


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / name).unlink()
        (root / name).symlink_to(root / target)

    return change


def link_in_a_circle(root: Path) -> None:
    link = root / "test" / "0000000.png"
    link.unlink()
    link.symlink_to(link)


def link_folder_out(root: Path) -> None:
    (root / "test").rename(root.parent / "elsewhere")
    (root / "test").symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "test.csv").unlink(), ["test.csv does not exist", "expected rows like"]),
        (lambda root: (root / "train.csv").write_text(""), ["train.csv is empty", "expected rows like"]),
        (lambda root: (root / "train.csv").write_text("\n\n"), ["train.csv is empty"]),
        (lambda root: (root / "train.csv").write_bytes(b"\xff\xfe\x00"), ["train.csv cannot be read as a CSV"]),
        (set_row("train", 1, "id,label"), ["train.csv, row 1", "'label' is no integer", "without a header"]),
        (set_row("train", 3, "train/0000002.png"), ["train.csv, row 3", "1 columns instead of 2"]),
        (set_row("train", 3, "train/0000002.png,1,2"), ["train.csv, row 3", "3 columns instead of 2"]),
        (set_row("train", 3, "train/0000002.png,1.0"), ["train.csv, row 3", "'1.0' is no integer", "0 to 3"]),
        (set_row("train", 3, f"train/0000002.png,{ARABIC_ONE}"), ["row 3", f"label '{ARABIC_ONE}' is no integer"]),
        (set_row("train", 3, "train/0000002.png,0_1"), ["train.csv, row 3", "label '0_1' is no integer"]),
        (set_row("train", 3, "train/0000002.png,²"), ["train.csv, row 3", "label '²' is no integer"]),
        (
            set_row("train", 3, f"train/0000002.png,{'1' * 5000}"),
            ["row 3", f"label '{'1' * 40}'... (5000 characters) is out"],
        ),
        (set_row("train", 3, "train/0000002.png,123456789"), ["row 3", "label 123456789 is out of range"]),
        (set_row("train", 2, f"{'../' * 2000}a.png,1"), ["train.csv, row 2", "... (6005 characters) leads out"]),
        (
            instead("train/0000002.png", os.mkfifo),
            ["train.csv, row 3", "train/0000002.png is a named pipe; expected an"],
        ),
        (instead("test/0000000.png", listen), ["test.csv, row 1", "test/0000000.png is a socket; expected an"]),
        (instead("train/0000002.png", to_null), ["train.csv, row 3", "'train/0000002.png' leads out of the data"]),
        (instead("train.csv", os.mkfifo), ["train.csv is a named pipe, which is not read", "expected rows like"]),
        (instead("test.csv", Path.mkdir), ["test.csv is a folder, which is not read", "expected rows like"]),
        (instead("test.csv", to_null), ["test.csv is a device, which is not read", "expected rows like"]),
        (set_row("train", 3, "train/0000002.png,4"), ["train.csv, row 3", "label 4 is out of range", "0 to 3"]),
        (
            set_row("test", 2, "test/0000001.png,-2"),
            ["test.csv, row 2", "label -2", "0 to 3, or -1 where"],
        ),
        (set_row("train", 3, "train/0000002.png,-1"), ["train.csv, row 3", "unlabelled split used for training"]),
        (
            set_row("validation", 4, "validation/0000003.png,-1"),
            ["validation.csv, row 4", "unlabelled split used for validation"],
        ),
        (set_row("train", 5, "train/0000001.png,1"), ["train.csv, row 5", "train/0000001.png is in row 2 already"]),
        (set_row("train", 5, "./train//0000001.png,1"), ["row 5", "is in row 2 already as train/0000001.png"]),
        (link("train/0000004.png", "train/0000001.png"), ["row 5", "is in row 2 already as train/0000001.png"]),
        (
            set_row("validation", 3, "train/0000001.png,2"),
            ["validation.csv, row 3", "has label 2, and label 1 in row 2 of", "train.csv; expected one label"],
        ),
        (set_row("train", 2, "train/9999999.png,1"), ["train.csv, row 2", "train/9999999.png does not exist"]),
        (set_row("train", 2, "train,1"), ["train.csv, row 2", "train is a folder; expected an image"]),
        (set_row("train", 2, ",1"), ["train.csv, row 2", "'' leads out of the data folder"]),
        (set_row("train", 2, "/etc/hostname,1"), ["train.csv, row 2", "'/etc/hostname' leads out of the data folder"]),
        (set_row("train", 2, "train/../../a.png,1"), ["train.csv, row 2", "'train/../../a.png' leads out"]),
        (set_row("test", 1, '"=HYPERLINK(""http://x"")",0'), ["test.csv, row 1", "is a formula to a spreadsheet"]),
        (set_row("test", 1, "test/@SUM(A1).png,0"), ["test.csv, row 1", "'test/@SUM(A1).png' is a formula"]),
        (set_row("test", 1, "+1.png,0"), ["test.csv, row 1", "'+1.png' is a formula"]),
        (set_row("test", 1, "test/-1.png,0"), ["test.csv, row 1", "'test/-1.png' is a formula"]),
        (set_row("test", 1, "test/\x1b[31m.png,0"), ["test.csv, row 1", "'test/\\x1b[31m.png' has characters that"]),
        (set_row("test", 1, "test/\0.png,0"), ["test.csv, row 1", "'test/\\x00.png' has characters that cannot be"]),
        (set_row("test", 1, f"test/{'a' * 300}.png,0"), ["test.csv, row 1", "cannot be read: ", "File name too long"]),
        (link_in_a_circle, ["test.csv, row 1", "test/0000000.png cannot be read: "]),
        (link_out, ["test.csv, row 1", "'test/0000000.png' leads out of the data folder"]),
        (link_folder_out, ["test.csv, row 1", "'test/0000000.png' leads out of the data folder"]),
        (replace_image(b""), ["validation.csv, row 2", "validation/0000001.png cannot be decoded"]),
        (replace_image(b"<html>404</html>"), ["validation.csv, row 2", "no known image format", "expected a whole"]),
        (cut_image, ["validation.csv, row 2", "validation/0000001.png cannot be decoded"]),
        (deep_image, ["validation.csv, row 2", "mode I;16", "expected 8 bits per channel"]),
    ],
)
def test_the_error_names_file_and_row_and_what_was_expected(
    root: Path, damage: Callable[[Path], None], said: list[str]
) -> None:
    damage(root)
    with pytest.raises(DataError) as caught:
        data.load(config(root))
    for words in said:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_to_complete_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: is a named pipe; expected an image file"):
        data.read_image(tmp_path / "pipe.png", (3, 8, 8))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root: .*nowhere is no folder; expected the one that holds train\.csv"):
        data.load(config(tmp_path / "nowhere"))


def test_a_symbolic_link_within_the_folder_is_fine(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "test" / "0000000.png").rename(root / "elsewhere" / "a.png")
    (root / "test" / "0000000.png").symlink_to(root / "elsewhere" / "a.png")
    assert len(data.load(config(root)).test) == SIZES["test"]


@pytest.mark.parametrize("by", ["path", "link", "content", "none"])
def test_images_that_two_splits_share_are_said_with_counts(
    root: Path, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    if by == "path":
        set_row("validation", 3, "./train//0000001.png,1")(root)
        set_row("validation", 4, "train/0000002.png,2")(root)
    elif by == "link":
        link("validation/0000002.png", "train/0000002.png")(root)
        link("validation/0000003.png", "train/0000003.png")(root)
    elif by == "content":
        for index in (2, 3):
            pixels = Image.open(root / "train" / f"000000{index}.png")
            pixels.save(root / "validation" / f"000000{index}.bmp")
            set_row("validation", index + 1, f"validation/000000{index}.bmp,{3 - index}")(root)
    data.load(config(root))
    said = [record.getMessage() for record in caplog.records]
    labels = ", 2 of them with another label" if by == "content" else ""
    expected = f"2 of the 4 images of validation are in train too{labels}; what is measured on them says little of new"
    assert [expected in line for line in said] == ([] if by == "none" else [True])


@pytest.mark.parametrize("labels", ["another", "the same", "hidden"])
def test_images_of_one_split_under_two_labels_are_said_with_counts(
    root: Path, labels: str, caplog: pytest.LogCaptureFixture
) -> None:
    split = "test" if labels == "hidden" else "train"
    label = {"another": 3, "the same": 2, "hidden": -1}[labels]
    for copy in ("a", "b"):
        Image.open(root / split / "0000002.png").save(root / split / f"{copy}.bmp")
    edit(root / f"{split}.csv", lambda rows: [*rows, f"{split}/a.bmp,{label}", f"{split}/b.bmp,{label}"])
    data.load(config(root))
    said = [record.getMessage() for record in caplog.records]
    expected = (
        "3 of the 10 images of train have the pixels of another one of them and another label; at most one label of "
        "each is right"
    )
    assert said == ([expected] if labels == "another" else [])


# ----------------------------------------------------------------------------------------------------------- cache


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images decoded from now on."""
    seen: list[str] = []
    decode = Row.decode

    def spy(row: Row, file: bytes) -> NDArray[np.uint8]:
        seen.append(row.name)
        return decode(row, file)

    monkeypatch.setattr(Row, "decode", spy)
    return seen


def test_images_are_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = decodings(monkeypatch)
    first = data.load(config(root))
    assert len(seen) == sum(SIZES.values())
    second = data.load(config(root))
    assert len(seen) == sum(SIZES.values())
    for split in data.SPLITS:
        assert torch.equal(getattr(first, split).images, getattr(second, split).images)


@pytest.mark.parametrize("change", [{"image_size": 8}, {"channels": 1}, {"quantize": True}])
def test_another_shape_is_decoded_anew(root: Path, change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    data.load(config(root))
    seen = decodings(monkeypatch)
    data.load(config(root, **change))
    assert len(seen) == sum(SIZES.values())


def test_images_that_need_no_resizing_are_the_same_rounded_or_not(root: Path) -> None:
    as_they_are = data.load(config(root, image_size=12)).train.images
    assert as_they_are.dtype == torch.uint8
    assert torch.equal(as_they_are, data.load(config(root, image_size=12, quantize=True)).train.images)


def test_sources_are_in_memory_one_at_a_time_by_thread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    open_ones: list[object] = []

    class Noted(bytes):
        def __del__(self) -> None:
            open_ones.pop()

    def noted(row: Row) -> bytes:
        open_ones.append(row.name)
        most.append(len(open_ones))
        return Noted(Path(row.file).read_bytes())

    most: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Row, "read", noted)
        data.load(config(root))
    assert len(most) == sum(SIZES.values())
    assert max(most) <= 2  # the next one is read before the last one's name is bound anew


# ---------------------------------------------------------------------------------------------------------- digest


def digest(root: Path, **settings: object) -> str:
    found = data.load(config(root, **settings)).digest
    assert found is not None
    return found


@pytest.mark.parametrize(
    "change",
    [{"image_size": 8}, {"channels": 1}, {"quantize": True}, {"train_fraction": 0.5}],
    ids=str,
)
def test_the_digest_is_of_the_content_whatever_the_settings(root: Path, change: dict[str, object]) -> None:
    assert digest(root, **change) == digest(root)


@pytest.mark.usefixtures("digits_cache")
def test_digests_are_those_of_earlier_releases(root: Path) -> None:
    """Or every trial of the same data would have another id."""
    assert digest(root) == "4acc3fc03e57f1f72f76e19dbbd1a889"
    assert data.load(DataConfig(name="digits")).digest == "9231bdabb9cbbda6ae316c8d54e4030f"


def test_the_digest_is_of_the_content_wherever_it_lies_and_whatever_files_are_called(root: Path) -> None:
    before = digest(root)
    moved = root.rename(root.with_name("elsewhere"))
    assert digest(moved) == before
    (moved / "train" / "0000003.png").rename(moved / "train" / "renamed.png")
    edit(moved / "train.csv", lambda rows: [row.replace("0000003", "renamed") for row in rows])
    assert digest(moved) == before
    Image.open(moved / "train" / "renamed.png").save(moved / "train" / "renamed.bmp")  # the same pixels
    edit(moved / "train.csv", lambda rows: [row.replace("renamed.png", "renamed.bmp") for row in rows])
    assert digest(moved) == before


def _other_pixel(root: Path) -> None:
    path = root / "test" / "0000002.png"
    image = Image.open(path)
    image.putpixel((11, 11), (image.getpixel((11, 11))[0] ^ 1, 0, 0))
    image.save(path)


def _other_label(root: Path) -> None:
    set_row("train", 1, "train/0000000.png,3")(root)


def _other_order(root: Path) -> None:
    edit(root / "validation.csv", lambda rows: rows[::-1])


def _other_splits(root: Path) -> None:
    moved = (root / "validation.csv").read_text().splitlines()
    edit(root / "train.csv", lambda rows: [*rows, moved[0]])
    edit(root / "validation.csv", lambda rows: rows[1:])


def _fewer(root: Path) -> None:
    edit(root / "test.csv", lambda rows: rows[:-1])


@pytest.mark.parametrize("change", [_other_pixel, _other_label, _other_order, _other_splits, _fewer])
def test_other_content_has_another_digest(root: Path, change: Callable[[Path], None]) -> None:
    before = digest(root)
    change(root)
    assert digest(root) != before


def test_other_data_than_the_digest_stands_for_is_refused(root: Path) -> None:
    expected = digest(root)
    _other_label(root)
    with pytest.raises(DataError, match=f"digest {digest(root)}, expected {expected}; give the folder of that data"):
        data.load(config(root, digest=expected))


@pytest.mark.usefixtures("digits_cache")
def test_digits_have_a_digest_too() -> None:
    whole = data.load(DataConfig(name="digits"))
    assert whole.digest == data.load(DataConfig(name="digits", train_fraction=0.1, image_size=16)).digest
    assert len(whole.digest or "") == 32


def test_a_changed_image_is_seen(root: Path) -> None:
    before = data.load(config(root, image_size=12)).train.images
    path = root / "train" / "0000003.png"
    stamp = path.stat()
    Image.new("RGB", (12, 12), (1, 2, 3)).save(path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = data.load(config(root, image_size=12)).train.images
    assert after[3, :, 0, 0].tolist() == [1, 2, 3]
    assert torch.equal(before[:3], after[:3])


def test_a_changed_label_is_seen_without_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.load(config(root))
    seen = decodings(monkeypatch)
    set_row("train", 1, "train/0000000.png,3")(root)
    assert data.load(config(root)).train.labels[0] == 3
    assert not seen


@pytest.mark.parametrize("content", [b"", b"\xff" * 1000, None])
def test_a_broken_cache_file_is_made_anew(
    root: Path, own_cache: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = data.load(config(root)).train.images.clone()
    (path,) = own_cache.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if content is None else content)
    assert torch.equal(data.load(config(root)).train.images, expected)
    assert path.read_bytes() == whole
    assert {path.suffix for path in own_cache.iterdir()} == {".safetensors", ".lock", ".checked"}


def test_without_a_usable_cache_folder_data_still_load(
    root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.write_text("a file where the folder should be")
    assert len(data.load(config(root)).train) == SIZES["train"]


def test_a_full_disk_leaves_no_half_written_file(root: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    assert len(data.load(config(root)).train) == SIZES["train"]
    assert {path.suffix for path in own_cache.iterdir()} <= {".lock"}


def _make_slowly(made: Path) -> dict[str, torch.Tensor]:
    with made.open("a") as stream:
        stream.write("made\n")
    return {"ones": torch.ones(3)}


def _use_cache(folder: str, made: str) -> None:
    os.environ["CPCNN_CACHE"] = folder
    assert cache.tensors("kind", "key", lambda: _make_slowly(Path(made)))["ones"].tolist() == [1, 1, 1]


def test_concurrent_trials_make_it_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    made = tmp_path / "made"
    processes = [fork.Process(target=_use_cache, args=(str(tmp_path / "c"), str(made))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert made.read_text() == "made\n"


def test_the_digest_tells_where_one_part_ends() -> None:
    assert cache.digest(["ab", "c"]) != cache.digest(["a", "bc"])
    assert cache.digest([torch.zeros(4)]) != cache.digest([torch.zeros(2, 2)])
    assert cache.digest([torch.zeros(4)]) != cache.digest([torch.zeros(4, dtype=torch.int32)])


# ------------------------------------------------------------------------------------------------------ conversion


def test_all_256_levels_survive_the_model_range() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.to_uint8(data.to_model(levels)), levels)
    assert data.to_model(levels)[[0, -1]].tolist() == [-1, 1]


@given(value=st.floats(-10, 10, width=32))
def test_to_uint8_takes_the_nearest_level(value: float) -> None:
    level = data.to_uint8(torch.tensor([value])).item()
    clamped = min(1.0, max(-1.0, value))
    assert abs(level - (clamped + 1) * 127.5) <= 0.5 + 1e-4


def test_conversions_leave_alone_what_is_converted_already() -> None:
    floats, integers = torch.rand(5), torch.arange(5, dtype=torch.uint8)
    assert data.to_model(floats) is floats
    assert data.to_uint8(integers) is integers


def test_a_split_has_as_many_names_as_images() -> None:
    with pytest.raises(DataError, match="2 images, 3 labels and 1 names"):
        data.Split(torch.zeros(2, 1, 4, 4), torch.zeros(3, dtype=torch.int64), ("a",))


# ------------------------------------------------------------------------------------------------- the real images


@real
def test_the_real_images_load() -> None:
    loaded = data.load(config(REAL))
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == [4159, 519, 519]
    assert loaded.image_shape == (3, 32, 32)
    assert Counter(loaded.train.labels.tolist()) == {0: 1040, 1: 1039, 2: 1040, 3: 1040}
    assert set(loaded.test.labels.tolist()) == {data.HIDDEN}
