"""Warm start: what earlier sweeps measured that a new one may learn from, and why the rest of it may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cpcnn_core.config import PROTOCOL, ConfigError, TrialConfig
from cpcnn_core.metrics import OF_IMAGES, FidProtocol, fid_protocol_of
from orchestrator.records.states import meaning_of
from orchestrator.records.store import Row, Store, config_of
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Recorded

# Settings that change neither what is trained nor what the objective reads of it. Which FID was measured stands in the
# rows themselves, more exactly than in the settings.
_IGNORED = (
    "seed",
    "eval.every",
    "eval.batch_size",
    "eval.train_images",
    "eval.fid_every",
    "eval.fid_images_per_class",
    "eval.fid_extractor",
    "eval.fid_reference",
    "eval.fid_extrapolate",
)
_SHOWN = 5  # reasons


@dataclass
class Source:
    """What one earlier sweep gives."""

    name: str
    used: list[tuple[str, Recorded]] = field(default_factory=list)  # each with where it comes from
    refused: Counter[str] = field(default_factory=Counter)  # by reason

    def summary(self, new: int) -> str:
        """One line: how many trials are used, `new` of them for the first time, and why others are not."""
        known = f" ({len(self.used) - new} of them known already)" if new < len(self.used) else ""
        text = f"warm start from {self.name}: {len(self.used)} trials used{known}"
        if not self.refused:
            return text
        reasons = [f"{count} because {reason}" for reason, count in self.refused.most_common(_SHOWN)]
        rest = self.refused.total() - sum(count for _, count in self.refused.most_common(_SHOWN))
        return f"{text}, {self.refused.total()} not: " + "; ".join([*reasons, *([f"{rest} others"] if rest else [])])


def gather(space: SearchSpace, stores: Iterable[Store], protocol: FidProtocol | None = None) -> list[Source]:
    """The trials of each store that the space admits, measured as the new sweep will measure.

    `protocol` is what this sweep measures FID with; where nobody knows it yet, the first row that has a FID decides.
    """
    needs_protocol = bool(OF_IMAGES & set(space.objective.reads))
    sources = []
    for store in stores:
        source = Source(store.folder.name)
        epochs: dict[str, list[Row]] = {}
        for row in store.epochs().rows():
            epochs.setdefault(str(row["trial_id"]), []).append(row)
        table = store.latest_attempts()
        source.refused.update(problem for problem in table.problems)
        for row in table.rows():
            rows = epochs.get(str(row["trial_id"]), [])
            if needs_protocol:
                protocol = protocol or _first_protocol(rows)
            trial = _usable(space, row, rows, protocol if needs_protocol else None)
            if isinstance(trial, str):
                source.refused[trial] += 1
            else:
                source.used.append((f"{source.name}/{trial.trial_id}", trial))
        sources.append(source)
    return sources


def _usable(space: SearchSpace, row: Row, epochs: Sequence[Row], protocol: FidProtocol | None) -> Recorded | str:
    """The trial as a study may be told of it, or why not."""
    try:
        config = config_of(row)
    except ConfigError as error:
        return f"the configuration is none of today's ({error})"
    if config.source is not None:
        return "it is an imported checkpoint, which no space gives"
    if config.protocol != PROTOCOL:
        return f"it was recorded under protocol {config.protocol}, not {PROTOCOL}"
    params, reason = space.admit(_as_measured_here(space, config))
    if reason is not None:
        return reason
    if meaning_of(row["state"]).runs:
        return "it has not ended"
    if meaning_of(row["state"]).failed:
        return "it failed"
    if protocol is not None:
        measured = [epoch for epoch in epochs if fid_protocol_of(epoch) == protocol]
        other = _first_protocol(epochs)
        if not measured and other is not None:
            return f"its FID has other features, images or reference ({_in_words(other)}, not {_in_words(protocol)})"
        epochs = measured
    recorded = Recorded.of(config, row, epochs, params, space.objective)
    return recorded if recorded.best is not None else f"it has no {' and '.join(space.objective.reads)} in any epoch"


def _first_protocol(epochs: Sequence[Row]) -> FidProtocol | None:
    """What the first FID of a trial was measured with; None where it has none."""
    return next((fid_protocol_of(epoch) for epoch in epochs if epoch.get("fid") is not None), None)


def _as_measured_here(space: SearchSpace, config: TrialConfig) -> TrialConfig:
    mine = space.default().flat()
    # How many training images are looked at is train_acc's measure, and nobody else's.
    kept = {"eval.train_images"} if "train_acc" in space.objective.reads else set()
    return config.with_settings(
        {name: mine[name] for name in _IGNORED if name not in space.searched and name not in kept}
    )


def _in_words(protocol: FidProtocol) -> str:
    features, images, reference = protocol
    return f"{features} of {images} images against {reference}"
