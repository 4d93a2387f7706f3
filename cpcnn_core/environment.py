"""What of the environment reaches a trial: of all that launchers leave there, no more than a complete rendezvous.

Accelerate takes settings from variables that nobody typed for this trial (gradient accumulation, precision, DeepSpeed),
and torch waits for processes that some of them announce. Its result would be another one under the same trial id.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from cpcnn_core import gpus
from cpcnn_core.config import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")
"""What torchrun and `accelerate launch` tell each of several processes. With one missing, some wait for ever."""

_WITH_RENDEZVOUS = {"LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE"}
_OF_TORCHRUN = "TORCHELASTIC_"  # among them whether torchrun itself listens at MASTER_PORT

_PREFIXES = (
    *("ACCELERATE_", "DEEPSPEED_", "FP8_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_"),
    *("MPI_LOCAL", "MV2_COMM_WORLD_", "OMPI_COMM_WORLD_", "PMI_"),  # ranks, which Accelerate takes for a rendezvous
)
PATIENCE = timedelta(hours=6)
"""How long processes of one trial wait for each other. A hang ends earlier: by the watchdog of a sweep, or its user."""

_NAMES = {"FORK_LAUNCHED", "NODE_RANK", "NPROC", "XLA_DOWNCAST_BF16", "XLA_USE_BF16"}


class Rendezvous(NamedTuple):
    """This process's place among those that train one trial together."""

    rank: int
    processes: int


def is_launchers(name: str) -> bool:
    """Whether a variable of this name is one of those by which launchers speak to Accelerate and torch."""
    return name in _NAMES or name.startswith(_PREFIXES) or _is_of_a_rendezvous(name)


def _is_of_a_rendezvous(name: str) -> bool:
    return name in RENDEZVOUS or name in _WITH_RENDEZVOUS or name.startswith(_OF_TORCHRUN)


def without_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that is to see none of the launchers' variables, or only what is added to it."""
    return {name: value for name, value in environment.items() if not is_launchers(name)}


def forget_launchers(*, keep: Rendezvous | None = None) -> None:
    """Remove the launchers' variables from this process and what it starts; what belongs to `keep` stays."""
    for name in list(os.environ):
        if is_launchers(name) and (keep is None or not _is_of_a_rendezvous(name)):
            del os.environ[name]


def rendezvous() -> Rendezvous | None:
    """This process's place among those that the environment names, None where it names none.

    Raise ConfigError where it names some and they could not find one another.
    """
    values = {name: os.environ.get(name, "") for name in RENDEZVOUS}
    given = [name for name, value in values.items() if value]
    missing = [name for name, value in values.items() if not value]
    if not given:
        return None
    way_out = "start each process by torchrun or accelerate launch, which set all five, or unset them"
    if missing:
        raise ConfigError(
            f"environment: {' and '.join(given)} without {' and '.join(missing)} is half a rendezvous, in which "
            f"processes wait for one another for ever; {way_out}"
        )
    numbers: dict[str, int] = {}
    for name, value in values.items():
        if name != "MASTER_ADDR":
            if not value.isdecimal():
                raise ConfigError(f"environment: {name} is {value!r}, expected a whole number; {way_out}")
            numbers[name] = int(value)
    found = Rendezvous(numbers["RANK"], numbers["WORLD_SIZE"])
    if found.rank >= found.processes:
        raise ConfigError(f"environment: RANK is {found.rank} of WORLD_SIZE {found.processes}; {way_out}")
    return found


def accelerator(*, anew: bool = False) -> Accelerator:
    """The Accelerator of a trial: of this process alone, or of all those of a complete rendezvous. Raise ConfigError.

    Several processes take a GPU each where there are GPUs, else the CPU. One that was granted a GPU which torch cannot
    use is refused: it would train on the CPU, many times slower, while others wait for the GPU. All other variables of
    launchers are removed from this process for good, since Accelerate reads them again with later calls. Its
    Accelerators share a state; with `anew` that of earlier ones, which then are of no more use, is dropped.
    """
    found = rendezvous()
    several = found is not None and found.processes > 1
    forget_launchers(keep=found if several else None)  # before the imports, which read some
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, patch_environment

    gpus.check_granted()
    if anew:
        AcceleratorState._reset_state(True)
    # On a CPU, Accelerate would choose the threads of several processes itself, had the variable no value.
    with patch_environment(omp_num_threads=torch.get_num_threads()):
        made = Accelerator(
            cpu=several and not torch.cuda.is_available(),
            mixed_precision="no",  # ours lies in the network's own autocast
            dynamo_backend="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            # The first process makes the references of FID and measures it while the others wait for it; by default
            # they give up after ten minutes. One that dies is noticed by whoever started it.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)] if several else None,
        )
    gpus.check_kernels(made.device)
    return made


def replicated(
    accelerator: Accelerator, module: nn.Module, example: tuple[Tensor | list[Tensor] | None, ...]
) -> nn.Module:
    """The module with its gradients averaged over the processes; `example` is what it is called with, and is small.

    A parameter that no gradient reaches, as of an encoding that a fusion does not use, is frozen; it would stay as it
    is anyway, and the processes would wait for its gradient, and fail at the next step.
    """
    total, *_ = module(*example)
    total.backward()
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
    module.zero_grad(set_to_none=True)
    prepared: nn.Module = accelerator.prepare(module)
    return prepared


def check_accelerator(accelerator: Accelerator) -> None:
    """Raise ConfigError where the Accelerator would change what the configuration describes."""
    from accelerate import DistributedType

    plain = {"gradient_accumulation_steps": 1, "mixed_precision": "no"}
    found = {name: getattr(accelerator, name) for name in plain}
    for name, value in found.items():
        if value != plain[name]:
            raise ConfigError(
                f"accelerator: {name} is {value}, which the configuration does not say; let "
                "cpcnn_core.environment.accelerator() make it"
            )
    sharded = {DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM}
    if accelerator.distributed_type in sharded:
        raise ConfigError(
            f"accelerator: {accelerator.distributed_type.value} divides the network among processes, which is not "
            "supported; let cpcnn_core.environment.accelerator() make it"
        )
