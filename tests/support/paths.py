"""Where the repository lies, and what tests read that is no part of the packages."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared"  # real data and a real checkpoint, where they are at hand
