"""What can go wrong with results."""

from __future__ import annotations

from cpcnn_core.errors import UserError


class StoreError(UserError):
    """Results that cannot be written or read; the message names the path."""


class NotThereError(StoreError):
    """Results that nobody has written."""
