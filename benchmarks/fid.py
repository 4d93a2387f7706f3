"""What FID in training costs: the distance itself against pytorch-fid's, and its share of an epoch.

    python -m benchmarks.fid [--full]

Its first rows take the Frechet distance between the same two sets of features, ours (singular values of the factors)
against pytorch-fid's (the square root of the covariances' product), at the widths of the extractors; pytorch-fid's
2048-wide root takes minutes and is part of --full. Agreement is the relative difference of the two values.

The last row is a whole measurement as `eval.fid_every` makes it, 25 images of each of 4 classes, 32x32x3, at 1/40/5:
drawing them, the classifier's features, FID with its standard error, per-class FIDs and KID; beside it an epoch of
4159 training images, from the fastest of a few steps, and its evaluation of 519 + 512 images.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import frechet as pytorch_fid
from benchmarks.figure import Asked, Figure
from benchmarks.timing import Seconds, fastest, timed, write
from benchmarks.training import dataset
from cpcnn_core import environment, quality
from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.config import TrialConfig
from cpcnn_core.fid import Gaussian, frechet_distance
from cpcnn_core.train import Run

IMAGES, REFERENCE = 100, 519
TRAIN_IMAGES, EVALUATED = 4159, 519 + 512  # an epoch on cpen455
TURNS = 3
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Frechet:
    """One distance, computed twice."""

    features: int
    ours: Seconds
    pytorch_fid: Seconds
    relative_difference: float


@dataclass(frozen=True)
class Share:
    """CPU seconds of the parts of an epoch in which FID is measured."""

    training: float
    evaluation: float
    drawing: float
    measuring: float

    @property
    def of_fid(self) -> float:
        return (self.drawing + self.measuring) / (self.training + self.evaluation + self.drawing + self.measuring)


def frechet(width: int) -> Frechet:
    """100 generated images against 519 real ones, in `width` features."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5

    def features(count: int, shift: float) -> Tensor:
        drawn: Tensor = torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + shift
        return drawn

    made, real = features(IMAGES, 0.1), features(REFERENCE, 0.0)

    def ours() -> float:
        return frechet_distance(Gaussian.of_features(made), Gaussian.of_features(real))

    def theirs() -> float:
        a, b = made.numpy(), real.numpy()
        moments = a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
        return float(pytorch_fid.distance(*moments))

    mine, plain = [timed(ours) for _ in range(TURNS)], [timed(theirs) for _ in range(TURNS if width < 1000 else 1)]
    value, expected = mine[0][1], plain[0][1]
    return Frechet(
        width, fastest([t for t, _ in mine]), fastest([t for t, _ in plain]), abs(value - expected) / abs(expected)
    )


def share() -> Share:
    """Each part once, the training steps three times."""
    batch = 32
    config = TrialConfig.from_flat(
        {
            "model.fusion": "block_mild",
            "train.batch_size": batch,
            "eval.fid_every": 1,
            "eval.fid_extractor": "classifier",
        }
    )
    data = dataset(IMAGES * 4)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, data, Path(folder), environment.accelerator())
        steps = [timed(lambda: run.optimize(torch.arange(batch)))[0] for _ in range(TURNS)]
        evaluated = 32
        looking, _ = timed(lambda: class_log_likelihoods(run.model, data.validation.images[:evaluated], batch_size=128))
        drawing, drawn = timed(lambda: quality.draw(run.model, IMAGES // 4, seed=0))
        assert run.evaluator is not None
        evaluator = run.evaluator
        measuring, _ = timed(lambda: evaluator.measure(drawn, seed=0))
    return Share(
        training=fastest(steps).cpu * TRAIN_IMAGES / batch,
        evaluation=looking.cpu * EVALUATED / evaluated,
        drawing=drawing.cpu,
        measuring=measuring.cpu,
    )


def figures(asked: Asked) -> list[Figure]:
    """The distance at the widths of the extractors, and the share of FID in an epoch."""
    found = []
    for width in (64, 192) if asked.short else (64, 192, 2048):
        distance = frechet(width)
        ratio = distance.pytorch_fid.cpu / distance.ours.cpu
        found.append(Figure(f"FID of {width} features", ratio, "pytorch-fid's"))
    return [*found, Figure("drawing and measuring for FID", share().of_fid, "the epoch it is part of", "smaller")]


@app.command()
def main(
    full: Annotated[bool, typer.Option("--full", help="2048 features too: minutes.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; default: its own choice.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/fid.json"),
) -> None:
    """Measure, print one table, write it as JSON."""
    if threads is not None:
        torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    title = f"FID of {IMAGES} images, CPU s, {torch.get_num_threads()} threads"
    table = Table("config", "ours", "baseline", "ratio", "agreement", title=title)
    results: list[dict[str, Any]] = []
    for width in (64, 192, *([2048] if full else [])):
        result = frechet(width)
        ratio = result.pytorch_fid.cpu / result.ours.cpu
        results.append(asdict(result) | {"ratio": ratio})
        table.add_row(
            f"distance, {width} features",
            f"{result.ours.cpu * 1e3:.1f} ms",
            f"pytorch-fid {result.pytorch_fid.cpu * 1e3:.1f} ms",
            f"{ratio:.1f}x",
            f"{result.relative_difference:.1e}",
        )
    parts = share()
    table.add_row(
        "all of it in an epoch, 1/40/5",
        f"drawing {parts.drawing:.1f} s, measuring {parts.measuring:.1f} s",
        f"training {parts.training:.0f} s, evaluation {parts.evaluation:.0f} s",
        f"{parts.of_fid:.1%} of the epoch",
        "-",
    )
    Console(width=None if os.isatty(1) else 160).print(table)
    write(out, [*results, asdict(parts) | {"share_of_fid": parts.of_fid}], load)


if __name__ == "__main__":
    app()
