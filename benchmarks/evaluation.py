"""What share of an epoch scoring takes on a CPU, at 1/40/5 on the course's sizes, by the settings of evaluation.

    python -m benchmarks.evaluation [--turns 5] [--only FUSION]

Steps and passes of evaluation take turns in one process with one thread, and the median CPU time of each counts, which
other work on the machine adds little to. An epoch is 4,159 images in steps of 16; 519 validation images, and
`eval.train_images` of the training images, are scored under 4 classes, in all or in every second epoch.

In bf16, close calls are computed again in float32. How many depends on how sure a network is: measured on the course's
images were `FEW`, of a network that was trained for long, and `MANY`, of one after its first epoch.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figure import Asked, Figure
from benchmarks.gpu import EVALUATED, TRAIN_IMAGES
from benchmarks.timing import timed, write
from benchmarks.training import trial
from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.config import EvalConfig
from cpcnn_core.precision import has_bf16_units

BATCH = 16
LOOKED_AT = 32  # images of a pass that is timed
FEW, MANY = 160 / 519, 480 / 519  # of the images, computed again
SCORED: tuple[tuple[int, int], ...] = ((1, 512), (1, 128), (2, 128), (5, 128))  # eval.every, eval.train_images
FUSIONS = ("block_mild", "input_map", "head_add")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def medians(fusion: str, turns: int, *, images: int = LOOKED_AT) -> dict[str, float]:
    """CPU seconds of a step of `BATCH` images, and of an image under all classes in each precision."""
    precisions = ["fp32", *(["bf16"] if has_bf16_units() else [])]
    took: dict[str, list[float]] = {"step": [], **{precision: [] for precision in precisions}}
    with trial((1, 40, 5), BATCH, {"model.fusion": fusion}, images=max(images, BATCH)) as run:
        chosen = torch.arange(BATCH)
        pixels = run.dataset.validation.images[:images]
        look = partial(class_log_likelihoods, run.model, pixels, batch_size=EvalConfig().batch_size)
        calls: dict[str, Callable[[], object]] = {"step": partial(run.optimize, chosen)}
        calls |= {precision: partial(look, bf16=precision == "bf16") for precision in precisions}
        for turn in range(turns + 1):
            for name, call in calls.items():
                seconds, _ = timed(call)
                if turn:  # the first one fills caches
                    took[name].append(seconds.cpu / (1 if name == "step" else images))
    return {name: statistics.median(each) for name, each in took.items()}


def shares(took: dict[str, float], every: int, train_images: int) -> dict[str, float]:
    """What scoring takes of an epoch on average, in float32, and in bf16 with few and with many images twice."""
    training = took["step"] * TRAIN_IMAGES / BATCH
    images = (EVALUATED + train_images) / every
    ways = {"fp32": took["fp32"]}
    if "bf16" in took:
        ways |= {"bf16, few again": took["bf16"] + FEW * took["fp32"]}
        ways |= {"bf16, many again": took["bf16"] + MANY * took["fp32"]}
    return {way: images * seconds / (training + images * seconds) for way, seconds in ways.items()}


def figures(asked: Asked) -> list[Figure]:
    """The share under the default settings of evaluation, and under those of the course's space."""
    turns, images = (1, 8) if asked.short else (5, LOOKED_AT)
    took = medians("block_mild", turns, images=images)
    return [
        Figure(
            f"scoring, eval.every={every}, eval.train_images={train_images}",
            shares(took, every, train_images)["fp32"],
            "an epoch",
            "smaller",
        )
        for every, train_images in (SCORED[0], SCORED[2])
    ]


@app.command()
def main(
    turns: Annotated[int, typer.Option(help="Turns that count, after one that does not.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="A fusion; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/evaluation.json"),
) -> None:
    """Measure, print one table, write it as JSON."""
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    rows: list[dict[str, Any]] = []
    for fusion in only or FUSIONS:
        took = medians(fusion, turns)
        for every, train_images in SCORED:
            asked = {"fusion": fusion, "eval.every": every, "eval.train_images": train_images}
            rows.append({**asked, "shares": shares(took, every, train_images), "seconds": took})
    ways = list(rows[0]["shares"])
    table = Table("fusion", "eval.every", "eval.train_images", *ways, title="share of an epoch that scoring takes")
    for row in rows:
        cells = [row["fusion"], str(row["eval.every"]), str(row["eval.train_images"])]
        table.add_row(*cells, *(f"{row['shares'][way]:.1%}" for way in ways))
    Console(width=None if os.isatty(1) else 120).print(table)
    write(out, rows, load)


if __name__ == "__main__":
    app()
