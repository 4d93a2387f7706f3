"""What one trial gets of the machine, and how many trials run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpcnn_core.errors import UserError
from cpcnn_core.suggest import nearest


class ResourcesError(UserError, ValueError):
    """Resources that mean nothing, or that the machine does not have."""


@dataclass(frozen=True)
class Resources:
    """What one trial gets. `gpus` may be a fraction; None is one GPU for each of its processes, where there is any.

    With `packs` the fraction is to be measured (packing.py), which is up to whoever starts the sweep.

    Without a number of `cpus`, each process gets one core, or the trials divide all cores where fewer run at once.
    """

    cpus: int | None = None
    gpus: float | None = None
    accelerator: str | None = None  # the kind of GPU, by Ray's name for it: A100, H100, L4, T4
    memory_gib: float | None = None  # that a node has left for the trial
    processes: int = 1  # that share each batch, all on one node
    packs: bool = False  # `gpus` is "auto"

    @classmethod
    def of(cls, given: object) -> Resources:
        """Read a space file's `{"gpus": 0.5, "cpus": 2, "accelerator": "A100"}`. Raise ResourcesError."""
        if not isinstance(given, Mapping):
            raise ResourcesError(f'resources is {given!r}; it must be a mapping, as {{"gpus": 0.5, "cpus": 2}}')
        known = [name for name in cls.__dataclass_fields__ if name != "packs"]
        for key in given:
            if key not in known:
                raise ResourcesError(f"resources: {key!r} means nothing{nearest(str(key), known)}")
        cpus, gpus = given.get("cpus"), given.get("gpus")
        packs = gpus == "auto"
        gpus = None if packs else gpus
        if cpus is not None and (not isinstance(cpus, int) or isinstance(cpus, bool) or cpus < 1):
            raise ResourcesError(f"resources: cpus is {cpus!r}; it must be a whole number of at least 1")
        if gpus is not None and not _is_share(gpus):
            raise ResourcesError(
                f"resources: gpus is {gpus!r}; it must be a fraction of one GPU, as 0.5, or a whole number of them, "
                "or 'auto'"
            )
        processes = given.get("processes", 1)
        if not isinstance(processes, int) or isinstance(processes, bool) or processes < 1:
            raise ResourcesError(f"resources: processes is {processes!r}; it must be a whole number of at least 1")
        if cpus is not None and cpus < processes:
            raise ResourcesError(f"resources: cpus is {cpus}; {processes} processes need at least one each")
        if processes > 1 and gpus and gpus != processes:
            raise ResourcesError(
                f"resources: gpus is {gpus!r}; {processes} processes take a GPU each, so it must be {processes}, or 0"
            )
        if packs and processes > 1:
            raise ResourcesError(f"resources: gpus is 'auto', but {processes} processes take a GPU each")
        accelerator, memory = given.get("accelerator"), given.get("memory_gib")
        if accelerator is not None and (not isinstance(accelerator, str) or not accelerator):
            raise ResourcesError(
                f"resources: accelerator is {accelerator!r}; it must be Ray's name of a GPU, as 'A100'"
            )
        is_number = isinstance(memory, int | float) and not isinstance(memory, bool)
        if memory is not None and not (is_number and memory > 0):
            raise ResourcesError(f"resources: memory_gib is {memory!r}; it must be a number above 0")
        return cls(
            cpus,
            None if gpus is None else float(gpus),
            accelerator,
            None if memory is None else float(memory),
            processes,
            packs,
        )

    def share(self, available: Mapping[str, float], trials: int) -> Share:
        """Divide what Ray has `available` among at most `trials` at once. Raise ResourcesError where not one fits."""
        gpus = self.gpus if self.gpus is not None else float(self.processes * (available.get("GPU", 0) > 0))
        cores = available.get("CPU", 0.0)
        needed = self.cpus or self.processes
        places = cores // needed
        if gpus:
            # A fraction lies on one GPU, and rounding takes no place away: three thirds fit.
            held = available.get("GPU", 0.0)
            places = min(places, held // gpus if gpus >= 1 else held * int(1 / gpus + 1e-9))
        concurrent = min(int(places), trials)
        if concurrent < 1:
            raise ResourcesError(
                f"a trial asks for {needed} cores and {gpus:g} GPUs; there are {cores:g} and "
                f"{available.get('GPU', 0):g}"
            )
        return Share(cpus=self.cpus or int(cores // concurrent), gpus=gpus, concurrent=concurrent)


@dataclass(frozen=True)
class Share:
    """What each of `concurrent` trials gets that run at once."""

    cpus: int
    gpus: float
    concurrent: int


def _is_share(gpus: Any) -> bool:
    if not isinstance(gpus, int | float) or isinstance(gpus, bool) or not gpus >= 0:
        return False
    return gpus < 1 or gpus == int(gpus)
