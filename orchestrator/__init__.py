"""Sweeps: the search, its results and the choice of a winner.

For Python programs and notebooks: `run_sweep` runs a sweep, `load_results` reads tables for pandas and chooses, and
`open_model` opens what was exported. docs/api.md has examples. What is listed here stays as it is within a major
version; everything else may change. Nothing is imported before it is used.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from cpcnn_core.config import TrialConfig as TrialConfig
    from cpcnn_core.errors import RunError as RunError
    from cpcnn_core.errors import UserError as UserError
    from cpcnn_core.metrics import EpochMetrics as EpochMetrics
    from orchestrator.exporting.folder import Exported as Exported
    from orchestrator.python.model import Model as Model
    from orchestrator.python.model import open_model as open_model
    from orchestrator.python.results import Choice as Choice
    from orchestrator.python.results import Results as Results
    from orchestrator.python.results import load_results as load_results
    from orchestrator.python.running import run_sweep as run_sweep

# Set before torch starts its threads. By default a thread that waits for another spins, and where several trials, or a
# trial and anything else, share the cores, that makes an epoch ten times longer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PUBLIC = {
    "Choice": "orchestrator.python.results",
    "EpochMetrics": "cpcnn_core.metrics",
    "Exported": "orchestrator.exporting.folder",
    "Model": "orchestrator.python.model",
    "Results": "orchestrator.python.results",
    "RunError": "cpcnn_core.errors",
    "TrialConfig": "cpcnn_core.config",
    "UserError": "cpcnn_core.errors",
    "load_results": "orchestrator.python.results",
    "open_model": "orchestrator.python.model",
    "run_sweep": "orchestrator.python.running",
}
"""The names for Python programs, and the module that has each. None is a module's or a command's."""

__all__ = [
    "Choice",
    "EpochMetrics",
    "Exported",
    "Model",
    "Results",
    "RunError",
    "TrialConfig",
    "UserError",
    "load_results",
    "open_model",
    "run_sweep",
]

_PACKAGES = ("orchestrator", "cpcnn_core", "search_spaces", "cluster")  # ours; what lacks one of them is broken


def _explain(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Say in one sentence that a command was typed where the project's packages are not; else, what Python says."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in ("", *_PACKAGES):
        sys.__excepthook__(kind, error, where)
        return
    from orchestrator.text import calling

    sys.stderr.write(f"error: {calling.without_environment(missing)}\n")
    raise SystemExit(2)


if sys.argv[:1] == ["-m"]:  # so it is while Python looks for a module to run; whoever imports us keeps their hook
    sys.excepthook = _explain


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_PUBLIC[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
