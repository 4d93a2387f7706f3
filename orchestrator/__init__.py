"""Sweeps: the search, its results and the choice of a winner."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# Set before torch starts its threads. By default a thread that waits for another spins, and where several trials, or a
# trial and anything else, share the cores, that makes an epoch ten times longer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
