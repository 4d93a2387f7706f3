"""Sections: under which heading a tool that groups names by what stands before a slash shows each metric."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from cpcnn_core.class_names import class_in
from orchestrator.text.names import identifier

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "likelihood": ("train_bpd", "train_loss", "val_bpd"),
    "classification": (
        "test_acc", "test_images", "test_images_of", "train_acc", "val_acc", "val_class_nll", "val_ece",
        "val_ece_calibrated", "val_f1", "val_images", "val_images_of", "val_temperature",
    ),
    "samples": (
        "fid", "fid_images", "fid_infinity", "fid_standard_error", "kid", "kid_standard_error", "nearest_train",
        "nearest_train_validation", "sample_saturation", "sample_saturation_validation",
    ),
    "network": ("activation_max", "gate_saturation", "grad_norm"),
    "training": ("lr", "micro_batch", "step"),
    "cost": (
        "compile_seconds", "eval_seconds", "images_per_second", "peak_memory_bytes", "sample_seconds",
        "scoring_seconds", "seconds", "train_seconds",
    ),
}  # fmt: skip
"""By section: its metrics."""

OTHER = "other"  # a score, and metrics of one's own
_OF = {name: section for section, names in SECTIONS.items() for name in names}
_TAG = re.compile(r"[\w.-][\w./-]*")  # the characters that every tool leaves as they are
_LONGEST = 150  # bytes of a name of which a tool may make a file's
_OF_PARTS = ("grad_norm", "class_distance", "fusion")  # of stages, of pairs of classes, of a fusion itself


def of_class(metric: str, name: str) -> str:
    """What a metric of one class is called: all of a metric's stand together."""
    return f"{metric}_by_class/{name}"


def by_class(name: str) -> str:
    """The name of a metric, or, where it is of one class, the one that puts it beside those of the other classes."""
    found = class_in(name)
    return name if found is None else of_class(*found)


def sectioned(name: str) -> str:
    """The name of a metric, under its heading."""
    if class_in(name) is not None:
        return by_class(name)
    metric, _, rest = name.partition(".")
    if rest and metric in _OF_PARTS:
        return f"{metric}/{rest}"
    return f"{_OF.get(name, OTHER)}/{name}"


def tag(name: str) -> str:
    """A name as the tools take it, under its heading. They would make one of two that differ in other characters."""
    if _TAG.fullmatch(name) and posixpath.normpath(name) == name and len(name.encode()) <= _LONGEST:
        return name
    heading, slash, rest = name.partition("/")
    known = slash and _TAG.fullmatch(heading) and heading not in {".", ".."} and len(heading.encode()) <= _LONGEST
    return f"{heading}/{identifier(rest)}" if known else identifier(name)
