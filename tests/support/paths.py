"""Where the repository lies, and what tests read that is no part of the packages."""

from __future__ import annotations

from pathlib import Path

from orchestrator.records.location import Folder

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"  # real data and a real checkpoint, where they are at hand


def local(path: Folder) -> Path:
    """The same, of a store that lies on this machine."""
    assert isinstance(path, Path)
    return path
