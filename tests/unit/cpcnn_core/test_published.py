"""Well-known data sets from small files of their real forms: what is read, what is refused, how it is fetched."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cpcnn_core import data, downloading, progress
from cpcnn_core.config import DataConfig
from cpcnn_core.data import published
from cpcnn_core.data.array_files import Batches
from cpcnn_core.data.published import PUBLISHED
from cpcnn_core.data.unpickling import unpickle
from cpcnn_core.downloading import DownloadError, download, md5_of
from cpcnn_core.errors import DataError
from tests.support import published as small

NAMES = [f"thing{number}" for number in range(100)]
ORIGINAL = dict(PUBLISHED)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real addresses are those of a port of this machine at which nobody listens."""
    monkeypatch.setattr(downloading, "_SECONDS", 5.0)
    for name, known in PUBLISHED.items():
        monkeypatch.setitem(PUBLISHED, name, _at(known, "http://127.0.0.1:9/"))


def _at(known: published.Published, base: str) -> published.Published:
    """The data set at another address."""
    moved = tuple(replace(each, urls=(base + each.path.rpartition("/")[2],)) for each in known.downloads)
    return replace(known, downloads=moved)


def load(root: Path, name: str, **settings: Any) -> data.Dataset:
    return data.load(DataConfig(name="torchvision", root=str(root), dataset=name, **settings))


Splits = dict[str, small.Arrays]
Writer = Callable[[Path, Splits], None]
FORMS: dict[str, tuple[int, tuple[int, ...], Writer]] = {
    "MNIST": (10, (28, 28), lambda root, splits: small.mnist(root, "MNIST", splits, suffix="")),
    "FashionMNIST": (10, (28, 28), lambda root, splits: small.mnist(root, "FashionMNIST", splits)),
    "EMNIST-letters": (26, (28, 28), lambda root, splits: small.emnist(root, "letters", splits)),
    "EMNIST-balanced": (47, (28, 28), lambda root, splits: small.emnist(root, "balanced", splits)),
    "CIFAR10": (10, (32, 32, 3), lambda root, splits: small.cifar(root, splits, NAMES[:10])),
    "CIFAR100": (100, (32, 32, 3), lambda root, splits: small.cifar100(root, splits, NAMES)),
    "SVHN": (10, (32, 32, 3), small.svhn),
    "STL10": (10, (96, 96, 3), lambda root, splits: small.stl10(root, splits, NAMES[:10])),
}


def made(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Splits:
    """Write a small data set, of which the MD5s are those that its files have."""
    classes, shape, write = FORMS[name]
    splits = {"train": small.arrays(0, classes, *shape, of_each=3), "test": small.arrays(1, classes, *shape)}
    write(root, splits)
    known = PUBLISHED[name]
    monkeypatch.setitem(PUBLISHED, name, replace(known, md5={file: md5_of(root / file) for file in known.md5}))
    return splits


def of(split: data.Split, names: list[int]) -> torch.Tensor:
    """The images in the order of their numbers in the files."""
    order = {int(name.rpartition("/")[2]): index for index, name in enumerate(split.names)}
    return split.images[[order[name] for name in names]]


@pytest.mark.parametrize("name", FORMS)
def test_images_labels_and_names_are_those_of_the_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = made(tmp_path, name, monkeypatch)
    dataset = load(tmp_path, name, validation_share=0.3)
    grey = splits["test"][0].ndim == 3
    assert len(dataset.train) == 2 * len(dataset.validation) == 2 * dataset.nr_classes
    for split, own in (("train", dataset.train), ("train", dataset.validation), ("test", dataset.test)):
        images, labels = splits[split]
        numbers = [int(name.removeprefix(f"{split}/")) for name in own.names]
        expected = images[numbers][:, None] if grey else images[numbers].transpose(0, 3, 1, 2)
        assert torch.equal(own.images, torch.from_numpy(np.ascontiguousarray(expected)))
        assert own.labels.tolist() == labels[numbers].tolist()
    first = {"MNIST": "0", "SVHN": "0", "FashionMNIST": "T-shirt/top", "EMNIST-letters": "a", "EMNIST-balanced": "0"}
    assert dataset.class_names[0] == first.get(name, "thing0")
    assert dataset.nr_classes == FORMS[name][0]


@pytest.mark.parametrize("name", FORMS)
def test_torchvision_reads_the_same_of_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision.datasets")
    splits = made(tmp_path, name, monkeypatch)
    kind = getattr(torchvision, name.partition("-")[0])
    monkeypatch.setattr(kind, "_check_integrity", lambda self: True, raising=False)
    module = __import__(kind.__module__, fromlist=["check_integrity"])
    monkeypatch.setattr(module, "check_integrity", lambda path, *_: Path(path).exists())
    for packed in tmp_path.rglob("*.gz"):  # which it unpacks where it has downloaded them
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    options = {"split": name.partition("-")[2], "train": False} if "-" in name else {"train": False}
    theirs = kind(tmp_path, **({"split": "test"} if name in {"SVHN", "STL10"} else options))
    shown = [np.asarray(theirs[index][0]) for index in range(len(theirs))]
    upright = [image.T if name.startswith("EMNIST") else image for image in shown]  # theirs are EMNIST's columns
    assert np.array_equal(np.stack(upright), splits["test"][0])


def test_addresses_checksums_and_classes_are_those_that_torchvision_knows() -> None:
    theirs = pytest.importorskip("torchvision.datasets")
    for name in ("MNIST", "FashionMNIST"):
        kind, known = getattr(theirs, name), ORIGINAL[name]
        assert [(each.path, each.md5) for each in known.downloads] == [
            (f"{name}/raw/{file}", checksum) for file, checksum in kind.resources
        ]
        assert [each.urls for each in known.downloads] == [
            tuple(f"{mirror}{file}" for mirror in kind.mirrors) for file, _ in kind.resources
        ]
    assert ORIGINAL["FashionMNIST"].form.names(Path()) == tuple(theirs.FashionMNIST.classes)
    for split, classes in theirs.EMNIST.classes_split_dict.items():
        [archive] = ORIGINAL[f"EMNIST-{split}"].downloads
        assert (archive.urls, archive.md5) == ((theirs.EMNIST.url,), theirs.EMNIST.md5)
        assert list(ORIGINAL[f"EMNIST-{split}"].form.names(Path())) == [name for name in classes if name != "N/A"]
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        kind, known = getattr(theirs, name), ORIGINAL[name]
        [archive] = known.downloads
        assert (archive.path, archive.urls, archive.md5) == (kind.filename, (kind.url,), kind.tgz_md5)
        meta = [[kind.meta["filename"], kind.meta["md5"]]] if hasattr(kind, "meta") else []
        checksums = {
            f"{kind.base_folder}/{file}": checksum for file, checksum in kind.train_list + kind.test_list + meta
        }
        assert known.md5.items() <= checksums.items()
        assert checksums.keys() - known.md5.keys() <= {"stl10_binary/unlabeled_X.bin"}
    split_list = theirs.SVHN.split_list
    for each in ORIGINAL["SVHN"].downloads:
        assert [*each.urls, each.path, each.md5] == split_list[each.path.partition("_")[0]]
        assert ORIGINAL["SVHN"].md5[each.path] == each.md5
    assert {name.partition("-")[0] for name in ORIGINAL} < set(theirs.__all__)


class TestRefused:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (None, "needs the name of a data set, one of MNIST, FashionMNIST"),
            ("EMNIST", "choose one of EMNIST-byclass, EMNIST-bymerge, EMNIST-balanced"),
            ("CIFAR-10", "did you mean CIFAR10"),
        ],
    )
    def test_another_name(self, asked: str, said: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=rf"data\.dataset: .*{said}"):
            load(tmp_path, asked)

    @pytest.mark.parametrize("name", FORMS)
    @pytest.mark.parametrize("which", [0, 1])
    def test_a_file_that_was_cut_off(
        self, name: str, which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made(tmp_path, name, monkeypatch)
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], md5={}))  # its form alone says it
        files = PUBLISHED[name].form.files("train")
        found = tmp_path / files[min(which, len(files) - 1)]
        found = found if found.exists() else Path(f"{found}.gz")
        found.write_bytes(found.read_bytes()[:-5])
        with pytest.raises(DataError, match=r"delete (it|these files), and .* downloaded again") as caught:
            load(tmp_path, name)
        assert str(found.parent) in str(caught.value)

    @pytest.mark.parametrize("name", ["CIFAR10", "SVHN", "STL10"])
    def test_a_file_that_is_not_the_published_one(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made(tmp_path, name, monkeypatch)
        monkeypatch.undo()
        monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
        first = tmp_path / PUBLISHED[name].form.files("train")[0]
        with pytest.raises(DataError, match=rf"{first} is damaged or incomplete \(its MD5 is .*, expected"):
            load(tmp_path, name)

    def test_a_label_without_a_class(self, tmp_path: Path) -> None:
        images, labels = small.arrays(0, 10, 28, 28)
        labels[3] = 11
        small.mnist(tmp_path, "MNIST", {"train": (images, labels), "test": small.arrays(0, 10, 28, 28)})
        with pytest.raises(DataError, match=r"train/0000003: label 11"):
            load(tmp_path, "MNIST")

    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made(tmp_path, "CIFAR10", monkeypatch)
        ran = tmp_path / "ran"

        class Evil:
            def __reduce__(self) -> Any:
                return (exec, (f"open({str(ran)!r}, 'w')",))

        batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
        batch.write_bytes(pickle.dumps({"labels": [0], "data": Evil()}, protocol=2))
        monkeypatch.setitem(PUBLISHED, "CIFAR10", replace(PUBLISHED["CIFAR10"], md5={}))
        with pytest.raises(DataError, match=r"data_batch_2 is damaged.*asks for \w+\.exec, which is not run"):
            load(tmp_path, "CIFAR10")
        assert not ran.exists()


def test_pickles_of_todays_numpy_and_of_other_content() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for array in (pixels, np.asfortranarray(pixels)):
        assert np.array_equal(unpickle(io.BytesIO(small.pickled({"data": array})))["data"], pixels)
    with pytest.raises(pickle.UnpicklingError, match="an array of f8"):
        unpickle(io.BytesIO(small.pickled({"data": pixels.astype(float)})))
    with pytest.raises(pickle.UnpicklingError, match="not a dictionary"):
        unpickle(io.BytesIO(pickle.dumps([1])))


def test_a_later_start_reads_none_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "CIFAR10", monkeypatch)
    first = load(tmp_path, "CIFAR10", image_size=32)
    monkeypatch.setattr(Batches, "labels", None)
    monkeypatch.setattr(Batches, "pixels", None)
    assert load(tmp_path, "CIFAR10", image_size=32).digest == first.digest


@dataclass
class Server:
    """Files on loopback, and how it fails."""

    files: dict[str, bytes] = field(default_factory=dict)
    breaks_after: int | None = None  # bytes of an answer
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path.rpartition("/")[2], self.headers.get("Range")
            server.asked.append((name, wanted))
            if name not in server.files:
                self.send_error(404)
                return
            content = server.files[name]
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: server.breaks_after])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{listening.server_port}/"
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class TestDownload:
    CONTENT = bytes(range(256)) * 10

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "there" / "file"

    def left(self, path: Path) -> set[str]:
        return {each.name for each in path.parent.iterdir()} - {f".{path.name}.lock"}

    def get(self, server: Server, path: Path, *others: str) -> None:
        download([*others, f"{server.url}file"], path, md5(self.CONTENT))

    @pytest.mark.parametrize("ranges", [True, False])
    def test_goes_on_where_the_connection_broke_off(self, server: Server, path: Path, ranges: bool) -> None:
        server.files["file"], server.breaks_after, server.ranges = self.CONTENT, 1000, ranges
        if ranges:
            self.get(server, path)
            assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=2000-"]
            assert path.read_bytes() == self.CONTENT
        else:
            with pytest.raises(DownloadError, match="broke off"):
                self.get(server, path)
            assert not path.exists()
            server.breaks_after = None
            self.get(server, path)
        assert path.read_bytes() == self.CONTENT
        assert self.left(path) == {"file"}

    def test_what_takes_long_says_how_far_it_is(
        self, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(progress, "_LINES", 0.0)
        monkeypatch.setattr(downloading, "_PIECE", 1000)
        server.files["file"], server.breaks_after = self.CONTENT, 1000
        self.get(server, path)
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(", about")[0] for line in lines] == [
            f"downloading file, in MiB: {done} of 2" for done in (1, 2, 2)
        ]

    def test_goes_on_in_a_later_process(self, server: Server, path: Path) -> None:
        path.parent.mkdir()
        path.with_name(".file.part").write_bytes(self.CONTENT[:2000])
        server.files["file"] = self.CONTENT
        self.get(server, path)
        assert server.asked == [("file", "bytes=2000-")]
        assert path.read_bytes() == self.CONTENT

    @pytest.mark.parametrize("begun", [b"of another file", CONTENT + b"and more"])
    def test_begins_anew_where_another_file_was_begun(self, server: Server, path: Path, begun: bytes) -> None:
        path.parent.mkdir()
        path.with_name(".file.part").write_bytes(begun)
        server.files["file"] = self.CONTENT
        self.get(server, path)
        assert path.read_bytes() == self.CONTENT

    def test_another_file_is_refused_and_leaves_nothing(self, server: Server, path: Path) -> None:
        server.files["file"] = b"we have moved"
        with pytest.raises(DownloadError, match=rf"{server.url}file: .*its MD5 is not {md5(self.CONTENT)}"):
            self.get(server, path)
        assert self.left(path) == set()

    def test_the_next_address_serves_where_the_first_does_not(self, server: Server, path: Path) -> None:
        server.files["file"] = self.CONTENT
        self.get(server, path, "http://127.0.0.1:9/file", f"{server.url}missing")
        assert path.read_bytes() == self.CONTENT


class TestObtained:
    @pytest.mark.parametrize("name", ["FashionMNIST", "SVHN", "CIFAR10", "EMNIST-letters", "STL10"])
    def test_what_is_missing_is_downloaded_and_unpacked(
        self, name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        origin, here = tmp_path / "origin", tmp_path / "here"
        made(origin, name, monkeypatch)
        expected = load(origin, name)
        known = _at(PUBLISHED[name], server.url)
        downloads = []
        for each in known.downloads:
            content = packed(each, origin) if each.members else (origin / each.path).read_bytes()
            server.files[each.path.rpartition("/")[2]] = content
            downloads.append(replace(each, md5=md5(content)))
        monkeypatch.setitem(PUBLISHED, name, replace(known, downloads=tuple(downloads)))
        assert load(here, name).digest == expected.digest
        before = len(server.asked)
        assert before == len(known.downloads)
        (here / known.form.files("train")[0]).unlink(missing_ok=True)
        Path(f"{here / known.form.files('train')[0]}.gz").unlink(missing_ok=True)
        assert load(here, name).digest == expected.digest
        assert len(server.asked) - before == (0 if known.downloads[0].members else 1)  # the archive is there still

    @pytest.mark.parametrize(
        ("name", "file"), [("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte.gz"), ("CIFAR10", "cifar-10-python.tar.gz")]
    )
    def test_without_a_network_one_sentence_says_what_to_put_where(self, name: str, file: str, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            load(tmp_path / "new", name)
        said = str(caught.value)
        assert said.startswith(f"data.root: {tmp_path / 'new'} does not hold {name}, and it cannot be downloaded (")
        assert f"{file} from http" in said
        assert "\n" not in said

    def test_an_archive_that_was_cut_off(self, tmp_path: Path) -> None:
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(gzip.compress(b"half")[:-3])
        with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged.*delete it"):
            load(tmp_path, "CIFAR10")

    def test_a_url_is_not_filled(self, tmp_path: Path) -> None:
        small.write(tmp_path / "far" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz", b"")
        with pytest.raises(DataError, match=r"MNIST is not whole at this URL: there is no .*train-images"):
            data.load(DataConfig(name="torchvision", root=f"file://{tmp_path}/far", dataset="MNIST"))


def packed(each: published.Download, origin: Path) -> bytes:
    """The archive that a data set is published as."""
    stream = io.BytesIO()
    if each.path.endswith(".zip"):
        with zipfile.ZipFile(stream, "w") as zipped:
            for target, member in each.members.items():
                zipped.writestr(member, (origin / target).read_bytes())
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode="w:gz") as tarred:
        for target, member in each.members.items():
            tarred.add(origin / target, member)
    return stream.getvalue()
