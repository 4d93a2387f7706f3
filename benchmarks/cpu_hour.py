"""The validation accuracy that one CPU-hour of training reaches on cpen455, at nr_resnet 1, nr_filters 40, 5 mixtures.

    python -m benchmarks.cpu_hour --root PATH [--hours 1] [--set KEY=VALUE ...]

A CPU-hour is 3600 seconds of one core, counted by the operating system (user and system time of this process), so that
the figure means the same on a busy machine. The number of epochs is chosen from a probe of three steps such that the
learning-rate schedule ends with the budget. Where the CPU has units for bf16, training runs in bf16 and
compiled. Killed and started again with the same --work folder, it resumes.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figure import Asked, Figure, NotMeasuredError
from cpcnn_core import data, environment
from cpcnn_core.config import TrialConfig
from cpcnn_core.precision import has_bf16_units
from cpcnn_core.train import Run, fit
from orchestrator.search.settings import parse_settings

SETTINGS = {
    "data.name": "cpen455",
    "model.fusion": "block_film",
    "model.nr_resnet": 1,
    "model.nr_filters": 40,
    "model.nr_logistic_mix": 5,
    "model.dropout": 0.1,
    "train.batch_size": 16,
    "train.optimizer": "adamw",
    "train.lr": 3e-3,
    "train.schedule": "cosine",
    "train.warmup_epochs": 0.2,
    "train.ema_decay": 0.999,
    "train.flip": True,
    "train.data_dependent_init": True,
    "eval.train_images": 0,
}
WITH_BF16_UNITS = {"train.precision": "bf16", "train.compile": True, "eval.precision": "bf16"}
PROBE_STEPS = 3
FORWARD_SHARE = 0.36  # of a training step's time, for the evaluation's forward passes
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Point:
    """One epoch: CPU seconds spent so far in this process, and what was reached."""

    epoch: int
    cpu_seconds: float
    train_bpd: float
    val_bpd: float
    val_acc: float


def epochs_within(config: TrialConfig, dataset: data.Dataset, budget_seconds: float, folder: Path) -> int:
    """How many epochs of training and evaluation fit, from the time of a few steps."""
    run = Run(config, dataset, folder, environment.accelerator())
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    B = config.train.batch_size
    run.optimize(order[:B])  # not counted: caches fill
    started = time.process_time()
    for step in range(PROBE_STEPS):
        run.optimize(order[step * B : (step + 1) * B])
    per_image = (time.process_time() - started) / (PROBE_STEPS * B)
    evaluated = FORWARD_SHARE * len(dataset.validation) * dataset.nr_classes
    return max(1, int(budget_seconds / (per_image * (len(dataset.train) + evaluated))))


def figures(asked: Asked) -> list[Figure]:
    """The accuracy that a CPU-hour reaches on cpen455; short, that of an epoch on a twentieth of the images."""
    if asked.root is None:
        raise NotMeasuredError("needs the course's images: --root PATH")
    torch.set_num_threads(1)
    faster = WITH_BF16_UNITS if has_bf16_units() else {}
    part = {"data.train_fraction": 0.05, "train.compile": False} if asked.short else {}
    config = TrialConfig.from_flat(SETTINGS | faster | part | {"data.root": str(asked.root)})
    dataset = data.load(config.data)
    with tempfile.TemporaryDirectory() as folder:
        epochs = 1 if asked.short else epochs_within(config, dataset, 3600, Path(folder) / "probe")
        *_, last = fit(config.with_settings({"train.epochs": epochs}), dataset, Path(folder) / "trial")
    assert last.val_acc is not None
    return [Figure(f"val_acc on cpen455 after {epochs} epochs", last.val_acc * dataset.nr_classes, "guessing")]


@app.command()
def main(
    root: Annotated[Path, typer.Option(help="The cpen455 folder.")],
    hours: Annotated[float, typer.Option(help="CPU-hours of one core.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads; CPU time adds up over them.")] = 1,
    epochs: Annotated[int | None, typer.Option(help="Instead of probing for what fits.")] = None,
    given: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Other settings.")] = None,
    work: Annotated[Path, typer.Option(help="Checkpoints.")] = Path("results/benchmarks/cpu_hour"),
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/cpu_hour.json"),
) -> None:
    """Train for the budget and report accuracy over CPU time."""
    torch.set_num_threads(threads)
    console = Console()
    faster = WITH_BF16_UNITS if has_bf16_units() else {}
    config = TrialConfig.from_flat(SETTINGS | faster | parse_settings(given or ()) | {"data.root": str(root)})
    dataset = data.load(config.data)
    if epochs is None:
        epochs = epochs_within(config, dataset, hours * 3600, work / "probe")
    config = config.with_settings({"train.epochs": epochs})
    console.print(f"{epochs} epochs fit into {hours:g} CPU-hours; trial {config.trial_id}")
    table = Table("epoch", "CPU s", "train bpd", "val bpd", "val acc", title="cpen455, 1/40/5")
    points: list[Point] = []
    for metrics in fit(config, dataset, work / config.trial_id):
        assert metrics.train_bpd is not None
        assert metrics.val_bpd is not None
        assert metrics.val_acc is not None
        point = Point(metrics.epoch, time.process_time(), metrics.train_bpd, metrics.val_bpd, metrics.val_acc)
        points.append(point)
        console.print(point)
        table.add_row(
            str(point.epoch),
            f"{point.cpu_seconds:.0f}",
            f"{point.train_bpd:.4f}",
            f"{point.val_bpd:.4f}",
            f"{point.val_acc:.4f}",
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        result = {"config": config.flat() | {"data.root": None}, "points": [asdict(p) for p in points]}
        out.write_text(json.dumps(result, indent=1))
    console.print(table)


if __name__ == "__main__":
    app()
