"""Well-known data sets: in which files and form each is published, where, and by which MD5 one knows that it is whole.

Files lie where torchvision's classes put them, so that a folder that torchvision has filled is used as it is.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

from cpcnn_core.data.array_files import Batches, Form, Idx, Matlab, RawBytes

_DIGITS = tuple(string.digits)
_MNIST_MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Capitals and small letters that look alike are one class where letters are merged.
_LETTERS = (*string.ascii_uppercase, *string.ascii_lowercase)
_MERGED = tuple(letter for letter in _LETTERS if letter not in "cijklmopsuvwxyz")
_EMNIST = {
    "byclass": (*_DIGITS, *_LETTERS),
    "bymerge": (*_DIGITS, *_MERGED),
    "balanced": (*_DIGITS, *_MERGED),
    "letters": tuple(string.ascii_lowercase),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}


@dataclass(frozen=True)
class Download:
    """A file on the web: one that is read as it is, or an archive of them."""

    path: str  # below data.root
    md5: str
    urls: tuple[str, ...]
    members: Mapping[str, str] = field(default_factory=dict)  # of an archive: the file below data.root, its name there


@dataclass(frozen=True)
class Published:
    """One data set. `md5` has what is known of files that lie unpacked."""

    form: Form
    downloads: tuple[Download, ...]
    md5: Mapping[str, str] = field(default_factory=dict)


def _mnist(name: str, bases: tuple[str, ...], md5: Mapping[str, str], classes: tuple[str, ...]) -> Published:
    folder = f"{name}/raw"
    return Published(
        Idx(folder, {"train": "train", "test": "t10k"}, classes),
        tuple(
            Download(f"{folder}/{file}.gz", checksum, tuple(f"{base}{file}.gz" for base in bases))
            for file, checksum in md5.items()
        ),
    )


def _emnist(split: str) -> Published:
    folder = "EMNIST/raw"
    stems = {part: f"emnist-{split}-{part}" for part in ("train", "test")}
    files = [f"{stem}-{kind}.gz" for stem, kind in product(stems.values(), ("images-idx3-ubyte", "labels-idx1-ubyte"))]
    return Published(
        Idx(folder, stems, _EMNIST[split], first=int(split == "letters"), columns_first=True),
        (
            Download(
                f"{folder}/gzip.zip",
                "58c8d27c78d21e728a6bc7b3cc06412e",
                ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
                {f"{folder}/{file}": f"gzip/{file}" for file in files},
            ),
        ),
    )


def _archived(form: Form, archive: str, archive_md5: str, base: str, md5: Mapping[str, str]) -> Published:
    """A data set in one archive, whose files lie in it as below data.root."""
    files = dict.fromkeys((*form.files("train"), *form.files("test")))
    return Published(
        form, (Download(archive, archive_md5, (f"{base}{archive}",), {file: file for file in files}),), md5
    )


def _cifar10() -> Published:
    folder = "cifar-10-batches-py"
    md5 = {
        f"{folder}/data_batch_1": "c99cafc152244af753f735de768cd75f",
        f"{folder}/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        f"{folder}/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        f"{folder}/data_batch_4": "634d18415352ddfa80567beed471001a",
        f"{folder}/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        f"{folder}/test_batch": "40351d587109b95175f43aff81a1287e",
        f"{folder}/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    }
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    form = Batches(folder, batches, "labels", "batches.meta", "label_names")
    return _archived(form, "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", _TORONTO, md5)


def _cifar100() -> Published:
    folder = "cifar-100-python"
    md5 = {
        f"{folder}/train": "16019d7e3df5f24257cddd939b257f8d",
        f"{folder}/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        f"{folder}/meta": "7973b15100ade9c7d40fb424638fde48",
    }
    form = Batches(folder, {"train": ["train"], "test": ["test"]}, "fine_labels", "meta", "fine_label_names")
    return _archived(form, "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", _TORONTO, md5)


def _svhn() -> Published:
    base = "http://ufldl.stanford.edu/housenumbers/"
    md5 = {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }
    return Published(
        Matlab({split: f"{split}_32x32.mat" for split in ("train", "test")}, _DIGITS),
        tuple(Download(file, checksum, (f"{base}{file}",)) for file, checksum in md5.items()),
        md5,
    )


def _stl10() -> Published:
    folder = "stl10_binary"
    md5 = {
        f"{folder}/train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
        f"{folder}/train_y.bin": "5a34089d4802c674881badbb80307741",
        f"{folder}/test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
        f"{folder}/test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
    }
    form = RawBytes(folder, "class_names.txt")
    base = "http://ai.stanford.edu/~acoates/stl10/"
    return _archived(form, "stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb", base, md5)


_TORONTO = "https://www.cs.toronto.edu/~kriz/"

PUBLISHED: dict[str, Published] = {
    "MNIST": _mnist(
        "MNIST",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        _MNIST_MD5,
        _DIGITS,
    ),
    "FashionMNIST": _mnist(
        "FashionMNIST", ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",), _FASHION_MD5, _FASHION
    ),
    **{f"EMNIST-{split}": _emnist(split) for split in _EMNIST},
    "CIFAR10": _cifar10(),
    "CIFAR100": _cifar100(),
    "SVHN": _svhn(),
    "STL10": _stl10(),
}
