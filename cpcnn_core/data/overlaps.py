"""Images that are there twice, by their pixels: in two splits, or in one under two labels. It is said, not refused."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from cpcnn_core.data.split import HIDDEN

_log = logging.getLogger(__name__)


def warn(sizes: Mapping[str, int], hashes: Tensor, labels: Tensor) -> None:
    """Log how many images are there twice. `hashes` (N, 32) and `labels` (N,) are those of one split after another."""
    splits: dict[str, list[tuple[bytes, int]]] = {}
    start = 0
    for split, count in sizes.items():
        own = slice(start, start := start + count)
        splits[split] = [
            (pixels.tobytes(), label) for pixels, label in zip(hashes[own].numpy(), labels[own].tolist(), strict=True)
        ]
    for split, held in splits.items():
        _say_what_is_labelled_twice(split, held)
    for one, other in itertools.combinations(splits, 2):
        _say_what_is_shared(one, dict(splits[one]), other, dict(splits[other]))


def _say_what_is_labelled_twice(split: str, held: list[tuple[bytes, int]]) -> None:
    """Images of a split that are there once more, under another label: one of the labels is wrong."""
    labels = Counter(pixels for pixels, label in set(held) if label != HIDDEN)
    differing = sum(labels[pixels] > 1 and label != HIDDEN for pixels, label in held)
    if differing:
        _log.warning(
            "%d of the %d images of %s have the pixels of another one of them and another label; at most one label of "
            "each is right",
            differing,
            len(held),
            split,
        )


def _say_what_is_shared(one: str, of_one: Mapping[bytes, int], other: str, of_other: Mapping[bytes, int]) -> None:
    """Images that stand in two splits: accuracy on images that were trained on says little."""
    shared = of_one.keys() & of_other.keys()
    differing = sum(HIDDEN not in (pair := {of_one[pixels], of_other[pixels]}) and len(pair) > 1 for pixels in shared)
    if shared:
        said = f", {differing} of them with another label" if differing else ""
        _log.warning(
            "%d of the %d images of %s are in %s too%s; what is measured on them says little of new images",
            len(shared),
            len(of_other),
            other,
            one,
            said,
        )
