"""Every fusion at equal size, seeds and epochs on digits: val_bpd, val_acc, parameters, seconds per epoch.

    python -m benchmarks.fusions [--epochs 5] [--seeds 3] [--workers 2]

Each run is one process with one thread; the seconds are those of training with the other workers running beside it.
"""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median, stdev
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.figure import Asked, Figure
from cpcnn_core import data
from cpcnn_core.checkpoint import build_model
from cpcnn_core.config import TrialConfig
from cpcnn_core.fusion import FUSIONS
from cpcnn_core.train import fit

SETTINGS = {
    "data.name": "digits",
    "model.nr_resnet": 1,
    "model.nr_filters": 12,
    "model.nr_logistic_mix": 3,
    "model.dropout": 0.1,
    "train.batch_size": 64,
    "train.lr": 8e-3,
    "train.schedule": "cosine",
    "train.ema_decay": 0.98,
    "train.data_dependent_init": True,
    "eval.train_images": 0,
}
COMPOSITION = "input_concat+block_film+skip_add+head_add"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Result:
    """The last epoch of one run."""

    fusion: str
    seed: int
    parameters: int
    val_bpd: float
    val_acc: float
    train_seconds_per_epoch: float


def run(fusion: str, seed: int, epochs: int) -> Result:
    """Train one configuration in a folder that is thrown away."""
    torch.set_num_threads(1)
    config = TrialConfig.from_flat(SETTINGS | {"model.fusion": fusion, "seed": seed, "train.epochs": epochs})
    dataset = data.load(config.data)
    model = build_model(config, dataset.image_shape, dataset.nr_classes)
    with tempfile.TemporaryDirectory() as folder:
        history = list(fit(config, dataset, Path(folder)))
    assert history[-1].val_bpd is not None
    assert history[-1].val_acc is not None
    return Result(
        fusion,
        seed,
        sum(p.numel() for p in model.parameters()),
        history[-1].val_bpd,
        history[-1].val_acc,
        median(epoch.train_seconds for epoch in history),
    )


def figures(asked: Asked) -> list[Figure]:
    """Of the composition of several fusions."""
    epochs = 2 if asked.short else 5
    got, without = (run(fusion, 0, epochs) for fusion in (COMPOSITION, "none"))
    after = f"after {epochs} epochs on digits"
    return [
        Figure(f"val_acc {after}", got.val_acc / without.val_acc, "the network without a label"),
        Figure(f"val_bpd {after}", got.val_bpd / without.val_bpd, "the network without a label", "smaller"),
    ]


@app.command()
def main(
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/fusions.json"),
) -> None:
    """Train every fusion with every seed and print one table, best accuracy first."""
    names = [*FUSIONS, COMPOSITION]
    jobs = [(fusion, seed) for seed in range(seeds) for fusion in names]
    data.load(TrialConfig.from_flat(SETTINGS).data)  # decode once, before the workers all want it
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, fusion, seed, epochs) for fusion, seed in jobs]
        results = [future.result() for future in track(futures, description="training")]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"settings": SETTINGS, "epochs": epochs, "runs": [asdict(result) for result in results]}, indent=1)
    )
    title = f"digits, nr_filters {SETTINGS['model.nr_filters']}, {epochs} epochs, {seeds} seeds (mean ± deviation)"
    table = Table("fusion", "val_acc", "val_bpd", "parameters", "s / epoch", title=title)
    by_name = {name: [result for result in results if result.fusion == name] for name in names}
    for name, runs in sorted(by_name.items(), key=lambda item: -mean(r.val_acc for r in item[1])):
        table.add_row(
            name,
            _spread([r.val_acc for r in runs]),
            _spread([r.val_bpd for r in runs]),
            f"{runs[0].parameters:,}",
            f"{median(r.train_seconds_per_epoch for r in runs):.1f}",
        )
    Console().print(table)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"


if __name__ == "__main__":
    app()
