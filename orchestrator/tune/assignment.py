"""What goes to the process of a trial and what comes back, through Ray Tune's dictionaries.

Tune passes a `config` to a trial's process and its results back, as dictionaries of whatever. Ours have one key of
their own, whose value is an `Assignment`, an `Epoch` or a `Failure`; nothing else of them is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.machines.resources import Share
from orchestrator.objectives.objective import Objective
from orchestrator.records.location import Folder
from orchestrator.records.recording import Place

RayDict: TypeAlias = dict[str, object]

_ASSIGNMENT = "assignment"
_REPORT = "report"


@dataclass(frozen=True)
class Assignment:
    """A trial for a process to run."""

    number: int  # in the study
    config: TrialConfig
    folder: Folder  # of the sweep
    log: Path  # on the driver's machine
    share: Share  # of a machine
    extra: Mapping[str, float]  # what it asks of its node beyond that, as the kind of its GPU
    processes: int  # that share each batch
    trainer: str
    objective: Objective
    stall_seconds: float
    mps: bool = False  # share its GPU by MPS, where that is to be had

    def to_ray(self) -> RayDict:
        """The config that Tune passes on."""
        return {_ASSIGNMENT: self}

    @classmethod
    def of_ray(cls, config: Mapping[str, object]) -> Assignment:
        """What a config passes on."""
        assignment = config[_ASSIGNMENT]
        assert isinstance(assignment, cls)
        return assignment


@dataclass(frozen=True)
class Epoch:
    """The trial has finished an epoch."""

    number: int  # of the trial in the study
    metrics: EpochMetrics
    place: Place
    without_mps: str | None = None  # why its process does not share the GPU by MPS, where it should


@dataclass(frozen=True)
class Failure:
    """The trial has failed, in a process that lives on."""

    error: str
    is_of_storage: bool  # it could not write
    is_busy: bool  # an orphan of an earlier attempt has not ended yet


Report: TypeAlias = Epoch | Failure


def to_ray(report: Report | None, *, done: bool) -> RayDict:
    """The result that Tune passes back; nothing is reported where the trial had ended already."""
    result: RayDict = {"done": done}
    return result if report is None else {**result, _REPORT: report}


def report_of(result: Mapping[str, object] | None) -> Report | None:
    """What a result passes back; None where that is nothing, as of a trial that has reported nothing yet."""
    report = None if result is None else result.get(_REPORT)
    assert isinstance(report, Report | None)
    return report
