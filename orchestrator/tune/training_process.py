"""A process that trains a configuration for a moment, beside others on the same device, and says how fast it was."""

from __future__ import annotations

import importlib
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol, cast

from cpcnn_core import gpus
from cpcnn_core.config import TrialConfig
from orchestrator.machines import mps
from orchestrator.process import parent
from orchestrator.training import trainer
from orchestrator.tune.throughput import Channel, Ready

if TYPE_CHECKING:
    from cpcnn_core.train import Run

_STEPS = 4  # between two waits for the device


class Device(Protocol):
    """What trials share, as one of their processes sees it."""

    @property
    def name(self) -> str:
        """What kind it is."""

    def free(self) -> int:
        """How many bytes are free for whoever comes."""

    def given_back(self) -> int:
        """How many bytes this process held once, and holds no longer."""


class Cuda:
    """This process's GPU."""

    def __init__(self) -> None:
        gpus.check_granted()  # what is wrong is then said with driver and wheel

    @property
    def name(self) -> str:
        """What NVIDIA calls it."""
        import torch

        return str(torch.cuda.get_device_properties().name)

    def free(self) -> int:
        """How many bytes are free for whoever comes; this process has a context by then."""
        import torch

        return int(torch.cuda.mem_get_info()[0])

    def given_back(self) -> int:
        """What torch's allocator held at its peak and does not hold now."""
        import torch

        return int(torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved())


def _work(channel: Channel) -> None:
    """Be one of the processes."""
    from cpcnn_core import quality
    from orchestrator.tune import probing

    task = channel.recv()
    without_mps = mps.join() if task["mps"] else None
    trainer.set_threads(task["threads"])
    device = _named(task["device"])
    config = TrialConfig.from_flat(task["config"])
    dataset = trainer.dataset(config.data)
    before = device.free()
    with probing.prepared(config, dataset) as run:
        _step(run, _STEPS)
        probing.evaluate_some(run, config.eval.batch_size)
        if run.evaluator is not None:
            drawn = quality.draw(run.model, config.eval.fid_images_per_class, seed=config.seed)
            run.evaluator.measure(drawn, seed=config.seed)
        run.wait()
        channel.send(Ready(device.name, before, device.free() - device.given_back(), without_mps))
        while True:
            seconds, steps, begun = channel.recv(), 0, time.perf_counter()
            while time.perf_counter() - begun < seconds:
                _step(run, _STEPS)
                steps += _STEPS
            channel.send(steps / (time.perf_counter() - begun))


def _named(name: str) -> Device:
    module, _, kind = name.partition(":")
    return cast("Device", getattr(importlib.import_module(module), kind)())


def _step(run: Run, count: int) -> None:
    from orchestrator.tune import probing

    chosen = probing.batch_of(run)
    for _ in range(count):
        run.optimize(chosen)
    run.wait()


def _main(descriptor: int) -> None:
    parent.die_with_parent()
    channel: Channel = Connection(descriptor)
    try:
        _work(channel)
    except EOFError:
        os._exit(0)  # whoever asked has seen enough, or is gone
    except Exception as error:
        channel.send(trainer.describe(error))
        raise


if __name__ == "__main__":
    _main(int(sys.argv[1]))
