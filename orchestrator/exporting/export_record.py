"""What metrics.json of an exported folder says: what was recorded, what was measured again, and how it was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from cpcnn_core.config import Scalar

Choice: TypeAlias = Mapping[str, Any]  # Any: JSON whose shape is that of `Decision` or of `Confirmation` in `choosing`
"""What `best` says of how an epoch was chosen."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The exported weights' accuracy on images of one split."""

    value: float | None
    images: int  # that it was measured on
    of: int  # the split's
    reason: str | None = None  # why there is none


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """The content of metrics.json."""

    sweep: str
    trial_id: str
    chosen_by: str  # the metric
    choice: Choice | None  # None where the epoch was named and not chosen
    recorded: Mapping[str, Scalar]  # the row of `epochs`
    measured_again: Mapping[str, float]  # by the exported weights
    accuracy: Mapping[str, Accuracy]  # by split: train, validation, test; the choice is by validation alone
    as_graded: Mapping[str, float] | None  # as the course's scripts, which do not round pixels, would measure them
    class_names: Sequence[str]  # in the order of their numbers
    confusion: Sequence[Sequence[int]] | None  # rows: true classes, columns: predicted ones; None of very many
    submission: Mapping[str, Scalar]  # what is handed in, with the FID of its images or why there is none
    is_imported: bool
    origin: Mapping[str, Scalar]  # by which code, where and when it was trained, or else imported
    exported: Mapping[str, Scalar]
    versions: Mapping[str, str | None]

    def as_json(self) -> dict[str, object]:
        """As JSON."""
        return {
            "sweep": self.sweep,
            "trial_id": self.trial_id,
            "chosen_by": self.chosen_by,
            "choice": self.choice,
            "recorded": self.recorded,
            "measured_again": self.measured_again,
            "accuracy": {split: asdict(found) for split, found in self.accuracy.items()},
            "as_graded": self.as_graded,
            "class_names": self.class_names,
            "confusion": self.confusion,
            "submission": self.submission,
            "imported" if self.is_imported else "trained": self.origin,
            "exported": self.exported,
            "versions": self.versions,
        }
