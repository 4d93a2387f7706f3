"""Whether training will compete for cores: with itself, or with what else the machine does."""

from __future__ import annotations

import os
from dataclasses import dataclass

from orchestrator.records.provenance import cores

_SLACK = 1.0  # a core that something short happens to keep busy


@dataclass(frozen=True)
class Machine:
    """The cores that this process may use, those of the whole machine, and how many of these are busy."""

    cores: int  # by affinity and by a container's limit
    all_cores: int
    load: float  # processes that ran or waited for a core, on average over the last minute

    @classmethod
    def here(cls) -> Machine:
        """This machine now; one that tells no load counts as idle."""
        usable = cores()
        try:
            load = os.getloadavg()[0]
        except (OSError, AttributeError):  # Windows has no such thing
            load = 0.0
        return cls(usable, max(usable, os.cpu_count() or 1), load)

    @property
    def free(self) -> float:
        """The cores that are left to this process."""
        return min(float(self.cores), max(0.0, self.all_cores - self.load))

    def problem(self, threads: int, processes: int, way_out: str) -> str | None:
        """What is wrong with so many processes of so many threads each, and the way out; None where nothing is.

        Threads of one operation wait for the slowest of them, so that without a core each they are slower than one
        thread. Single threads only share the cores.
        """
        wanted = threads * processes
        if wanted > self.cores and threads > 1:
            return f"{_of(threads, processes)} on {_cores(self.cores)}: training may be several times slower. {way_out}"
        if threads > 1 and wanted > self.free + _SLACK:
            return (
                f"{_of(threads, processes)} on {_cores(self.cores)}, while the machine is busy (load "
                f"{self.load:.1f} on {_cores(self.all_cores)}): training may be several times slower. {way_out}"
            )
        return None


def _of(threads: int, processes: int) -> str:
    if processes == 1:
        return f"{threads} threads"
    return f"{processes} processes of {threads} threads each"


def _cores(count: int) -> str:
    return f"{count} core" if count == 1 else f"{count} cores"
