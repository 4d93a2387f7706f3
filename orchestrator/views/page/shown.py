"""What a live page shows at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    problem: str | None = None  # why it could not be made anew

    @property
    def sentence(self) -> str:
        """How the sweeps stand."""
        told = ". ".join(state.sentence for state in self.states)
        return f"{told}. {'' if self.problem is None else f'Not made anew: {self.problem}. '}"

    def running(self, sweep: str, trial_id: str) -> bool:
        """Whether that trial runs."""
        return any(
            trial.trial_id == trial_id for state in self.states if state.sweep == sweep for trial in state.running
        )
