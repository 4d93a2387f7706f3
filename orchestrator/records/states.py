"""The states that a trial may be in, and what each means: one table, which everything that asks about a state reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAILED", "INTERRUPTED", "PREEMPTED", "STOPPED"]


@dataclass(frozen=True)
class Meaning:
    """What follows from a state. One that neither runs nor has ended waits: the same command takes the trial up."""

    text: str
    runs: bool = False  # a process trains it, unless its driver was killed
    ended: bool = False  # its sweep does not come back to it by itself
    failed: bool = False  # below every other in rankings, and nothing to learn from

    @property
    def waits(self) -> bool:
        """Whether it goes on once there is a driver, time or a machine for it."""
        return not self.runs and not self.ended


MEANINGS: Mapping[State, Meaning] = {
    "RUNNING": Meaning("a process trains it, or did until it was killed together with its driver", runs=True),
    "COMPLETE": Meaning("all its epochs are finished", ended=True),
    "PRUNED": Meaning(
        "a scheduler stopped it before its last epoch, and another one may let it go on; or it replays a trial that "
        "went no further",
        ended=True,
    ),
    "FAILED": Meaning("an error ended it, which `error` names", ended=True, failed=True),
    "INTERRUPTED": Meaning(
        "Ctrl-C or another signal to end, a spent budget, a debugger that was left, or a process or machine that was "
        "lost; its sweep goes on with it by itself while it runs, else the same command does"
    ),
    "PREEMPTED": Meaning(
        "it was told that its process or machine is to be taken away, and saved its state within the epoch; it goes on "
        "at that step, wherever there is a place, as an INTERRUPTED one does"
    ),
    "STOPPED": Meaning("the user ended this one trial with `stop`; no command takes it up again by itself", ended=True),
}

ENDED: tuple[State, ...] = tuple(state for state, meaning in MEANINGS.items() if meaning.ended)
FAILURES: tuple[State, ...] = tuple(state for state, meaning in MEANINGS.items() if meaning.failed)


_UNKNOWN = Meaning("written by another program, so that nobody here takes it up", ended=True)


def meaning_of(state: object) -> Meaning:
    """What the `state` in a row of `trials` means."""
    return next((meaning for known, meaning in MEANINGS.items() if known == state), _UNKNOWN)


def reason_of(trial: Mapping[str, object]) -> str | None:
    """Why the trial is in its state, from a row of `trials`; None where nothing was said."""
    reason = trial.get("error") or trial.get("stopped")
    return None if reason is None else str(reason)
