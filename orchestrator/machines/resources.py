"""What one trial gets of the machine, and how many trials run at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cpcnn_core.errors import UserError
from cpcnn_core.validation import mistakes, must_be


class ResourcesError(UserError, ValueError):
    """Resources that mean nothing, or that the machine does not have."""


_SMALLEST = 1e-4  # part of a GPU that Ray knows


def _fraction_or_whole(gpus: float) -> float:
    """Refuse one and a half GPUs: what is more than a part of one is whole ones; and less than Ray gives."""
    if gpus > 1 and gpus % 1:
        raise ValueError("neither a part of a GPU nor whole ones")
    if 0 < gpus < _SMALLEST:
        raise ValueError("less than the smallest part of a GPU, 0.0001")
    return gpus


_Count = Annotated[int, Field(ge=1)]
_Gpus = Annotated[float, Field(ge=0), AfterValidator(_fraction_or_whole)]

_A_COUNT = must_be("a whole number of at least 1")
_A_NUMBER_OF_GPUS = must_be("a fraction of one GPU, as 0.5, or a whole number of them, or 'auto'")


class Resources(BaseModel):
    """What one trial gets. `gpus` may be a fraction; None is one GPU for each of its processes, where there is any.

    With "auto" the fraction is to be measured (packing.py), which is up to whoever starts the sweep. Trials that share
    a GPU do so by NVIDIA's MPS where it is to be had (mps.py), unless `mps` is false.

    Without a number of `cpus`, each process gets one core, or the trials divide all cores where fewer run at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    cpus: Annotated[_Count | None, _A_COUNT] = None
    gpus: Annotated[_Gpus | Literal["auto"] | None, _A_NUMBER_OF_GPUS] = None
    # The kind of GPU, by Ray's name for it: A100, H100, L4, T4.
    accelerator: Annotated[Annotated[str, Field(min_length=1)] | None, must_be("Ray's name of a GPU, as 'A100'")] = None
    # That a node has left for the trial.
    memory_gib: Annotated[Annotated[float, Field(gt=0)] | None, must_be("a number above 0")] = None
    processes: Annotated[_Count, _A_COUNT] = 1  # that share each batch, all on one node
    mps: Annotated[bool, must_be("True or False")] = True

    @classmethod
    def of(cls, given: object) -> Resources:
        """Read a space file's `{"gpus": 0.5, "cpus": 2, "accelerator": "A100"}`. Raise ResourcesError."""
        if not isinstance(given, Mapping):
            raise ResourcesError(f'resources is {given!r}; it must be a mapping, as {{"gpus": 0.5, "cpus": 2}}')
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise ResourcesError("\n".join(mistakes(error, cls.model_fields, within="resources"))) from None

    @property
    def packs(self) -> bool:
        """Whether the fraction of a GPU is to be measured."""
        return self.gpus == "auto"

    @model_validator(mode="after")
    def _enough_for_each_process(self) -> Self:
        if self.cpus is not None and self.cpus < self.processes:
            raise ValueError(f"resources.cpus is {self.cpus}; {self.processes} processes need at least one each")
        if self.processes == 1:
            if isinstance(self.gpus, int | float) and self.gpus > 1:
                raise ValueError(
                    f"resources.gpus is {self.gpus:g}, but one process trains on one GPU; with resources.processes = "
                    f"{self.gpus:g} a trial trains on all of them"
                )
            return self
        if self.packs:
            raise ValueError(f"resources.gpus is 'auto', but {self.processes} processes take a GPU each")
        if self.gpus and self.gpus != self.processes:
            raise ValueError(
                f"resources.gpus is {self.gpus:g}; {self.processes} processes take a GPU each, so it must be "
                f"{self.processes}, or 0"
            )
        return self

    def rounded(self) -> tuple[Resources, str | None]:
        """With a GPU's whole n-th part for a fraction that is none, of which as many fit; and a sentence that says so.

        Rounding takes no place away: 0.33 is a third.
        """
        if not isinstance(self.gpus, int | float) or not 0 < self.gpus < 1:
            return self, None
        trials = _fitting(self.gpus)
        part = 1 / trials
        if math.isclose(self.gpus, part, rel_tol=_SAME_PART):
            return self.model_copy(update={"gpus": part}), None
        many = f"{trials} trials share each GPU, as" if trials > 1 else "a trial has each GPU for itself, as"
        return self.model_copy(update={"gpus": part}), (
            f"resources.gpus is {self.gpus:g}, of which {trials} fit on a GPU and leave {1 - trials * self.gpus:.2g} "
            f"of it unused: {many} with {part:.3g}."
        )

    def share(self, available: Mapping[str, float], trials: int) -> Share:
        """Divide what Ray has `available` among at most `trials` at once. Raise ResourcesError where not one fits."""
        asked = None if self.gpus == "auto" else self.gpus
        there = available.get("GPU", 0.0)
        gpus = float(self.processes * (there > 0)) if asked is None else asked
        cores = available.get("CPU", 0.0)
        needed = self.cpus or self.processes
        places = cores // needed
        if gpus:
            places = min(places, there // gpus if gpus >= 1 else there * _fitting(gpus))  # a fraction lies on one GPU
        concurrent = min(int(places), trials)
        if concurrent < 1:
            raise ResourcesError(
                f"a trial asks for {needed} cores and {gpus:g} GPUs; there are {cores:g} and {there:g}"
            )
        return Share(cpus=self.cpus or int(cores // concurrent), gpus=gpus, concurrent=concurrent)


def _fitting(gpus: float) -> int:
    """How many such fractions fit on a GPU; rounding takes no place away: three thirds fit."""
    return int(1 / gpus + 1e-9)


_SAME_PART = 0.03  # relative: 0.33 is meant as a third


@dataclass(frozen=True)
class Share:
    """What each of `concurrent` trials gets that run at once."""

    cpus: int
    gpus: float
    concurrent: int

    @property
    def is_of_a_gpu(self) -> bool:
        """Whether it is a part of a GPU, which the trial shares with others."""
        return 0 < self.gpus < 1
