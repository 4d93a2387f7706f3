"""How many trials share a GPU, by what the largest of them takes: `resources = {"gpus": "auto"}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpcnn_core.config import TrialConfig
    from orchestrator.machines.resources import Resources
    from orchestrator.search.space import SearchSpace

CONTEXT_BYTES = 768 * 2**20  # that CUDA and its libraries hold for each process besides what torch allocates
MARGIN = 1.2  # over what a few steps and an evaluation took: fragments, and images drawn for FID


@dataclass(frozen=True)
class Measured:
    """What a few steps and an evaluation of the largest configuration took on a GPU of the sweep."""

    trial_bytes: int  # the most that torch's allocator held
    gpu_bytes: int
    gpu: str

    def trials(self, cores: float) -> int:
        """How many such trials fit on a GPU with so many cores beside it; each needs a core. At least one."""
        fitting = int(self.gpu_bytes // (MARGIN * self.trial_bytes + CONTEXT_BYTES))
        return max(1, min(fitting, int(cores)))

    def packed(self, resources: Resources, available: Mapping[str, float]) -> tuple[Resources, str]:
        """The resources with a fraction for "auto" where Ray has `available`, and what was found in a sentence."""
        trials = self.trials(available["CPU"] / available["GPU"] / (resources.cpus or 1))
        return resources.model_copy(update={"gpus": 1 / trials}), self.sentence(trials)

    def sentence(self, trials: int) -> str:
        """What was found, and what follows."""
        takes, has = (f"{size / 2**30:.1f} GiB" for size in (self.trial_bytes, self.gpu_bytes))
        return f"The largest configuration takes {takes} of the {has} of a {self.gpu}: {trials} at once on each."


def measure(space: SearchSpace) -> Measured:
    """Measure on a GPU of whatever machine Ray finds one; nothing else of ours runs yet."""
    import ray

    # A process of its own, which gives the memory back when it is done.
    task = ray.remote(num_gpus=1, num_cpus=1, max_calls=1)(probe)
    measured: Measured = ray.get(task.remote(space))
    return measured


def _takes(config: TrialConfig, nr_classes: int) -> tuple[float, bool]:
    """What tells which of two configurations of a network needs more memory: passes at a time, then their precision."""
    train = config.train
    passes = train.batch_size / train.accumulate * (nr_classes if train.class_loss_weight else 1)
    return passes, train.precision == "fp32"


def probe(space: SearchSpace) -> Measured:
    """Train and evaluate the largest configuration for a moment, here."""
    import torch

    from orchestrator.training import trainer
    from orchestrator.tune import probing

    dataset = trainer.dataset(space.default().data)
    configs = list(space.extremes())
    _, largest = probing.extremes(configs, dataset)
    alike = (each for each in configs if each.model == largest.model)
    probing.probe(max(alike, key=lambda each: _takes(each, dataset.nr_classes)), dataset)
    properties = torch.cuda.get_device_properties()
    return Measured(torch.cuda.max_memory_reserved(), properties.total_memory, properties.name)
