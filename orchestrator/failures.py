"""Failures in a row: whether they say that no trial of the sweep will succeed."""

from __future__ import annotations

import re

IN_A_ROW = 3

# What a network does that learns too fast says something of its settings, and nothing of the next trial.
_DIVERGED = ("TrainingError:", "LikelihoodError:")
_NUMBERS = re.compile(r"\b[0-9a-f]{12,}\b|0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)


class FailuresInARow:
    """Trials that failed one after another for the same cause, before any has succeeded."""

    def __init__(self) -> None:
        self.trial_ids: list[str] = []
        self.error = ""  # of the last one
        self._any_succeeded = False

    def succeeded(self) -> None:
        """A trial ended without an error, now or in an earlier run: the sweep as such works."""
        self._any_succeeded = True

    def failed(self, trial_id: str, error: str) -> None:
        """A trial ended with an error."""
        if error.startswith(_DIVERGED):
            return
        if cause_of(error) != cause_of(self.error):
            self.trial_ids = []
        self.trial_ids.append(trial_id)
        self.error = error

    @property
    def are_enough(self) -> bool:
        """Whether it would be a waste to try another one."""
        return not self._any_succeeded and len(self.trial_ids) >= IN_A_ROW


def cause_of(error: str) -> str:
    """The error without what differs from trial to trial: numbers, addresses, ids."""
    return _NUMBERS.sub("#", error)
