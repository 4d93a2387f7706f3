"""Which image is in which split: as the source says, and where it has no such split, by class, seed and share."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cpcnn_core.class_names import as_composed
from cpcnn_core.data.split import SPLITS
from cpcnn_core.errors import DataError

if TYPE_CHECKING:
    from cpcnn_core.config import DataConfig
    from cpcnn_core.data.pool import Pool

DEFAULT_SHARE = 0.1
"""Of the images, for validation, and for testing where all are in one pool."""

_log = logging.getLogger(__name__)

Chosen = Sequence[tuple["Pool", int]]


def cut(config: DataConfig, pools: Mapping[str, Pool]) -> dict[str, Chosen]:
    """The images of each split, the ones of a split that is cut in the order of their names.

    Raise DataError where a share is asked for of a split that is not cut.
    """
    whole = {split: [(pool, at) for at in range(len(pool))] for split, pool in pools.items()}
    from_all = "all" in pools
    _check_settings(config, pools)
    if "validation" in pools and not from_all:
        return dict(whole)
    source = pools["all" if from_all else "train"]
    validation = DEFAULT_SHARE if config.validation_share is None else config.validation_share
    test = (DEFAULT_SHARE if config.test_share is None else config.test_share) if from_all else 0.0
    if validation + test >= 1:
        raise DataError(
            f"data.validation_share, data.test_share: {validation:g} and {test:g} leave nothing to train on; "
            "together they must be below 1"
        )
    parts = _by_class(source, validation, test, config.split_seed)
    in_order = {
        split: [(source, at) for at in sorted(indices, key=lambda at: as_composed(source.names[at]))]
        for split, indices in parts.items()
    }
    return {**in_order, **{split: chosen for split, chosen in whole.items() if split == "test"}}


def _check_settings(config: DataConfig, pools: Mapping[str, Pool]) -> None:
    if "all" in pools:
        return
    if config.test_share is not None:
        own = "a test split" if "test" in pools else "a training split"
        raise DataError(
            f"data.test_share: {config.test_share:g} has no meaning here: the data has {own} of its own, and is not "
            "cut for testing; drop it"
        )
    if "validation" not in pools:
        return
    for setting, value in (("validation_share", config.validation_share), ("split_seed", config.split_seed or None)):
        if value is not None:
            raise DataError(
                f"data.{setting}: {value:g} has no meaning here: the data has a validation split of its own, which "
                "stays as it is; drop it"
            )


def _by_class(pool: Pool, validation: float, test: float, seed: int) -> dict[str, list[int]]:
    """Indices by split. Those of a class are in an order that their names and the seed decide alone.

    Testing takes from its beginning and validation from its end: a split lies within that of a larger share, and
    images that are added later leave nearly all others where they are.
    """
    of_class: dict[str | int | None, list[int]] = {}
    for at, label in enumerate(pool.labels):
        of_class.setdefault(label, []).append(at)
    parts: dict[str, list[int]] = {split: [] for split in SPLITS if split != "test" or test}
    alone = 0
    for indices in of_class.values():
        shuffled = sorted(indices, key=lambda at: _place(pool.names[at], seed))
        for_validation, for_test = counts(len(indices), validation, test)
        alone += for_validation == 0
        end = len(indices) - for_validation
        parts["train"] += shuffled[for_test:end]
        parts["validation"] += shuffled[end:]
        if test:
            parts["test"] += shuffled[:for_test]
    if alone:
        _log.warning(
            "%d of the %d classes have a single image, which is trained on: validation has none of them",
            alone,
            len(of_class),
        )
    return parts


def counts(images: int, validation: float, test: float) -> tuple[int, int]:
    """How many of a class's images are for validation and for testing: their shares, rounded.

    Where there are enough, each split has at least one: training first, then validation, then testing.
    """
    for_test = min(max(1, _rounded(images * test)), images - 2) if test and images > 2 else 0
    for_validation = min(max(1, _rounded(images * validation)), images - 1 - for_test) if images > 1 else 0
    return for_validation, for_test


def _rounded(count: float) -> int:
    return int(count + 0.5)


def _place(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {as_composed(name)}".encode()).digest()
