"""What each benchmark comes down to: ratios, each with what it is taken against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One ratio."""

    name: str
    ratio: float
    baseline: str  # what the ratio is taken against, in words
    better: str = "larger"  # or "smaller"


@dataclass(frozen=True)
class Asked:
    """How much a benchmark shall do for its figures."""

    short: bool  # the smallest settings that still say something
    root: Path | None = None  # the course's images, where they are at hand


class NotMeasuredError(Exception):
    """A benchmark that lacks what it needs; the message says what."""
