"""`accelerate launch --num_processes N` without as many GPUs: it starts one process, and leaves the others to it."""

from __future__ import annotations

import argparse
import os

import psutil

from cpcnn_core import environment
from cpcnn_core.config import ConfigError

_LEFT = {"MASTER_ADDR", "MASTER_PORT"}  # of a rendezvous; ranks and their number it leaves out
_ALWAYS_SET = "ACCELERATE_MIXED_PRECISION"


def processes() -> int | None:
    """How many processes `accelerate launch` was asked for, where it started this one alone; None where it did not.

    Its environment does not say how many, but its own command line does. Raise ConfigError where that cannot be read,
    or asks for several machines.
    """
    given = {name for name in environment.RENDEZVOUS if os.environ.get(name)}
    if given != _LEFT or _ALWAYS_SET not in os.environ:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--num_processes", "--num-processes", type=int)
    parser.add_argument("--num_machines", "--num-machines", type=int, default=1)
    asked, _ = parser.parse_known_args(_command_line_of_parent())
    if asked.num_machines > 1 or asked.num_processes is None:
        raise ConfigError(
            "environment: accelerate launch started this process alone, and how many of this machine it was asked for "
            "cannot be told; give it --num_processes N, or have `trial --processes N` start them"
        )
    return int(asked.num_processes)


def _command_line_of_parent() -> list[str]:
    try:
        parent = psutil.Process().parent()
        return [] if parent is None else parent.cmdline()
    except psutil.Error:
        return []
