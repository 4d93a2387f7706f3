"""`python -m benchmarks.compiled`: is what the compiler makes of a training step what eager code computes?

For each fusion the objective and its gradients, eager and compiled as `train.compile` does it, in float32 and in bf16,
on the GPU where there is one. A difference of gradients is the norm of the difference of all of them over the norm of
the second ones: compiled against eager, and eager on this device in this precision against eager on the CPU in float32.
Exit code 1 where a compiled step in float32 is off by more than 1e-4; a wrong formula is off by more than a hundredth.
"""

from __future__ import annotations

import copy
import time
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.figure import Asked, Figure, NotMeasuredError
from cpcnn_core import fusion
from cpcnn_core.checkpoint import build_model
from cpcnn_core.compiling import Regional
from cpcnn_core.config import TrialConfig
from cpcnn_core.loss import Loss
from cpcnn_core.precision import whole_float32

SHAPE = (3, 32, 32)
CLASSES = 4
TOLERANCE = 1e-4  # of gradients; a wrong formula is off by more than a hundredth
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def step(objective: torch.nn.Module, batch: tuple[Tensor, ...]) -> tuple[float, Tensor]:
    """The objective, and its gradients in one vector, float64 on the CPU."""
    value = objective(*batch, None)[0]
    value.backward()
    gradients = [p.grad.double().cpu().flatten() for p in objective.parameters() if p.grad is not None]
    return value.item(), torch.cat(gradients)


def off(found: Tensor, from_: Tensor) -> float:
    """The distance of two vectors over the second one's length."""
    return float((found - from_).norm() / from_.norm())


@whole_float32()
def differences(name: str, device: torch.device, precision: str, images: int) -> tuple[float, float, float, float]:
    """Of one fusion: the objective's difference, the gradients', eager ones' to the CPU's, seconds of the compiler."""
    settings = {"model.fusion": name, "model.nr_resnet": 1, "model.nr_filters": 16, "model.nr_logistic_mix": 3}
    config = TrialConfig.from_flat({**settings, "model.dropout": 0.0})
    torch.manual_seed(0)
    network = build_model(config, SHAPE, CLASSES)
    with torch.no_grad():  # scales and biases begin at values behind which a wrong gradient may hide
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    labels = torch.arange(images) % CLASSES
    batch = (
        torch.randint(0, 256, (images, *SHAPE), dtype=torch.uint8),
        labels,
        torch.zeros(images, dtype=torch.bool),
        torch.ones(images),
    )
    prior = torch.full((CLASSES,), 1 / CLASSES).log()

    def objective(place: torch.device, *, bf16: bool) -> Loss:
        return Loss(copy.deepcopy(network), prior, bf16=bf16).to(place)

    there = tuple(part.to(device) for part in batch)
    bf16 = precision == "bf16"
    _, on_cpu = step(objective(torch.device("cpu"), bf16=False), batch)
    value, eager = step(objective(device, bf16=bf16), there)
    torch.compiler.reset()
    compiled = Regional(objective(device, bf16=bf16))
    started = time.perf_counter()
    compiled_value, found = step(compiled, there)
    seconds = time.perf_counter() - started
    if compiled.unavailable is not None:
        raise NotMeasuredError(compiled.unavailable)
    return abs(compiled_value - value) / abs(value), off(found, eager), off(eager, on_cpu), seconds


def figures(asked: Asked) -> list[Figure]:
    """The largest error of a compiled step's gradients in float32."""
    names = ["block_mild"] if asked.short else list(fusion.FUSIONS)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    largest = max(differences(name, device, "fp32", 4)[1] for name in names)
    return [
        Figure(
            f"error of compiled gradients, of {len(names)}",
            largest / TOLERANCE,
            f"what still counts as right, {TOLERANCE:g}",
            "smaller",
        )
    ]


@app.command()
def main(
    fusions: Annotated[list[str] | None, typer.Argument(help="Some of the fusions instead of all.")] = None,
    images: Annotated[int, typer.Option(min=1)] = 8,
) -> None:
    """Print one row per fusion and precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}"
    columns = ("fusion", "precision", "objective", "gradients", "eager to CPU float32", "seconds of the compiler")
    table, wrong = Table(*columns, title=title), []
    for name in fusions or list(fusion.FUSIONS):
        for precision in ("fp32", "bf16"):
            value, gradients, to_cpu, seconds = differences(name, device, precision, images)
            table.add_row(name, precision, *(f"{x:.1e}" for x in (value, gradients, to_cpu)), f"{seconds:.0f}")
            print(name, precision, value, gradients, to_cpu, round(seconds), flush=True)
            if precision == "fp32" and not gradients <= TOLERANCE:
                wrong.append(name)
    Console(width=120).print(table)
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
