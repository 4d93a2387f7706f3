"""When training saves its state in the middle of an epoch, and whether it ends there.

Several processes that train one trial save after the same step, or none of them does. They ask one another as often as
a second has passed, by the slowest one's steps, so that asking costs nothing that shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

_ASK_SECONDS = 1.0  # of training between two questions of several processes
_MOST_STEPS = 256  # between two questions

Preempted = Callable[[], bool]
"""Whether this process, or its machine, is about to be taken away."""


class Wanted(IntEnum):
    """What is to be done before the next step; of several processes the most that one of them wants."""

    NOTHING = 0
    SAVE = 1
    END = 2


def never() -> bool:
    """Nobody takes the process away."""
    return False


class Saving:
    """Says before each step what is wanted, in every process of a trial alike."""

    def __init__(self, accelerator: Accelerator, every_seconds: float, preempted: Preempted) -> None:
        self.preempted = preempted
        self._accelerator = accelerator
        self._every = every_seconds
        self._saved = self._asked = time.perf_counter()
        self._steps = 0  # since the last question
        self._interval = 1  # steps between two

    def begin(self) -> None:
        """An epoch's steps begin, or go on."""
        self._saved = self._asked = time.perf_counter()
        self._steps = 0

    def wanted(self) -> Wanted:
        """What is wanted before the step at hand."""
        now = time.perf_counter()
        if self._accelerator.num_processes == 1:
            found = self._own(now)
        elif self._steps < self._interval:
            found = Wanted.NOTHING
        else:
            found = self._agreed(now)
        self._steps += 1
        if found:
            self._saved = now
        return found

    def _own(self, now: float) -> Wanted:
        if self.preempted():
            return Wanted.END
        return Wanted.SAVE if now - self._saved > self._every else Wanted.NOTHING

    def _agreed(self, now: float) -> Wanted:
        """Ask all processes; each of them then knows the same, and asks again after as many steps."""
        own = torch.tensor(
            [[float(self._own(now)), (now - self._asked) / self._steps]], device=self._accelerator.device
        )
        wanted, seconds = self._accelerator.gather(own).amax(0).tolist()
        self._interval = max(1, min(_MOST_STEPS, int(_ASK_SECONDS / max(seconds, 1e-9))))
        self._asked, self._steps = now, 0
        return Wanted(int(wanted))


def of_all(sums: Mapping[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Each process's sums over its share of the images so far, one row for each of several processes."""
    if accelerator.num_processes == 1:
        return dict(sums)
    return {name: accelerator.gather(total[None]) for name, total in sums.items()}


def own(sums: Mapping[str, Tensor], accelerator: Accelerator, *, maxima: tuple[str, ...]) -> dict[str, Tensor]:
    """This process's part of what `of_all` gave, in as many processes or another number of them.

    Those called `maxima` are the same in every process. The others are sums, which the first process goes on with where
    their number is another one.
    """
    found: dict[str, Tensor] = {}
    rank, world = accelerator.process_index, accelerator.num_processes
    for name, total in sums.items():
        rows = total if total.ndim > _DIMENSIONS.get(name, 0) else total[None]
        if name in maxima:
            found[name] = rows.amax(0)
        elif len(rows) == world:
            found[name] = rows[rank]
        else:
            found[name] = rows.sum(0) if rank == 0 else torch.zeros_like(rows[0])
    return found


_DIMENSIONS = {"stage_norms": 1}  # of one process's; the others are numbers
