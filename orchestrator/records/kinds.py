"""What a folder of results is: `kind` in its sweep.json, and a guess for folders of before it said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from orchestrator.records import provenance
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord

Kind = Literal["sweep", "trials", "imported", "replays", "confirmation"]
KINDS: tuple[Kind, ...] = get_args(Kind)

IMPORTED = "Imported checkpoints."  # the question of a folder of them

IN_WORDS: Mapping[Kind, str] = {
    "sweep": "a sweep",
    "trials": "trials run by hand",
    "imported": "imported checkpoints",
    "replays": "replays",
    "confirmation": "confirms a choice",
}


def kind_of(name: str, record: SweepRecord | None) -> Kind:
    """What the folder `name` is, by the content of its sweep.json; None where it has none."""
    if record is None:
        return "replays" if name.endswith("-replays") else "trials"
    for kind in KINDS:
        if record.kind == kind:
            return kind
    if record.confirmation is not None:
        return "confirmation"
    if record.asked is not None:
        return "sweep"
    return "imported" if record.question == IMPORTED else "trials"


def introduce(
    store: Store, kind: Kind, question: str, source: str | None = None, *, class_names: Sequence[str] = ()
) -> None:
    """Say in sweep.json what the folder is, unless that is said. Raise StoreError."""
    if store.read_sweep() is None:
        record = SweepRecord(
            name=store.folder.name,
            kind=kind,
            question=question,
            source=source,
            created=provenance.now(),
            runs=[],
        )
        names = {"class_names": class_names} if class_names else {}
        store.write_sweep(record.model_copy(update=names))
