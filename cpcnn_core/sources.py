"""The table of data sets: what each is by default, and which module loads it. Free of torch, as configurations are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Literal

Setting = str | int | bool

CUT = frozenset({"validation_share", "test_share", "split_seed"})
"""The settings of data that is cut into splits here."""

OPTIONAL = CUT | {"root", "dataset", "image_column", "label_column"}
"""The settings that only some data sets read: `Source.reads` has those that it may be given."""


@dataclass(frozen=True)
class Source:
    """One data set. What a configuration leaves open is decided here, so that it is the same in every trial."""

    module: str  # has `load(config) -> Dataset`; imported only where data is read, since it takes torch
    image_size: int | None = None  # unless data.image_size says otherwise; None: the images' own
    channels: Literal[1, 3] | None = None  # unless data.channels says otherwise; None: 1 where all images are grey
    quantize: bool = True  # unless data.quantize says otherwise: whether resized pixels are rounded to 256 levels
    root: str | None = None  # what data.root has to be, in words; None where the data needs no folder
    reads: frozenset[str] = frozenset()  # which settings of OPTIONAL: the others are refused
    has_files: bool = False  # whether each image is a file below data.root, at a size of its own
    graded_with: Mapping[str, Setting] = field(default_factory=dict)  # settings of whoever grades models of this data


SOURCES: dict[str, Source] = {
    "digits": Source("cpcnn_core.data.digits", image_size=8, channels=1),
    "cpen455": Source(
        "cpcnn_core.data.cpen455",
        image_size=32,
        channels=3,
        quantize=False,
        root="the folder that holds train.csv",
        has_files=True,
        graded_with={
            "data.quantize": False,
            "eval.fid_extractor": "inception-192",
            "eval.fid_reference": "test_files",
        },
    ),
    "csv": Source(
        "cpcnn_core.data.csv_list",
        root="the folder that holds train.csv, or images.csv",
        reads=CUT | {"image_column", "label_column"},
        has_files=True,
    ),
    "folder": Source(
        "cpcnn_core.data.folder", root="the folder that holds one for each class, or train/", reads=CUT, has_files=True
    ),
    "npz": Source(
        "cpcnn_core.data.npz",
        root="the .npz file, or the folder that holds it",
        reads=CUT | {"image_column", "label_column"},
    ),
    "torchvision": Source(
        "cpcnn_core.data.collection",
        root="the folder that holds torchvision's files, or is to hold them",
        reads=frozenset({"dataset", "validation_share", "split_seed"}),
    ),
    "hf": Source("cpcnn_core.data.hub", reads=CUT | {"root", "dataset", "image_column", "label_column"}),
}


def title(name: str, dataset: str | None, root: str | None) -> str:
    """What a reader knows the data by: `FashionMNIST` of a collection, `pets` of the folder `/data/pets`."""
    if dataset:
        return dataset
    source = SOURCES.get(name)  # of a record that another release wrote, perhaps none
    of_anybody = source is not None and source.image_size is None
    last = PureWindowsPath(root).name if root and of_anybody else ""  # which takes both kinds of slashes
    return last or name
