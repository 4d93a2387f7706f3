"""Moments for rows of `trials`."""

from __future__ import annotations

from datetime import UTC, datetime


def at(text: str = "2025-01-01") -> datetime:
    """A moment in UTC, from its day, or day and time."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
