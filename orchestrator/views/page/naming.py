"""Trials by their settings: as few of them as tell the trials apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cpcnn_core.config import Scalar
from orchestrator.records import ranking
from orchestrator.text.formatting import settings_apart
from orchestrator.views import leaderboard

FUSION = "model.fusion"


def names(settings: Sequence[Mapping[str, Scalar]], ids: Sequence[str]) -> list[str]:
    """A name for each configuration, all different: `block_film, nr_filters 16`. An id tells apart what nothing else
    does.
    """
    fields = _telling(settings)
    cells = leaderboard.setting_cells(settings, fields)
    found = [", ".join(_named(field, cell) for field, cell in zip(fields, row, strict=True) if cell) for row in cells]
    if len(set(found)) == len(found) and all(found):
        return found
    return [f"{name}, {trial_id}" if name else trial_id for name, trial_id in zip(found, ids, strict=True)]


def _telling(settings: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """The fusion, where it differs, and then whichever field tells most of those apart that are still alike."""
    left = ranking.differing(settings)
    chosen = [field for field in left if field == FUSION]
    kinds = _kinds(settings, chosen)
    while kinds < len(settings) and left:
        best = max(left, key=lambda field: _kinds(settings, [*chosen, field]))
        reached = _kinds(settings, [*chosen, best])
        if reached == kinds:
            break
        chosen.append(best)
        left.remove(best)
        kinds = reached
    return chosen


def _kinds(settings: Sequence[Mapping[str, Scalar]], fields: Sequence[str]) -> int:
    return len({tuple(repr(each.get(field)) for field in fields) for each in settings})


def _named(field: str, cell: str) -> str:
    return cell if field == FUSION else f"{short(field)} {cell}"


def short(field: str) -> str:
    """The last part of a dotted name."""
    return field.rpartition(".")[2]


def in_words(settings: Mapping[str, Scalar], fields: Sequence[str]) -> str:
    """The settings of one trial in these fields."""
    known = [field for field in fields if field in settings]
    return ", ".join(_named(field, settings_apart([settings[field]])[0]) for field in known)
