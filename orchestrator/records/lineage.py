"""The line of trials that continue one another, as the tables hold it."""

from __future__ import annotations

from cpcnn_core.config import ADDED, OF_THE_TOTAL, Scalar, TrialConfig, not_identifying
from orchestrator.records.columns import config_of
from orchestrator.records.store import Store

_NONE: dict[str, Scalar] = {name: value for name, value in ADDED.items() if name.startswith("lineage.")}


def from_the_start(store: Store, config: TrialConfig) -> TrialConfig | None:
    """The configuration of the trial that would have come to the same, had it been as long from the start.

    The trial itself where it continues none. None where there is no such configuration: a setting changed on the way,
    the optimizer began anew, the schedule depends on the total, the line began with a file, or a part of it is missing.
    """
    longer = config.with_settings(_NONE) if config.continues else config
    while config.continues:
        lineage = config.lineage
        rows = [] if lineage.parent is None else store.attempts_of(lineage.parent)
        if not rows or lineage.fresh_optimizer or config.train.schedule in OF_THE_TOTAL:
            return None
        config = config_of(rows[-1])
        if config.source is not None or not _agree(longer, config):
            return None
    return longer


def _agree(one: TrialConfig, other: TrialConfig) -> bool:
    """Whether two configurations differ in nothing but their length and what they continue."""
    first, second = map(_compared, (one, other))
    return first == second


def _compared(config: TrialConfig) -> dict[str, Scalar]:
    flat = config.flat()
    apart = not_identifying(flat) | _NONE.keys() | {"train.epochs"}
    return {name: value for name, value in flat.items() if name not in apart}
