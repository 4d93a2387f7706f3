"""What protocol 2 changed in training, each change alone and both: another order in each epoch, and Adam's eps.

    python -m benchmarks.protocol [--seeds 4] [--epochs 9]                    digits, 8x8
    python -m benchmarks.protocol --root PATH --seeds 1 --epochs 6            the course's images at 16x16
    python -m benchmarks.protocol --root PATH --jobs 16 --set data.image_size=32 --set model.nr_filters=40 ...   a GPU

Protocol 1 had the images in one order in every epoch, and Adam's eps of 1e-8 beside a gradient of mean bits per
sub-pixel. One thread each; --jobs of the runs are made at once, on one GPU where there is one.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figure import Asked, Figure
from cpcnn_core import data, environment, train
from cpcnn_core.config import TrialConfig
from orchestrator.search.settings import parse_settings

DIGITS = {
    "data.name": "digits",
    "model.fusion": "block_film",
    "model.nr_resnet": 1,
    "model.nr_filters": 12,
    "model.nr_logistic_mix": 3,
    "model.dropout": 0.1,
    "train.batch_size": 64,
    "train.lr": 8e-3,
    "train.schedule": "cosine",
    "eval.train_images": 0,
    "eval.batch_size": 500,
}
COURSE = {
    "data.name": "cpen455",
    "data.image_size": 16,
    "model.fusion": "block_mild",
    "model.nr_resnet": 1,
    "model.nr_filters": 24,
    "model.nr_logistic_mix": 5,
    "model.dropout": 0.2,
    "train.batch_size": 16,
    "train.lr": 4e-3,
    "train.schedule": "cosine",
    "train.optimizer": "adamw",
    "train.precision": "bf16",
    "eval.train_images": 0,
}
ARMS = {
    "protocol 1": (False, False),
    "another order in each epoch": (True, False),
    "eps as for a sum of nats": (False, True),
    "both: protocol 2": (True, True),
}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class _OneOrder(train.Run):
    """Training as it was: the first epoch's order in all of them."""

    def _order(self) -> torch.Tensor:
        epoch, self.epoch = self.epoch, 0
        try:
            return super()._order()
        finally:
            self.epoch = epoch


def run(settings: dict[str, object], arm: str) -> tuple[float, float]:
    """val_bpd and val_acc after the last epoch."""
    torch.set_num_threads(1)
    reshuffled, eps = ARMS[arm]
    config = TrialConfig.from_flat(settings)
    dataset = data.load(config.data)
    if not eps:
        of_a_mean = config.train.batch_size * math.prod(dataset.image_shape) * math.log(2.0)
        config = config.with_settings({"train.adam_eps": 1e-8 * of_a_mean})
    with tempfile.TemporaryDirectory() as folder:
        training = (train.Run if reshuffled else _OneOrder)(config, dataset, Path(folder), environment.accelerator())
        for _ in range(config.train.epochs):
            last = training.train_epoch(on_evaluation=None, on_drawn=None, on_progress=lambda *_: None)
    assert last.val_bpd is not None
    assert last.val_acc is not None
    return last.val_bpd, last.val_acc


def figures(asked: Asked) -> list[Figure]:
    """Of both changes together, on the digits."""
    settings: dict[str, object] = {**DIGITS, "train.epochs": 3 if asked.short else 9, "seed": 0}
    (before, _), (now, _) = (run(settings, arm) for arm in ("protocol 1", "both: protocol 2"))
    return [Figure(f"val_bpd after {settings['train.epochs']} epochs on digits", now / before, "protocol 1", "smaller")]


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1)] = 4,
    epochs: Annotated[int, typer.Option(min=1)] = 9,
    root: Annotated[Path | None, typer.Option(help="The course's images, instead of the digits.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many runs at once.")] = 1,
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Other settings.")] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for all values.")] = None,
) -> None:
    """Print val_bpd and val_acc of each arm, and the differences to protocol 1, seed by seed."""
    settings: dict[str, object] = {**(DIGITS if root is None else COURSE), "train.epochs": epochs}
    settings |= parse_settings(changes or [])
    if root is not None:
        settings["data.root"] = str(root)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    console = Console()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        pending = [
            (seed, name, pool.submit(run, {**settings, "seed": seed}, name)) for seed in range(seeds) for name in ARMS
        ]
        for seed, name, running in pending:
            found[name].append(running.result())
            console.print(f"seed {seed}, {name}: val_bpd {found[name][-1][0]:.4f}, val_acc {found[name][-1][1]:.4f}")
    table = Table("", "val_bpd", "less by", "val_acc", title=f"{settings['data.name']}, {epochs} epochs, {seeds} seeds")
    for name, values in found.items():
        less = [before[0] - now[0] for before, now in zip(found["protocol 1"], values, strict=True)]
        table.add_row(name, _spread([bpd for bpd, _ in values]), _spread(less), _spread([acc for _, acc in values]))
    console.print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"settings": settings, "val_bpd and val_acc": found}, indent=1))


def _spread(values: list[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


if __name__ == "__main__":
    app()
