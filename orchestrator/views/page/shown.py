"""What a live page shows at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.views.page.blocks import Section
from orchestrator.views.state import SweepState


@dataclass(frozen=True)
class Shown:
    """The page as it is now."""

    title: str = ""
    sections: tuple[Section, ...] = ()
    inner: Mapping[str, str] = field(default_factory=dict)  # HTML of each section, by its id
    digests: Mapping[str, str] = field(default_factory=dict)
    states: tuple[SweepState, ...] = ()
    looked: datetime | None = None  # when the files were last found to be what is shown
    problem: str | None = None  # why they could not be looked at since, or the page not be made anew

    @property
    def sentence(self) -> str:
        """How the sweeps stand."""
        told = ". ".join(state.sentence for state in self.states)
        return f"{told}. {'' if self.problem is None else f'Not made anew: {self.problem}. '}"

    @property
    def looked_at(self) -> str:
        """When it was true, in a sentence."""
        return "" if self.looked is None else f"Looked at {self.looked:%H:%M:%S} UTC."

    def running(self, sweep: str, trial_id: str) -> bool:
        """Whether that trial runs."""
        return any(
            trial.trial_id == trial_id for state in self.states if state.sweep == sweep for trial in state.running
        )
