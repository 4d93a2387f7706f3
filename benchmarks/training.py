"""How fast a training step is, against the plain eager network, loss and optimizer.

    python -m benchmarks.training [--full]

The baseline is one optimizer step in fp32 as one would write it down: the network of benchmarks/plain.py, the
likelihood as published, backward, gradient clipping, Adam. Ours is `cpcnn_core.train.Run.optimize`, in fp32 and under
bf16 autocast on a CPU or a GPU that has units for it. Both start from the same weights and see the same
images with the same dropout masks, in turns; of each the fastest step counts. The first step, in which memory is
allocated (and, compiled, the network is compiled), is reported apart.

On a GPU `--full` measures 5/160/10 instead of 5/120/10.

Agreement: the largest difference between the two loss curves, in bits per dimension, over all steps taken.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.figure import Asked, Figure
from benchmarks.timing import Seconds, counted, device, fastest, machine, peaks, timed, write
from cpcnn_core import environment
from cpcnn_core.config import TrialConfig
from cpcnn_core.data import Dataset, Split, to_model
from cpcnn_core.likelihood import bits_per_dim
from cpcnn_core.precision import whole_float32
from cpcnn_core.train import Run

SHAPE, NR_CLASSES = (3, 32, 32), 4
GPU_BATCH = 64  # at 5/160/10
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Result:
    """One configuration."""

    config: str
    batch: int
    precision: str  # ours; the baseline's is fp32
    compiled: bool
    first: Seconds  # the first step, compilation included
    ours: Seconds
    plain: Seconds
    gflop: float  # multiplications and additions of one step, forward and backward
    largest_difference: float  # bpd

    @property
    def ratio(self) -> float:
        """By CPU time, on a GPU by the clock."""
        return counted(self.plain) / counted(self.ours)


class PlainStep:
    """The baseline, from the same weights as `run`."""

    def __init__(self, run: Run) -> None:
        self.model = deepcopy(run.model)
        self.noise = torch.Generator(run.device).manual_seed(run.config.seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=run.config.train.lr)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        masks = self.model.dropout_masks(len(labels), self.noise)
        x = to_model(images)
        params = plain.forward(self.model, x, labels, masks)
        nats = plain.log_prob(x, params, n_mix=self.model.config.nr_logistic_mix)
        loss = bits_per_dim(nats, SHAPE).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def dataset(images: int, evaluated: int | None = None) -> Dataset:
    """Random images of 32x32 in four classes that differ in brightness; what they show does not matter for speed.

    So many of them are `evaluated`, as validation and as test images, or all.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % NR_CLASSES
    coarse = torch.randint(0, 100, (images, 3, 8, 8), generator=generator) + 40 * labels[:, None, None, None]
    pixels = coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3).to(torch.uint8)
    split = Split(pixels, labels, tuple(map(str, range(images))))
    held_out = split if evaluated is None else split.take(range(evaluated))
    return Dataset("random", split, held_out, held_out, tuple("abcd"))


def network(fusion: str, sizes: tuple[int, int, int]) -> dict[str, object]:
    """The settings of a network of `sizes`: nr_resnet, nr_filters, nr_logistic_mix."""
    return {"model.fusion": fusion} | dict(
        zip(("model.nr_resnet", "model.nr_filters", "model.nr_logistic_mix"), sizes, strict=True)
    )


@contextmanager
def trial(
    sizes: tuple[int, int, int],
    batch: int,
    settings: Mapping[str, object] | None = None,
    *,
    images: int | None = None,
    evaluated: int | None = None,
) -> Iterator[Run]:
    """A trial whose steps can be taken one by one."""
    given = network("block_mild", sizes) | {"train.batch_size": batch, "train.ema_decay": 0.999, "train.flip": True}
    config = TrialConfig.from_flat({**given, **(settings or {})})
    with tempfile.TemporaryDirectory() as folder, whole_float32():
        data = dataset(images or batch, evaluated)
        yield Run(config, data, Path(folder), environment.accelerator(anew=True))


def measure(sizes: tuple[int, int, int], batch: int, steps: int, precision: str, *, compiled: bool = False) -> Result:
    """Ours and the baseline in turns."""
    config = TrialConfig.from_flat(
        network("block_mild", sizes)
        | {"train.batch_size": batch, "train.precision": precision, "train.compile": compiled}
    )
    data = dataset(batch)
    with tempfile.TemporaryDirectory() as folder, whole_float32():
        run = Run(config, data, Path(folder), environment.accelerator())
        baseline = PlainStep(run)
        chosen = torch.arange(batch, device=run.device)

        def ours() -> float:
            before = run.sums.bpd.item()
            run.optimize(chosen)
            return (run.sums.bpd.item() - before) / batch

        def theirs() -> float:
            return baseline(run.batches.images, run.batches.labels)

        first, loss = timed(ours)
        differences = [abs(loss - theirs())]
        mine, plains = [], []
        for _ in range(steps):
            took, loss = timed(ours)
            mine.append(took)
            took, plain_loss = timed(theirs)
            plains.append(took)
            differences.append(abs(loss - plain_loss))
        with FlopCounterMode(display=False) as counted:
            theirs()
    return Result(
        config="/".join(map(str, sizes)),
        batch=batch,
        precision=precision,
        compiled=compiled,
        first=first,
        ours=fastest(mine),
        plain=fastest(plains),
        gflop=counted.get_total_flops() / 1e9,
        largest_difference=max(differences),
    )


def figures(asked: Asked) -> list[Figure]:
    """A step at 1/40/5, in each precision that the machine has units for."""
    steps = 2 if asked.short else 5
    return [
        Figure(f"training step, {precision}", measure((1, 40, 5), 16, steps, precision).ratio, "plain network, fp32")
        for precision in peaks()
    ]


@app.command()
def main(
    full: Annotated[
        bool, typer.Option("--full", help="Larger networks, and compiled ones, too: ten minutes more.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Images per step at 1/40/5.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps of ours and the baseline at 1/40/5, after the first.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; default: its own choice.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/training.json"),
) -> None:
    """Measure, print one table, write it as JSON."""
    if threads is not None:
        torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    peak = peaks()
    results = [measure((1, 40, 5), batch, steps, precision) for precision in peak]
    if full:
        results.append(measure((1, 40, 5), batch, steps, max(peak, key=peak.__getitem__), compiled=True))
        if device().type == "cuda":
            results += [measure((5, 160, 10), GPU_BATCH, steps, precision) for precision in peak]
            results.append(measure((5, 160, 10), GPU_BATCH, steps, "bf16", compiled=True))
        else:
            results += [measure((5, 120, 10), 4, min(3, steps), precision) for precision in peak]
    table = Table(
        "config", "batch", "precision", "compiled", "first step", "ours", "plain", "ratio", "ratio, wall", "GFLOP",
        "GFLOP/s", "of peak", "bpd apart",
        title=f"One training step, block_mild, 32x32x3, {machine()}",
    )  # fmt: skip
    for result in results:
        speed = result.gflop * 1e9 / counted(result.ours)
        table.add_row(
            result.config,
            str(result.batch),
            result.precision,
            "yes" if result.compiled else "no",
            f"{result.first.wall:.1f} s",
            f"{result.ours.wall:.3g} s",
            f"{result.plain.wall:.3g} s",
            f"{result.ratio:.2f}x",
            f"{result.plain.wall / result.ours.wall:.2f}x",
            f"{result.gflop:.1f}",
            f"{speed / 1e9:.1f}",
            f"{speed / peak[result.precision]:.0%}",
            f"{result.largest_difference:.1e}",
        )
    Console(width=None if os.isatty(1) else 160).print(table)
    rows = [asdict(result) | {"ratio": result.ratio, "peak_flops": peak[result.precision]} for result in results]
    write(out, rows, load)


if __name__ == "__main__":
    app()
