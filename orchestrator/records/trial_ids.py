"""Trial ids as people read and type them: as much of the beginning as tells one from all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.records.location import Folder, RemotePath
from orchestrator.records.store import Store, StoreError, sweeps

WHOLE = 12  # hex digits of an id
SHORTEST = 6  # digits that are shown: a few thousand trials later, most of them still tell one from the others

_LISTED = 10  # candidates of a beginning that several trials have


def shortened(ids: Iterable[str], among: Iterable[str] = ()) -> Mapping[str, str]:
    """Each id by the shortest beginning that no other one has, of these or `among` others; at least SHORTEST digits."""
    shown = list(dict.fromkeys(ids))
    ordered = sorted({*shown, *among})
    place = {trial_id: index for index, trial_id in enumerate(ordered)}
    found = {}
    for trial_id in shown:
        at = place[trial_id]
        beside = [*ordered[max(0, at - 1) : at], *ordered[at + 1 : at + 2]]  # in this order the likest are next to it
        length = max([SHORTEST, *(1 + _common(trial_id, other) for other in beside)])
        found[trial_id] = trial_id[:length]
    return found


def beside(stores: Iterable[Store]) -> set[str]:
    """The ids of all trials that lie in the same folders of results as these sweeps.

    Behind a URL only those of the sweeps themselves: looking at each of the others takes a request.
    """
    found: set[str] = set()
    own = list(stores)
    folders = dict.fromkeys(store.folder.parent for store in own if not isinstance(store.folder, RemotePath))
    for store in (*own, *(other for folder in folders for other in sweeps(folder))):
        found.update(store.trial_ids())
    return found


def whole(results: Folder, typed: str, sweep: str | None = None) -> str:
    """The id that begins with what was typed, of a sweep's trials or of all; where none does, what was typed.

    Raise StoreError where several trials begin so.
    """
    if len(typed) >= WHOLE:
        return typed
    return of(sweeps(results) if sweep is None else [Store(results / sweep)], typed)


def of(stores: Iterable[Store], typed: str) -> str:
    """The same among the trials of these sweeps."""
    if len(typed) >= WHOLE or not typed:
        return typed
    found: dict[str, list[str]] = {}
    for store in stores:
        for trial_id in store.trial_ids():
            if trial_id.startswith(typed):
                found.setdefault(trial_id, []).append(store.folder.name)
    if typed in found or not found:
        return typed
    if len(found) > 1:
        listed = [f"{trial_id} in {' and '.join(names)}" for trial_id, names in sorted(found.items())]
        more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise StoreError(f"{typed}: several trials begin so: {', '.join(listed[:_LISTED])}{more}; type more of the id")
    return next(iter(found))


def _common(one: str, other: str) -> int:
    """How many characters at their beginning are the same."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
