"""How many trials share a GPU: as many as add to what it does, and fit in what is free. `resources = {"gpus": "auto"}`.

The largest configuration is trained for a moment on one of the sweep's GPUs, by 1, 2, 4, ... processes at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cpcnn_core.memory import CONTEXT_BYTES
from orchestrator.machines.cluster import ACCELERATOR, Cluster, ClusterError
from orchestrator.tune import throughput
from orchestrator.tune.plan import SweepError
from orchestrator.tune.throughput import ProbeError, Ready

if TYPE_CHECKING:
    from cpcnn_core.config import TrialConfig
    from orchestrator.machines.resources import Resources
    from orchestrator.search.space import SearchSpace

MARGIN = 1.2  # over what a trial took: fragments, and larger batches of its neighbours
ENOUGH = 0.95  # of the most steps a second that were seen

_MEASURE_SECONDS = 1500.0  # in which all of it ends
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Measured:
    """What trials of the largest configuration did on a GPU of the sweep, and what one of them takes."""

    gpu: str
    free_bytes: int  # before the first one came
    trial_bytes: int
    rates: Sequence[tuple[int, float]]  # so many at once, and the steps a second of all together
    mps: bool = False  # whether they ran under MPS
    without_mps: str | None = None  # why not, where they should
    stopped: str | None = None  # what went wrong with more of them

    @property
    def trials(self) -> int:
        """The fewest that come near the most steps a second; those that were tried had room."""
        if not self.rates:
            return 1
        most = max(rate for _, rate in self.rates)
        return min(trials for trials, rate in self.rates if rate >= ENOUGH * most)

    def packed(self, resources: Resources) -> Resources:
        """The resources with a fraction for "auto"."""
        return resources.model_copy(update={"gpus": 1 / self.trials})

    def sentence(self) -> str:
        """What was found, and what follows."""
        if not self.rates:
            return f"The largest configuration does not fit on a {self.gpu}, even alone: 1 trial at once on each."
        takes, free = (f"{size / 2**30:.1f} GiB" for size in (self.trial_bytes, self.free_bytes))
        rates = ", ".join(f"{rate:.3g} with {trials}" for trials, rate in self.rates)
        how = " under MPS" if self.mps else ""
        return (
            f"Steps a second of the largest configuration on a {self.gpu}{how}: {rates}. It takes {takes} of the "
            f"{free} that are free. So {self.trials} trials run at once on each."
        )


def fits(free_bytes: int, trial_bytes: int) -> int:
    """How many trials have room, with some to spare."""
    return int(free_bytes // (MARGIN * max(1, trial_bytes)))


def tried(cores: float) -> Generator[int]:
    """How many at once are tried, each needing a core: 1, 2, 4, ... and as many as there are cores."""
    most, trials = max(1, int(cores)), 1
    while trials < most:
        yield trials
        trials *= 2
    yield most


def probe(
    space: SearchSpace, cores: float, *, device: str = throughput.GPU, use_mps: bool = True, seconds: float = 4.0
) -> Measured:
    """Train the largest configuration for a moment, here, in more and more processes as long as they gain something.

    Raise SweepError where not even one trains.
    """
    config = largest(space)
    rates: list[tuple[int, float]] = []
    free = trial = 0
    first: Ready | None = None
    stopped: str | None = None
    with throughput.started(config, device=device, use_mps=use_mps, seconds=seconds) as trials:
        for count in tried(cores):
            if first is not None and count > fits(free, trial):
                break
            try:
                new = trials.grow(count)
                rate = trials.steps_per_second()
            except ProbeError as error:
                stopped = str(error)
                break
            if first is None:
                first = new[0]
                free, trial = first.free_before + CONTEXT_BYTES, first.free_before - first.free_after + CONTEXT_BYTES
            else:  # what one more takes, the context included, which all share under MPS
                left = min(each.free_after for each in new)
                trial = max(1, (free - left) // count)
            gains = not rates or rate * ENOUGH > max(each for _, each in rates)
            rates.append((count, rate))
            if not gains:
                break
    if first is None:
        if stopped is not None and not is_of_memory(stopped):
            raise SweepError(
                f'resources.gpus is "auto", and the largest configuration could not be trained for a moment: '
                f"{stopped}. Mend that, or give resources.gpus a number"
            )
        return Measured("GPU", 0, 0, (), stopped=stopped)
    runs_mps = use_mps and first.without_mps is None
    return Measured(first.device, free, trial, tuple(rates), runs_mps, first.without_mps, stopped)


def is_of_memory(reason: str) -> bool:
    """Whether a process says in its last words that memory ended."""
    return "out of memory" in reason.lower() or "OutOfMemory" in reason


def largest(space: SearchSpace) -> TrialConfig:
    """The configuration of a space that takes most of a device: the most parameters, and of those the most memory."""
    from orchestrator.training import trainer
    from orchestrator.tune import probing

    dataset = trainer.dataset(space.default().data)
    configs = list(space.extremes())
    _, most = probing.extremes(configs, dataset)
    alike = (each for each in configs if each.model == most.model)
    return max(alike, key=lambda each: _takes(each, dataset.nr_classes))


def _takes(config: TrialConfig, nr_classes: int) -> tuple[float, bool]:
    """What tells which of two configurations of a network needs more memory: passes at a time, then their precision."""
    train = config.train
    passes = train.batch_size / train.accumulate * (nr_classes if train.class_loss_weight else 1)
    return passes, train.precision == "fp32"


def cores_beside(cluster: Cluster, extra: Mapping[str, float]) -> float:
    """The cores that each GPU has beside it, on the node with the fewest, of those that the trials can go to."""
    each = [node.resources for node in cluster.nodes] + [kind.resources for kind in cluster.kinds if kind.most > 0]
    marks = [name for name in extra if name.startswith(ACCELERATOR)]
    usable = [there for there in each if there.get("GPU") and all(there.get(name) for name in marks)]
    return min((there.get("CPU", 0.0) / there["GPU"] for there in usable), default=1.0)


def measure(
    space: SearchSpace,
    cluster: Cluster,
    extra: Mapping[str, float],
    *,
    wait_seconds: float,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Measured:
    """Measure on a GPU of whatever machine Ray finds one, of the kind that trials ask for; nothing of ours runs yet.

    Raise ClusterError where none is free in `wait_seconds`, with what Ray offers; SweepError where measuring fails.
    """
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    request = {"CPU": 1.0, "GPU": 1.0, **extra}
    if problem := cluster.missing(request):
        raise ClusterError(problem)
    marks = {name: amount for name, amount in extra.items() if name != "memory"}
    prober = ray.remote(_Prober).options(num_cpus=1, num_gpus=1, resources=marks, memory=extra.get("memory")).remote()
    resources = space.resources
    cores = cores_beside(cluster, extra) / (resources.cpus or 1)
    try:
        if not _answers(prober.is_there.remote(), wait_seconds, is_stopping):
            raise ClusterError(
                f'resources.gpus is "auto", and no GPU was free to measure on for {wait_seconds / 60:.3g} minutes; '
                f"a number of trials on each, as 0.25, needs no measuring:\n{cluster.describe(request)}"
            )
        answer = prober.probe.remote(space, cores, resources.mps)
        if not _answers(answer, _MEASURE_SECONDS, is_stopping):
            raise SweepError(
                f'resources.gpus is "auto", and measuring did not end in {_MEASURE_SECONDS / 60:.3g} minutes; give it '
                "a number, as 0.25"
            )
        measured: Measured = ray.get(answer)
    except RayTaskError as error:
        raise error.cause or error from None
    except RayActorError as error:
        raise SweepError(
            f'resources.gpus is "auto", and the process that measured died: {" ".join(str(error).split())[:300]}. '
            "The same command tries again; resources.gpus as a number needs no measuring"
        ) from None
    finally:
        ray.kill(prober)
    return measured


class _Prober:
    """Measures in a process with a GPU of its own."""

    def is_there(self) -> bool:
        """Whether it has found a place: it answers."""
        return True

    def probe(self, space: SearchSpace, cores: float, use_mps: bool) -> Measured:
        """See the function."""
        return probe(space, cores, use_mps=use_mps)


def _answers(answer: object, seconds: float, is_stopping: Callable[[], bool]) -> bool:
    """Whether Ray answers in time, which is looked at once at least. Raise KeyboardInterrupt to stop."""
    import ray

    ends = time.monotonic() + seconds
    while True:
        if is_stopping():
            raise KeyboardInterrupt
        if ray.wait([answer], timeout=_LOOK_SECONDS)[0]:
            return True
        if time.monotonic() >= ends:
            return False
