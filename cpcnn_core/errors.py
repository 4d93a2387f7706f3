"""What a user can mend in data and checkpoints. Free of torch, so that commands that only read results start fast."""

from __future__ import annotations


class DataError(ValueError):
    """Data that cannot be used; the message names the file and row, and says what was expected."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and what was expected."""


class LikelihoodError(ValueError):
    """A network whose likelihoods are none, since it diverged; the message says of how many images, and how."""
