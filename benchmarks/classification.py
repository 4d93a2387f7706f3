"""How fast log p(x | y) of all classes is computed, against the plain eager network.

    python -m benchmarks.classification [--full]

The baseline runs every image once under every class, in fp32, through the plain network of benchmarks/plain.py and the
likelihood as published, in batches of 128, the default of `eval.batch_size`. Torch gives the memory of tensors as large
as its own back to the system and asks for it again, so it runs in batches of 32 as well, which is what ours cuts a
batch down to on a CPU: `against 32`.

Ours computes once what does not depend on the class, so that the ratio depends on where the fusion lets the label in.
`shared` is the share of the baseline's multiplications that it saves. All take turns on the same images, and of each
the fastest turn counts.

Where there is a GPU it is measured, by the clock, the baseline at torch's default, which rounds the factors of
convolutions to TF32; ours in "fp32" does not. Otherwise ratios are of CPU time.

Agreement: the largest difference of a log-likelihood from the baseline's in float32, in nats per image, and of how many
images the likeliest class is the same. In bf16, where the machine has units for it, close calls are computed again in
float32; `again` is how many, and their time is in `ours`. How many depends on how sure a network is, so the networks
are trained for some steps on images whose classes differ in brightness, and what is measured are such images.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.figure import Asked, Figure
from benchmarks.timing import Seconds, counted, device, fastest, machine, peaks, timed, write
from benchmarks.training import NR_CLASSES, dataset, network
from cpcnn_core import environment
from cpcnn_core.config import EvalConfig, TrialConfig
from cpcnn_core.data import to_model
from cpcnn_core.evaluate import log_likelihoods, log_prior
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import whole_float32
from cpcnn_core.train import Run

FUSIONS = ("input_map", "block_mild", "skip_add", "bottleneck_add", "skip_add+bottleneck_add+head_add", "head_add")
BATCH = EvalConfig().batch_size  # images times classes
SMALL = 32
STEPS, IMAGES_PER_STEP = 10, 16  # of training before it is measured
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Result:
    """One network."""

    config: str
    fusion: str
    precision: str  # ours; the baseline's is fp32
    images: int
    ours: Seconds
    plain: Seconds
    plain_small: Seconds  # in batches of `SMALL`
    ours_gflop: float
    plain_gflop: float
    largest_difference: float  # nats
    same_predictions: int
    again: int  # images computed in float32 after bf16

    @property
    def ratio(self) -> float:
        return counted(self.plain) / counted(self.ours)

    @property
    def ratio_small(self) -> float:
        return counted(self.plain_small) / counted(self.ours)


def trained(settings: dict[str, object]) -> ConditionalPixelCNN:
    """A network that tells the classes of `dataset` apart a little."""
    config = TrialConfig.from_flat(settings | {"train.batch_size": IMAGES_PER_STEP, "train.lr": 5e-3})
    data = dataset(4 * IMAGES_PER_STEP)
    order = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, whole_float32():
        run = Run(config, data, Path(folder), environment.accelerator())
        for _ in range(STEPS):
            run.optimize(torch.randperm(len(data.train), generator=order)[:IMAGES_PER_STEP].to(run.device))
    return run.model.eval()


def measure(settings: dict[str, object], images: int, turns: int, precisions: Iterable[str]) -> list[Result]:
    """Ours in each of the precisions and the baseline in turns."""
    model = trained(settings)
    config = model.config
    pixels = dataset(images).train.images.to(device())
    x = to_model(pixels)
    ours: dict[str, list[Seconds]] = {precision: [] for precision in precisions}
    mine: dict[str, Tensor] = {}
    prior = log_prior("uniform", torch.arange(NR_CLASSES), NR_CLASSES)
    plains, plains_small = [], []

    def theirs_of_all(at_once: int) -> Tensor:
        return torch.cat([plain.class_log_likelihoods(model, part) for part in x.split(at_once // NR_CLASSES)])

    for _ in range(turns):
        for precision, took_so_far in ours.items():
            bf16 = precision == "bf16"
            took, mine[precision] = timed(partial(log_likelihoods, model, pixels, prior, batch_size=BATCH, bf16=bf16))
            took_so_far.append(took)
        plains_small.append(timed(lambda: theirs_of_all(SMALL))[0])
        took, theirs = timed(lambda: theirs_of_all(BATCH))
        plains.append(took)
    if device().type == "cuda":
        with whole_float32():
            theirs = theirs_of_all(BATCH)
    theirs = theirs.cpu()
    labels = torch.arange(NR_CLASSES, device=device())
    with torch.no_grad(), FlopCounterMode(display=False) as mine_counted:
        model(x[:1], labels)
    with torch.no_grad(), FlopCounterMode(display=False) as plain_counted:
        plain.forward(model, x[:1].expand(NR_CLASSES, -1, -1, -1), labels)
    return [
        Result(
            config=f"{config.nr_resnet}/{config.nr_filters}/{config.nr_logistic_mix}",
            fusion=config.fusion,
            precision=precision,
            images=images,
            ours=fastest(ours[precision]),
            plain=fastest(plains),
            plain_small=fastest(plains_small),
            ours_gflop=mine_counted.get_total_flops() * images / 1e9,
            plain_gflop=plain_counted.get_total_flops() * images / 1e9,
            largest_difference=(mine[precision] - theirs).abs().max().item(),
            same_predictions=int((mine[precision].argmax(dim=1) == theirs.argmax(dim=1)).sum()),
            again=int((mine[precision] == mine["fp32"]).all(dim=1).sum()) if precision != "fp32" else 0,
        )
        for precision in ours
    ]


def figures(asked: Asked) -> list[Figure]:
    """At 1/40/5, where the label enters in every block and where it enters last."""
    precisions, images, turns = (["fp32"], 16, 1) if asked.short else ([*peaks()], 96, 2)
    return [
        Figure(f"classification, {fusion}, {result.precision}", result.ratio, "plain network, fp32")
        for fusion in ("block_mild", "head_add")
        for result in measure(network(fusion, (1, 40, 5)), images, turns, precisions)
    ]


def _table(results: Sequence[Result], images: int, peak: Mapping[str, float]) -> Table:
    title = f"log p(x | y) of {NR_CLASSES} classes, {images} images of 32x32x3, {machine()}"
    table = Table(
        "config", "fusion", "precision", "ours", "plain", "ratio", "ratio, wall", "against 32", "shared", "GFLOP/s",
        "of peak", "nats", "same", "again",
        title=title,
    )  # fmt: skip
    for result in results:
        speed = result.ours_gflop * 1e9 / counted(result.ours)
        table.add_row(
            result.config,
            result.fusion,
            result.precision,
            f"{result.ours.wall:.3g} s",
            f"{result.plain.wall:.3g} s",
            f"{result.ratio:.2f}x",
            f"{result.plain.wall / result.ours.wall:.2f}x",
            f"{result.ratio_small:.2f}x",
            f"{1 - result.ours_gflop / result.plain_gflop:.0%}",
            f"{speed / 1e9:.1f}",
            f"{speed / peak[result.precision]:.0%}",
            f"{result.largest_difference:.1e}",
            f"{result.same_predictions}/{result.images}",
            str(result.again),
        )
    return table


@app.command()
def main(
    full: Annotated[bool, typer.Option("--full", help="5/120/10 too: some minutes more.")] = False,
    images: Annotated[
        int | None, typer.Option(help="Images; default: 96 where the machine has units for bf16, else 32.")
    ] = None,
    turns: Annotated[int, typer.Option(help="Turns of ours and the baseline at 1/40/5.")] = 2,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; default: its own choice.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/classification.json"),
) -> None:
    """Measure, print one table, write it as JSON."""
    if threads is not None:
        torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    peak = peaks()
    if images is None:
        images = 96 if "bf16" in peak else 32
    asked = [(network(name, (1, 40, 5)), turns) for name in FUSIONS]
    if full:
        large = 1 if device().type == "cpu" else turns
        asked += [(network(name, (5, 120, 10)), large) for name in FUSIONS[1:3]]
    results = [
        result
        for settings, count in track(asked, description="measuring")
        for result in measure(settings, images, count, peak)
    ]
    Console(width=None if os.isatty(1) else 160).print(_table(results, images, peak))
    rows = [
        asdict(result)
        | {"ratio": result.ratio, "ratio_small": result.ratio_small, "peak_flops": peak[result.precision]}
        for result in results
    ]
    write(out, rows, load)


if __name__ == "__main__":
    app()
