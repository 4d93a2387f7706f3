"""The tree of all errors that are ours, and those of data and checkpoints.

Each error is a `UserError` or a `RunError`; its message is what the user reads. Free of torch, so that commands that
only read results start fast.
"""

from __future__ import annotations

from typing import ClassVar


class CpcnnError(Exception):
    """The base of every error that is ours; commands catch it and nothing else."""

    exit_code: ClassVar[int] = 1  # of a command that it ends


class UserError(CpcnnError):
    """What the user can mend: an option, a file, a place. One sentence says what is wrong and the way out."""

    exit_code = 2


class RunError(CpcnnError):
    """What went wrong while it ran, though what was asked for is in order."""

    exit_code = 1


class PreemptedError(RunError):
    """Training that ended since its process or machine is to be taken away; it goes on where the message says."""


class DataError(UserError, ValueError):
    """Data that cannot be used; the message names the file and row, and says what was expected."""


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be used; the message names the file and what was expected."""


class PathError(RunError, RuntimeError):
    """A fast path whose numbers are not those of the slow one; the message names both and the setting without it."""


class LikelihoodError(RunError, ValueError):
    """A network whose likelihoods are none, since it diverged; the message says of how many images, and how."""
