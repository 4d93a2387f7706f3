"""What one trial gets of the machine, and how many trials run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

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
        cpus, packs = given.get("cpus"), given.get("gpus") == "auto"
        read = cls(
            cpus=None if cpus is None else _count("cpus", cpus),
            gpus=None if packs else _gpus(given.get("gpus")),
            processes=_count("processes", given.get("processes", 1)),
            accelerator=_name("accelerator", given.get("accelerator")),
            memory_gib=_amount("memory_gib", given.get("memory_gib")),
            packs=packs,
        )
        read._check_processes(given.get("gpus"))
        return read

    def _check_processes(self, gpus: object) -> None:
        """Raise ResourcesError where cores or `gpus`, as they were given, are not enough for each process."""
        if self.cpus is not None and self.cpus < self.processes:
            raise ResourcesError(f"resources: cpus is {self.cpus}; {self.processes} processes need at least one each")
        if self.processes == 1:
            return
        if self.packs:
            raise ResourcesError(f"resources: gpus is 'auto', but {self.processes} processes take a GPU each")
        if self.gpus and self.gpus != self.processes:
            raise ResourcesError(
                f"resources: gpus is {gpus!r}; {self.processes} processes take a GPU each, so it must be "
                f"{self.processes}, or 0"
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


def _count(name: str, given: object) -> int:
    """A whole number above 0. Raise ResourcesError."""
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ResourcesError(f"resources: {name} is {given!r}; it must be a whole number of at least 1")
    return given


def _gpus(given: object) -> float | None:
    """A fraction of one GPU, or a whole number of them. Raise ResourcesError."""
    if given is None:
        return None
    if not _is_number(given) or not given >= 0 or (given > 1 and given % 1 != 0):
        raise ResourcesError(
            f"resources: gpus is {given!r}; it must be a fraction of one GPU, as 0.5, or a whole number of them, "
            "or 'auto'"
        )
    return float(given)


def _name(name: str, given: object) -> str | None:
    """What Ray calls a kind of GPU. Raise ResourcesError."""
    if given is not None and (not isinstance(given, str) or not given):
        raise ResourcesError(f"resources: {name} is {given!r}; it must be Ray's name of a GPU, as 'A100'")
    return given


def _amount(name: str, given: object) -> float | None:
    """A number above 0. Raise ResourcesError."""
    if given is None:
        return None
    if not _is_number(given) or not given > 0:
        raise ResourcesError(f"resources: {name} is {given!r}; it must be a number above 0")
    return float(given)


def _is_number(given: object) -> TypeGuard[float]:
    return isinstance(given, int | float) and not isinstance(given, bool)
