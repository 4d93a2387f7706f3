"""What drawing the class loss's classes costs and saves: bias and spread of its gradient, and the time of a step.

    python -m benchmarks.class_loss [--draws 100]

With `train.class_loss_others`, the class loss sees the true class and so many others, drawn anew for each image in each
step. The sum over classes is then right on average; its logarithm, and so the gradient, is not quite. A network learns
the digits, 10 classes, for `--steps` steps without a class loss. Then the gradient of the class loss on a batch is
taken with all classes, and `--draws` times with drawn ones, without dropout.

Bias is the norm of the draws' mean minus the full gradient, less what is to be expected of so many draws by chance;
spread is the standard deviation of one draw, the square root of its mean squared distance from the mean. Both are
relative to the norm of the full gradient. Time is that of whole optimizer steps, in turns, the fastest of each, over
that of a step without a class loss.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.figure import Asked, Figure
from benchmarks.timing import Seconds, counted, fastest, machine, timed, write
from cpcnn_core import data, environment
from cpcnn_core.config import TrialConfig
from cpcnn_core.loss import Loss, drawn_others
from cpcnn_core.precision import whole_float32
from cpcnn_core.train import Run

SETTINGS = {
    "data.name": "digits",
    "model.fusion": "block_film",
    "model.nr_filters": 12,
    "model.nr_logistic_mix": 3,
    "model.dropout": 0.1,
    "train.batch_size": 64,
    "train.lr": 8e-3,
    "eval.train_images": 0,
}
OTHERS = (1, 2, 4)
TEMPERATURES = (1.0, 10.0)
WEIGHT = 0.01  # which changes no time
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Gradients:
    """Of the class loss with so many others drawn, against that with all classes."""

    others: int
    temperature: float
    draws: int
    bias: float
    spread: float

    @property
    def bias_in_words(self) -> str:
        """The bias, or below what it cannot be told from 0 with so many draws."""
        least = self.spread / self.draws**0.5
        return f"{self.bias:.0%}" if self.bias > least else f"below {least:.0%}"


def learnt(folder: Path, settings: dict[str, object] | None = None) -> Run:
    """A run on the digits, before its first step."""
    config = TrialConfig.from_flat(SETTINGS | (settings or {}))
    return Run(config, data.load(config.data), folder, environment.accelerator())


def step(run: Run, index: int) -> None:
    """One optimizer step on a batch that the index says."""
    size, of_all = run.config.train.batch_size, len(run.batches.labels)
    run.optimize((torch.arange(size, device=run.device) + index * size) % of_all)


def gradients(others: int, temperature: float, draws: int, run: Run) -> Gradients:
    """The gradient of the class loss on one batch, without dropout: all classes, and `draws` times drawn ones."""
    images, labels = run.batches.images[:64], run.batches.labels[:64]
    model, Y = run.model.eval(), run.model.nr_classes
    plain = Loss(model, run.log_prior.float())
    classified = Loss(model, run.log_prior.float(), class_weight=1.0, class_temperature=temperature)
    of_bpd = _gradient(plain, images, labels, None)
    full = _gradient(classified, images, labels, None) - of_bpd
    generator = torch.Generator().manual_seed(0)
    total, squares = torch.zeros_like(full), 0.0
    for _ in range(draws):
        seen = drawn_others(labels.cpu(), Y, others, generator).to(labels.device)
        drawn = _gradient(classified, images, labels, seen) - of_bpd - full
        total += drawn
        squares += drawn.square().sum().item()
    off = (total / draws).square().sum().item()
    variance = max(0.0, squares - draws * off) / (draws - 1)
    norm = full.norm().item()
    return Gradients(others, temperature, draws, max(0.0, off - variance / draws) ** 0.5 / norm, variance**0.5 / norm)


def _gradient(loss: Loss, images: Tensor, labels: Tensor, others: Tensor | None) -> Tensor:
    """Of the mean over the images, as one vector."""
    loss.zero_grad(set_to_none=True)
    withheld, weights = torch.zeros_like(labels, dtype=torch.bool), torch.ones(len(labels), device=labels.device)
    loss(images, labels, withheld, weights / len(labels), None, others)[0].backward()
    return torch.cat([p.grad.flatten() for p in loss.model.parameters() if p.grad is not None])


def times(steps: int) -> dict[str, float]:
    """CPU seconds of a step (on a GPU by the clock), without a class loss and with each number of classes, in turns."""
    asked: dict[str, dict[str, object]] = {"none": {}, "all": {"train.class_loss_weight": WEIGHT}}
    asked |= {str(m): {"train.class_loss_weight": WEIGHT, "train.class_loss_others": m} for m in OTHERS}
    with tempfile.TemporaryDirectory() as folder, whole_float32():
        runs = {name: learnt(Path(folder) / name, settings) for name, settings in asked.items()}
        taken: dict[str, list[Seconds]] = {name: [] for name in runs}
        for index in range(steps + 1):
            for name, run in runs.items():
                took, _ = timed(lambda run=run, index=index: step(run, index))  # type: ignore[misc]
                if index:  # the first allocates
                    taken[name].append(took)
    return {name: counted(fastest(turns)) for name, turns in taken.items()}


def measure(steps: int, draws: int, temperatures: tuple[float, ...] = TEMPERATURES) -> list[Gradients]:
    """Of each temperature and number of others, after so many steps without a class loss."""
    with tempfile.TemporaryDirectory() as folder, whole_float32():
        run = learnt(Path(folder))
        for index in range(steps):
            step(run, index)
        return [gradients(m, temperature, draws, run) for temperature in temperatures for m in OTHERS]


def figures(asked: Asked) -> list[Figure]:
    """Of one other class drawn."""
    steps, draws = (20, 20) if asked.short else (80, 100)
    one = measure(steps, draws, temperatures=(1.0,))[0]
    took = times(3 if asked.short else 10)
    return [
        Figure("bias of the class loss's gradient, 1 other class", one.bias, "the gradient of all 10", "smaller"),
        Figure(
            "standard deviation of the class loss's gradient, 1 other class",
            one.spread,
            "the gradient of all 10",
            "smaller",
        ),
        Figure("step with a class loss of 1 other class", took["1"] / took["all"], "of all 10", "smaller"),
    ]


@app.command()
def main(
    steps: Annotated[int, typer.Option(min=1, help="Of training before the gradients are taken.")] = 80,
    draws: Annotated[int, typer.Option(min=2, help="Gradients with drawn classes.")] = 100,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/class_loss.json"),
) -> None:
    """Measure, print one table, write it as JSON."""
    load = os.getloadavg()[0]
    took = times(10)
    found = measure(steps, draws)
    table = Table("other classes", "temperature", "bias", "spread", "time", title=f"Class loss on digits, {machine()}")
    for row in found:
        time = f"{took[str(row.others)] / took['none']:.2f}x"
        table.add_row(str(row.others), f"{row.temperature:g}", row.bias_in_words, f"{row.spread:.0%}", time)
    table.add_row("all 9", "any", "0", "0", f"{took['all'] / took['none']:.2f}x")
    Console(width=None if os.isatty(1) else 120).print(table)
    write(out, [asdict(row) | {"seconds": took[str(row.others)], "seconds_of_all": took["all"]} for row in found], load)


if __name__ == "__main__":
    app()
