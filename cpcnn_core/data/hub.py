"""`hf`: what the library `datasets` reads, from a folder of this machine or from the Hugging Face Hub.

Images are decoded by `image_files`, as those of every other source are. Code of a data set is not run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpcnn_core import fetching, image_files
from cpcnn_core.data.assembling import assemble
from cpcnn_core.data.pool import Pool
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig
    from cpcnn_core.data.split import Dataset

_SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes, of several splits and of one
_HIDDEN = -1  # what the hub's data sets have for a label that is not told


def load(config: DataConfig) -> Dataset:
    """The data set in the folder `data.root`, or the one that the hub has under `data.dataset`."""
    parts = _parts(config)
    some = next(iter(parts.values()))
    image, label = _columns(config, some.features)
    names = getattr(some.features[label], "names", None)
    pools = {split: _pool(split, part, image, label) for split, part in parts.items()}
    return assemble(config, pools, names)


def _parts(config: DataConfig) -> dict[str, Any]:
    """The splits by our names, or what there is under "all"."""
    if (config.root is None) == (config.dataset is None):
        raise DataError(
            "data.root, data.dataset: hf reads a folder or a data set of the hub; give one of --set data.root=PATH "
            "and --set data.dataset=OWNER/NAME"
        )
    read = _read(config)
    if not isinstance(read, Mapping):
        return {"all": read}
    parts: dict[str, Any] = {}
    for name, part in read.items():
        split = _SPLITS.get(str(name))
        if split is None:
            continue
        if split in parts:
            raise DataError(
                f"{_setting(config)}: has two {split} splits, of {', '.join(map(str, read))}; leave out one"
            )
        parts[split] = part
    if "train" not in parts:
        raise DataError(f"{_setting(config)}: has the splits {', '.join(map(str, read))}, and none is called train")
    return parts


def _read(config: DataConfig) -> Any:
    """A Dataset, or a DatasetDict of them."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data.name=hf: needs the package datasets ({error}); install it with uv sync --extra hf, or pip install "
            "'cpcnn-sweeps[hf]'"
        ) from None
    folder = None if config.root is None else fetching.folder(config.root)
    if folder is not None and not folder.is_dir():
        raise DataError(f"data.root: {folder} is no folder; expected one of save_to_disk, or of Parquet files")
    try:
        # Mapped from files, whatever the environment says: by these files one sees whether the content is another.
        if folder is None:
            name, _, configuration = (config.dataset or "").partition(":")
            return datasets.load_dataset(name, configuration or None, keep_in_memory=False)
        if any((folder / saved).is_file() for saved in _SAVED):
            return datasets.load_from_disk(str(folder), keep_in_memory=False)
        return datasets.load_dataset(str(folder), keep_in_memory=False)
    except Exception as error:  # noqa: BLE001 - the library, readers of files and its HTTP client have errors of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{_setting(config)}: cannot be read by the library datasets: {reason}") from None


def _setting(config: DataConfig) -> str:
    """The setting that says which data set it is, with its value."""
    return f"data.dataset: {config.dataset}" if config.root is None else f"data.root: {config.root}"


def _columns(config: DataConfig, features: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of images and of labels. Raise DataError, which lists them, where they are not clear."""
    image = _column(config, "image_column", config.image_column, features, "Image")
    label = _column(config, "label_column", config.label_column, features, "ClassLabel")
    kind = type(features[image]).__name__
    if kind != "Image":
        raise DataError(f"data.image_column: {image} holds {kind}, not images; there are {_listed(features)}")
    dtype = getattr(features[label], "dtype", None)
    if dtype != "string" and not str(dtype).startswith(("int", "uint")):
        raise DataError(f"data.label_column: {label} holds neither numbers nor names; there are {_listed(features)}")
    return image, label


def _column(config: DataConfig, setting: str, given: str | None, features: Mapping[str, Any], kind: str) -> str:
    if given is not None:
        if given in features:
            return given
        raise DataError(
            f"data.{setting}: there is no column {given!r} in {_setting(config)}; there are {_listed(features)}"
        )
    fitting = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(fitting) != 1:
        raise DataError(
            f"data.{setting}: {len(fitting) or 'none'} of the columns in {_setting(config)} "
            f"{'is' if len(fitting) == 1 else 'are'} of the kind {kind}; name the one to use, of {_listed(features)}"
        )
    return fitting[0]


def _listed(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())


@dataclass(frozen=True)
class _Stored:
    """Images of one split as `Images`. Each row holds a file's content, or the path of a file."""

    split: str
    table: Any  # a datasets.Dataset whose only column is `column`, not decoded
    column: str
    paths: Sequence[str]  # of files that lie beside the table, whose content may change alone

    def __len__(self) -> int:
        return len(self.table)

    def stamps(self) -> Iterator[str]:
        yield f"{self.split} {self.column} {len(self)}"
        for path in [*(file["filename"] for file in self.table.cache_files), *self.paths]:
            try:
                found = os.stat(path)  # noqa: PTH116 - thousands of them
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from None
            yield f"{path} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"

    def decode(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        cell = self.table[index][self.column]
        if cell is None:
            raise DataError(f"{self.split}, row {index}: is empty; expected an image")
        try:
            content = cell["bytes"]
            return image_files.decode(Path(cell["path"]).read_bytes() if content is None else content)
        except OSError as error:
            raise DataError(f"{self.split}, row {index}: {cell['path']} cannot be read: {error.strerror}") from None
        except DataError as error:
            raise DataError(f"{self.split}, row {index}: {error}") from None


def _pool(split: str, part: Any, image: str, label: str) -> Pool:
    import datasets

    count = len(part)
    undecoded = part.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    labels = [None if value in {None, _HIDDEN} else value for value in part.select_columns([label])[:][label]]
    return Pool(
        _Stored(split, undecoded, image, _paths(undecoded, image)),
        tuple(labels),
        tuple(f"{split}/{index:07d}" for index in range(count)),
        [f"{split}, row {index}" for index in range(count)],
    )


def _paths(table: Any, column: str) -> Sequence[str]:
    """The files that the rows name, where the rows do not hold the content themselves."""
    flat = table.flatten()
    if not flat.data.column(f"{column}.bytes").null_count:
        return ()
    return [path for path in flat.select_columns([f"{column}.path"])[:][f"{column}.path"] if path is not None]
