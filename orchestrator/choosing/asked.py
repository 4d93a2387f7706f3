"""Which trials of a folder its sweep asked for, by sweep.json alone: others were run there by hand, or imported.

A reader has no space file, and does without torch; the driver, which has both, asks the space itself
(`SearchSpace.params_of`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cpcnn_core.config import ADDED, PROTOCOL, SINCE_PROTOCOL_2, Scalar, field_defaults, not_identifying
from orchestrator.choosing.where import Condition
from orchestrator.records.ranking import Entry
from orchestrator.records.space_record import RecordedChoice, RecordedField, RecordedSpace
from orchestrator.records.store import OPTION_PREFIX, Row, as_int, as_scalar
from orchestrator.records.sweep_file import SweepRecord

_QUANTIZE = "data.quantize"


@dataclass(frozen=True)
class Parted:
    """The trials that a sweep asked for, and those that lie in its folder all the same."""

    own: list[Entry]
    imported: list[Entry]
    by_hand: list[Entry]

    @property
    def others(self) -> list[Entry]:
        """Those that it did not ask for."""
        return self.imported + self.by_hand

    @property
    def others_in_words(self) -> str:
        """How many others there are: `1 imported and 2 run by hand`; empty where there are only its own."""
        counts = {"imported": len(self.imported), "run by hand": len(self.by_hand)}
        return " and ".join(f"{count} {what}" for what, count in counts.items() if count)

    @property
    def only_own(self) -> str:
        """The condition of --where that leaves the others out; empty where there are none."""
        return " and ".join(str(Condition("trial_id", "!=", entry.trial_id)) for entry in self.others)


def parted(entries: Iterable[Entry], sweep: SweepRecord) -> Parted:
    """The entries of a folder by what the content of its sweep.json asks; where that asks nothing, all are its own."""
    found = Parted([], [], [])
    for entry in entries:
        if asks_for(sweep, entry.trial):
            found.own.append(entry)
        else:
            (found.imported if entry.is_imported else found.by_hand).append(entry)
    return found


def asks_for(sweep: SweepRecord, row: Row) -> bool:
    """Whether the sweep asks for the trial of this row of `trials`.

    Of a sweep of an earlier release, whose fields are not recorded or whose defaults were others, every trial that was
    trained counts.
    """
    asked, fields = sweep.asked, sweep.fields
    if asked is None:
        return True
    if row.get("source") is not None:
        return False
    if row.get("lineage.weights") is not None:
        return any(asks_for(sweep, _as_from_the_start(row, more)) for more in sweep.continued)
    if fields is None or asked.protocol != PROTOCOL:
        return True
    settings = asked.settings
    apart = not_identifying(settings)
    varied = dict(_varied(fields, row))
    defaults = field_defaults(str(settings.get("data.name") or field_defaults("digits")["data.name"]))
    options = [name for name, value in row.items() if name.startswith(OPTION_PREFIX) and value is not None]
    return all(
        varied[name].admits(as_scalar(row.get(name))) if name in varied else _is_set(name, row, settings, defaults)
        for name in dict.fromkeys((*defaults, *settings, *varied, *options))
        if name not in apart
    )


def _as_from_the_start(row: Row, more: int) -> Row:
    """The row of the trial that this one would have begun as, if the sweep continued it by so many epochs.

    One whose optimizer began anew is no trial that a sweep continues; its lineage stays, which no sweep asks for.
    """
    shorter = {"train.epochs": as_int(row["train.epochs"]) - more}
    kept = {"lineage.fresh_optimizer": row.get("lineage.fresh_optimizer")}
    return {**row, **{name: value for name, value in ADDED.items() if name.startswith("lineage.")}, **kept, **shorter}


def _varied(fields: RecordedSpace, row: Row) -> Iterator[tuple[str, RecordedField]]:
    """How each field varies that is active under the row's options."""
    for field, recorded in fields.items():
        yield field, recorded
        if isinstance(recorded, RecordedChoice):
            yield from _varied(recorded.branch(as_scalar(row.get(field))) or {}, row)


def _is_set(name: str, row: Row, settings: Mapping[str, Scalar], defaults: Mapping[str, Scalar]) -> bool:
    """Whether the row has what the settings say of a field that does not vary, or else its default."""
    wanted = settings.get(name, defaults.get(name))
    if name == _QUANTIZE and wanted is None:
        wanted = defaults[name]
    value = row.get(name)
    if value is None and (name not in row or name in SINCE_PROTOCOL_2):
        value = defaults.get(name)  # a row of before there was the field
    if isinstance(value, float) and isinstance(wanted, int | float):
        return math.isclose(value, wanted, rel_tol=1e-12)
    return bool(value == wanted)
