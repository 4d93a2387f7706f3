"""What can go wrong with results."""

from __future__ import annotations


class StoreError(Exception):
    """Results that cannot be written or read; the message names the path."""


class NotThereError(StoreError):
    """Results that nobody has written."""
