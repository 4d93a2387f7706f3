"""What is decided for every source alike: classes, cuts, size, channels, and an error for what cannot be used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cpcnn_core import data
from cpcnn_core.checkpoint import load_weights
from cpcnn_core.config import DataConfig, TrialConfig
from cpcnn_core.data import Dataset, cutting
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.classes import Classes
from cpcnn_core.data.pool import Pool, as_numbers
from cpcnn_core.errors import DataError
from cpcnn_core.sampling import sample
from cpcnn_core.train import fit

Label = str | int | None


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))


@dataclass
class Arrays:
    """Images in memory, which counts how often one is decoded."""

    images: Sequence[NDArray[np.uint8]]
    decoded: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def stamps(self) -> Iterator[str]:
        yield from (f"{image.shape}{image.tobytes().hex()}" for image in self.images)

    def decode(self, index: int) -> NDArray[np.uint8]:
        self.decoded += 1
        return self.images[index]


def noise(count: int, *shape: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *(shape or (8, 8, 3))), dtype=np.uint8))


def pool(labels: Sequence[Label], images: Sequence[NDArray[np.uint8]] | None = None, within: str = "") -> Pool:
    found = noise(len(labels), seed=len(within)) if images is None else images
    names = tuple(f"{within}{index:04d}" for index in range(len(labels)))
    return Pool(Arrays(found), tuple(labels), names, [f"list.csv, row {index + 1}" for index in range(len(labels))])


def asked(**settings: Any) -> DataConfig:
    return DataConfig(name="folder", root="/", **settings)


def loaded(*, class_names: Sequence[str] | None = None, config: DataConfig | None = None, **pools: Pool) -> Dataset:
    return assemble(config or asked(), pools, class_names)


# --------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((10, 2, 1), ("1", "2", "10")),
        (("b", "a", "C"), ("C", "a", "b")),
        ((0, 1), ("0", "1")),
    ],
)
def test_classes_are_the_labels_in_order(labels: tuple[Label, ...], names: tuple[str, ...]) -> None:
    dataset = loaded(all=pool(labels * 4))
    assert dataset.class_names == names
    together = [(split, name) for split in data.SPLITS for name in getattr(dataset, split).names]
    of_class = {name: labels[int(name) % len(labels)] for _, name in together}
    for split in data.SPLITS:
        part: data.Split = getattr(dataset, split)
        assert [names[number] for number in part.labels.tolist()] == [str(of_class[name]) for name in part.names]


def test_given_names_are_those_of_the_labels_or_the_labels() -> None:
    by_number = loaded(all=pool((0, 1) * 5), class_names=("cat", "dog"))
    by_name = loaded(all=pool(("cat", "dog") * 5), class_names=("cat", "dog"))
    assert by_number.class_names == by_name.class_names == ("cat", "dog")
    assert by_number.train.labels.tolist() == by_name.train.labels.tolist()
    assert by_number.digest == by_name.digest


def test_numbers_that_do_not_begin_at_0_are_said(caplog: pytest.LogCaptureFixture) -> None:
    loaded(all=pool((0, 1) * 5))
    assert not caplog.records
    loaded(all=pool((1, 2) * 5))
    assert [record.getMessage() for record in caplog.records] == [
        "labels are 1, 2: the classes keep these numbers as names, and are 0 to 1 where only positions count"
    ]


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (("0", "12", None), True),
        (("01", "1"), False),
        (("1", "cat"), False),
        (("1.0",), False),
        (("\u0661",), False),
        (("9" * 5000,), False),
    ],
)
def test_labels_are_numbers_where_all_are_written_as_such(texts: tuple[str | None, ...], numbers: bool) -> None:
    assert as_numbers(texts) is numbers


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ({"all": pool(())}, ["there are no images"]),
        ({"all": pool(("cat",) * 4)}, ["all images are of the class 'cat'", "fewer than two"]),
        (
            {"train": pool((None, "a", "b"))},
            ["list.csv, row 1", "unlabelled image used for training (0000)", "test split"],
        ),
        (
            {"train": pool(("a", "b")), "validation": pool(("a", None))},
            ["row 2", "unlabelled image used for validation"],
        ),
        ({"all": pool(("a", "b", None))}, ["row 3", "unlabelled image used for training and validation"]),
        (
            {"train": pool(("a", "b")), "test": pool(("a", "c"))},
            ["row 2", "of the test split is of class 'c'", "no train"],
        ),
        (
            {"train": pool(("a", "b")), "validation": pool(("c",))},
            ["list.csv, row 1: 0000 of the validation split is of class 'c', of which there is no training image"],
        ),
        ({"all": pool(("a", "=b"))}, ["row 2: the class '=b' is a formula", "call it otherwise"]),
        ({"all": pool(("a", -2))}, ["row 2: the class -2 is a formula"]),
        ({"all": pool(("a", " "))}, ["row 2: the class ' ' has characters that cannot be printed, or none"]),
        ({"all": pool(("a", "\x1b[31m"))}, ["row 2", "has characters that cannot be printed"]),
        ({"all": pool(("a", "b" * 81))}, ["row 2", "has more than 80 characters"]),
    ],
)
def test_classes_that_cannot_be_used_are_refused_with_the_row(pools: dict[str, Pool], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        loaded(**pools)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_named_class_without_training_images_is_refused() -> None:
    with pytest.raises(DataError, match=r"no training images of 1 of the 3 classes \(c\); add some"):
        loaded(all=pool((0, 1) * 4), class_names=("a", "b", "c"))
    with pytest.raises(DataError, match=r"row 1: label 3 of 0000 is none of the 3 classes \(a, b, c\)"):
        loaded(all=pool((3, 1) * 4), class_names=("a", "b", "c"))


# ------------------------------------------------------------------------------------------------------------ cuts


def test_splits_that_there_are_stay_as_they_are() -> None:
    parts = {
        "train": pool((1, 0, 1), within="c"),
        "validation": pool((0, 1), within="b"),
        "test": pool((1, None), within="a"),
    }
    dataset = loaded(**parts)
    for split, part in parts.items():
        found: data.Split = getattr(dataset, split)
        assert found.names == part.names
        assert found.labels.tolist() == [-1 if label is None else label for label in part.labels]
        assert isinstance(part.images, Arrays)
        assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), np.stack(part.images.images))


@pytest.mark.parametrize("test", [{}, {"test": pool(("a", "b"), within="t")}])
def test_validation_is_cut_from_training_and_a_test_split_never(test: dict[str, Pool]) -> None:
    dataset = loaded(train=pool(("a", "b") * 10), **test)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [18, 2, 2 * len(test)]
    assert Counter(dataset.validation.labels.tolist()) == {0: 1, 1: 1}
    assert dataset.test.images.shape[1:] == dataset.image_shape


def test_a_share_of_0_makes_no_test_split() -> None:
    dataset = loaded(config=asked(test_share=0), all=pool(("a", "b") * 10))
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [18, 2, 0]


@pytest.mark.parametrize(
    ("stated", "own", "words"),
    [
        ({"validation_share": 0.2}, ("train", "validation"), "data.validation_share: 0.2 has no meaning here"),
        ({"split_seed": 3}, ("train", "validation"), "data.split_seed: 3 has no meaning here"),
        ({"test_share": 0.2}, ("train", "test"), "data.test_share: 0.2 has no meaning here: the data has a test split"),
        ({"test_share": 0.2}, ("train",), "data.test_share: 0.2 has no meaning here: the data has a training split"),
        ({"test_share": 0.5, "validation_share": 0.5}, ("all",), "data.test_share: 0.5 and 0.5 leave nothing to train"),
        ({"test_share": 0.95}, ("all",), "data.validation_share, data.test_share: 0.1 and 0.95 leave nothing"),
    ],
)
def test_shares_that_mean_nothing_are_refused(stated: dict[str, float], own: tuple[str, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        loaded(config=asked(**stated), **{split: pool(("a", "b") * 4) for split in own})


SHARES = st.floats(0.01, 0.49)
LABELS = st.lists(st.sampled_from("abc"), min_size=2, max_size=60)


def splits_of(labels: Sequence[str], order: Sequence[int] | None = None, **stated: Any) -> dict[str, list[str]]:
    """The names in each split, with images in another order perhaps."""
    images = pool(labels)
    order = range(len(labels)) if order is None else order
    mixed = Pool(images.images, tuple(labels[at] for at in order), tuple(images.names[at] for at in order))
    cut = cutting.cut(asked(**stated), {"all": mixed})
    return {split: [mixed.names[at] for _, at in chosen] for split, chosen in cut.items()}


@given(labels=LABELS, validation=SHARES, test=SHARES, seed=st.integers(0, 5), mixed=st.randoms(use_true_random=False))
def test_a_cut_is_disjoint_complete_stratified_and_the_same_in_any_order(
    labels: list[str], validation: float, test: float, seed: int, mixed: Any
) -> None:
    stated = {"validation_share": validation, "test_share": test, "split_seed": seed}
    splits = splits_of(labels, **stated)
    together = [name for names in splits.values() for name in names]
    assert sorted(together) == [f"{index:04d}" for index in range(len(labels))]
    for label, count in Counter(labels).items():
        of_class = {split: sum(labels[int(name)] == label for name in names) for split, names in splits.items()}
        assert of_class["train"] >= 1
        assert of_class["validation"] >= (count > 1)
        assert of_class["test"] >= (count > 2)
        assert abs(of_class["validation"] - count * validation) <= 1
        assert abs(of_class["test"] - count * test) <= 1
    order = list(range(len(labels)))
    mixed.shuffle(order)
    assert splits_of(labels, order, **stated) == splits


@given(labels=LABELS, shares=st.tuples(SHARES, SHARES), other=SHARES)
def test_a_split_lies_within_that_of_a_larger_share(
    labels: list[str], shares: tuple[float, float], other: float
) -> None:
    for wanted, rest in (("validation", "test"), ("test", "validation")):
        small, large = (
            splits_of(labels, **{f"{wanted}_share": share, f"{rest}_share": other}) for share in sorted(shares)
        )
        assert set(small[wanted]) <= set(large[wanted])


def test_images_that_are_added_leave_the_others_where_they_are() -> None:
    before, after = splits_of("ab" * 50), splits_of("ab" * 51)
    where = {name: split for split, names in after.items() for name in names}
    moved = [name for split, names in before.items() for name in names if where[name] != split]
    assert len(moved) <= 4


def test_a_class_of_one_image_is_trained_on_and_said(caplog: pytest.LogCaptureFixture) -> None:
    dataset = loaded(all=pool(("a", "b", "b", "b", "c")))
    assert dataset.train.labels.tolist().count(0) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "2 of the 3 classes have a single image, which is trained on: validation has none of them"
    ]


# ------------------------------------------------------------------------------------------------ size and channels


def test_images_keep_the_size_that_all_have() -> None:
    dataset = loaded(all=pool(("a", "b") * 5, noise(10, 8, 12, 3)))
    assert dataset.image_shape == (3, 8, 12)
    assert dataset.train.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([*noise(9), *noise(1, 16, 12, 3)], "row 10: 0009 has 12x16 pixels, and 000. has 8x8; give data.image_size"),
        (noise(10, 30, 30, 3), "000. has 30x30 pixels, and .* multiples of 4; .*--set data.image_size=32"),
        (noise(10, 8, 10, 3), "000. has 10x8 pixels, and .* multiples of 4; .*--set data.image_size="),
    ],
)
def test_other_sizes_are_never_changed_silently(images: list[NDArray[np.uint8]], words: str) -> None:
    together = pool(("a", "b") * 5, images)
    with pytest.raises(DataError, match=words):
        loaded(train=together)
    assert loaded(config=asked(image_size=12), train=together).image_shape == (3, 12, 12)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_images_are_grey_where_all_are_however_they_are_stored(shape: tuple[int, ...]) -> None:
    grey = noise(10, *shape)
    if len(shape) == 3:
        grey = [np.repeat(image, 3, axis=2) for image in grey]
    together = pool(("a", "b") * 5, grey)
    dataset = loaded(train=together)
    assert dataset.image_shape == (1, 8, 8)
    assert np.array_equal(dataset.train.images[0, 0], grey[int(dataset.train.names[0])].reshape(8, 8, -1)[..., 0])
    assert loaded(config=asked(channels=3), train=together).image_shape == (3, 8, 8)


@pytest.mark.parametrize("coloured", [0, 17, 39])
def test_one_image_with_colours_makes_all_have_channels(coloured: int) -> None:
    images = [np.repeat(image, 3, axis=2) for image in noise(40, 8, 8, 1)]
    images[coloured] = noise(1)[0]
    assert loaded(train=pool(("a", "b") * 20, images)).image_shape == (3, 8, 8)
    assert loaded(config=asked(channels=1), train=pool(("a", "b") * 20, images)).image_shape == (1, 8, 8)


@pytest.mark.parametrize("coloured", [None, 0, 17])
def test_a_second_start_decodes_no_more_than_one_image(coloured: int | None) -> None:
    images = [np.repeat(image, 3, axis=2) for image in noise(40, 8, 8, 1)]
    if coloured is not None:
        images[coloured] = noise(1)[0]
    together = pool(("a", "b") * 20, images)
    first = loaded(train=together)
    arrays = together.images
    assert isinstance(arrays, Arrays)
    arrays.decoded = 0
    second = loaded(train=together)
    assert arrays.decoded <= 1
    assert torch.equal(first.train.images, second.train.images)


def test_images_that_are_not_square_are_trained_measured_and_drawn(tmp_path: Path) -> None:
    dataset = loaded(all=pool(("a", "b") * 10, noise(20, 8, 12, 3)))
    config = TrialConfig.from_flat(
        {
            "model.fusion": "input_map+block_film",
            "model.nr_filters": 4,
            "model.nr_logistic_mix": 1,
            "train.epochs": 1,
            "train.batch_size": 8,
            "train.flip": True,
            "train.shift": 1,
        }
    )
    [epoch] = fit(config, dataset, tmp_path)
    assert epoch.val_bpd > 0
    model = load_weights(tmp_path / "weights-0001.safetensors").model
    drawn = sample(model, torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 3, 8, 12)


# ---------------------------------------------------------------------------------------------------------- digest


def test_the_digest_is_of_images_labels_names_and_splits() -> None:
    labels = ("a", "b") * 5
    images = noise(10)
    plain = loaded(all=pool(labels, images)).digest
    assert loaded(config=asked(image_size=12, channels=1), all=pool(labels, images)).digest == plain
    others = [
        loaded(all=pool(labels, noise(10, seed=1))),
        loaded(all=pool(("a", "c") * 5, images)),
        loaded(all=pool(("b", "a") * 5, images)),
        loaded(all=pool((0, 1) * 5, images)),
        loaded(config=asked(validation_share=0.4), all=pool(labels, images)),
        loaded(train=pool(labels, images)),
    ]
    digests = [plain, *(other.digest for other in others)]
    assert len(set(digests)) == len(digests)


def test_names_that_only_number_the_classes_add_nothing_to_the_digest() -> None:
    images = noise(10)
    assert (
        loaded(all=pool((0, 1) * 5, images)).digest
        == loaded(all=pool((0, 1) * 5, images), class_names=("0", "1")).digest
        != loaded(all=pool((0, 1) * 5, images), class_names=("x", "y")).digest
    )


def test_what_is_there_twice_is_said(caplog: pytest.LogCaptureFixture) -> None:
    images = noise(10)
    with caplog.at_level(logging.WARNING):
        loaded(train=pool(("a", "b") * 5, images), validation=pool(("a", "a"), images[:2], within="v"))
    [record] = caplog.records
    assert record.getMessage() == (
        "2 of the 2 images of validation are in train too, 1 of them with another label; what is measured on them says "
        "little of new images"
    )


def test_the_classes_of_pools_are_one_table() -> None:
    classes = Classes.of({"train": pool(("b", "a")), "test": pool(("c", None))}, None)
    assert classes.names == ("a", "b", "c")
