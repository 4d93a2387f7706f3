"""What a folder of results is: `kind` in its sweep.json, and a guess for folders of before it said so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from orchestrator.records import provenance
from orchestrator.records.store import Store

Kind = Literal["sweep", "trials", "imported", "replays", "confirmation"]
KINDS: tuple[Kind, ...] = get_args(Kind)

KIND = "kind"
CONFIRMATION = "confirmation"  # in the sweep.json of a sweep that confirms a choice: the question that it decides
IMPORTED = "Imported checkpoints."  # the question of a folder of them

IN_WORDS: Mapping[Kind, str] = {
    "sweep": "a sweep",
    "trials": "trials run by hand",
    "imported": "imported checkpoints",
    "replays": "replays",
    "confirmation": "confirms a choice",
}


def kind_of(name: str, held: Mapping[str, Any] | None) -> Kind:
    """What the folder `name` is, by the content of its sweep.json; None where it has none."""
    if held is None:
        return "replays" if name.endswith("-replays") else "trials"
    for kind in KINDS:
        if held.get(KIND) == kind:
            return kind
    if CONFIRMATION in held:
        return "confirmation"
    if "asked" in held:
        return "sweep"
    return "imported" if held.get("question") == IMPORTED else "trials"


def introduce(store: Store, kind: Kind, question: str, source: str | None = None) -> None:
    """Say in sweep.json what the folder is, unless that is said. Raise StoreError."""
    if store.read_sweep() is None:
        store.write_sweep(
            {
                "name": store.folder.name,
                KIND: kind,
                "question": question,
                "source": source,
                "created": provenance.now(),
                "runs": [],
            }
        )
