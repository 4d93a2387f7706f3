"""How fast images are drawn, against a full forward pass per pixel.

    python -m benchmarks.sampling [--full]

Two baselines make one forward pass per pixel: `plain` is the plain eager network of benchmarks/plain.py, `reference`
is `cpcnn_core.sampling.sample_reference`, whose network is already in the CPU's favourite layout. Their time is that of
a pass over the whole batch times the number of pixels. Samplers and passes take turns, and of each the fastest
turn counts, since what else the machine does only ever adds time. Where there is a GPU it is measured: `plain` then at
torch's default, which rounds the factors of convolutions to TF32, the other two in float32.

Agreement, on the images drawn: `redrawn` is the share of sub-pixels that come out the same when they are drawn
again, with the same noise, from the plain network's outputs; `outputs` is the largest difference, relative to
1 + |output|, between the plain network's outputs and the cached ones.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import plain
from benchmarks.figure import Asked, Figure
from benchmarks.timing import Seconds, device, fastest, machine, timed, write
from cpcnn_core import likelihood
from cpcnn_core.cached import CachedNetwork
from cpcnn_core.config import ModelConfig
from cpcnn_core.data import to_model
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import whole_float32
from cpcnn_core.sampling import draw_noise, sample_cached

SHAPE, NR_CLASSES = (3, 32, 32), 4
FUSION = "input_concat+block_film+skip_add+head_add"
CHECKED = 4  # images whose cached outputs are compared
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Result:
    """One configuration."""

    config: str
    fusion: str
    batch: int
    threads: int
    turns: int
    ours: Seconds
    plain: Seconds
    reference: Seconds
    redrawn: float
    outputs: float

    @property
    def ratios(self) -> dict[str, float]:
        return {
            "plain_wall": self.plain.wall / self.ours.wall,
            "plain_cpu": self.plain.cpu / self.ours.cpu,
            "reference_wall": self.reference.wall / self.ours.wall,
            "reference_cpu": self.reference.cpu / self.ours.cpu,
        }


def measure(config: ModelConfig, batch: int, turns: int) -> Result:
    """Sampler and baselines in turns."""
    torch.manual_seed(0)
    model = ConditionalPixelCNN(config, SHAPE, NR_CLASSES).eval().to(device())
    labels = torch.arange(batch, device=device()) % NR_CLASSES
    noise = draw_noise(model, batch, torch.Generator().manual_seed(0))
    pixels = SHAPE[1] * SHAPE[2]
    ours, plains, references = [], [], []
    with torch.inference_mode():
        for _ in range(turns):
            took, images = timed(lambda: sample_cached(model, labels, noise))
            ours.append(took)
            x = to_model(images)
            took, params = timed(partial(plain.forward, model, x, labels))
            plains.append(took.times(pixels))
            with whole_float32():
                took, _ = timed(partial(model, x, labels))
            references.append(took.times(pixels))
        few = slice(0, CHECKED)
        with whole_float32():
            if device().type == "cuda":
                params = plain.forward(model, x, labels)
            cached = CachedNetwork(model, labels[few]).replay(x[few])
        again = likelihood.sample(
            params.permute(2, 3, 0, 1), noise.to(x.device), channels=SHAPE[0], n_mix=config.nr_logistic_mix
        ).permute(2, 3, 0, 1)
        difference = (cached - params[few]).abs() / (1 + params[few].abs())
    return Result(
        config=f"{config.nr_resnet}/{config.nr_filters}/{config.nr_logistic_mix}",
        fusion=config.fusion,
        batch=batch,
        threads=torch.get_num_threads(),
        turns=turns,
        ours=fastest(ours),
        plain=fastest(plains),
        reference=fastest(references),
        redrawn=((again - x).abs() * 127.5 < 0.5).float().mean().item(),
        outputs=difference.max().item(),
    )


def show(results: list[Result]) -> Table:
    """One row per configuration and baseline."""
    table = Table(
        "config", "batch", "ours", "baseline", "extrapolated", "ratio, wall", "ratio, CPU", "redrawn", "outputs",
        title=f"Drawing {SHAPE[1]}x{SHAPE[2]}x{SHAPE[0]} images, {FUSION}, {machine()}",
    )  # fmt: skip
    for result in results:
        for name, baseline in (("plain", result.plain), ("reference", result.reference)):
            table.add_row(
                result.config,
                str(result.batch),
                f"{result.ours.wall:.2f} s",
                name,
                f"{baseline.wall:.0f} s",
                f"{result.ratios[f'{name}_wall']:.0f}x",
                f"{result.ratios[f'{name}_cpu']:.0f}x",
                f"{result.redrawn:.4%}",
                f"{result.outputs:.1e}",
            )
    return table


def figures(asked: Asked) -> list[Figure]:
    """At 1/40/5."""
    batch, turns = (16, 1) if asked.short else (100, 4)
    ratios = measure(ModelConfig(fusion=FUSION, nr_resnet=1, nr_filters=40, nr_logistic_mix=5), batch, turns).ratios
    return [
        Figure(f"drawing {batch} images", ratios["plain_cpu"], "a pass of the plain network per pixel"),
        Figure(f"drawing {batch} images", ratios["reference_cpu"], "a pass of ours per pixel"),
    ]


@app.command()
def main(
    full: Annotated[bool, typer.Option("--full", help="5/120/10 too: some 10 minutes on two cores.")] = False,
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 100,
    turns: Annotated[int, typer.Option(help="Turns of sampler and baselines at 1/40/5.")] = 4,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; default: its own choice.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/sampling.json"),
) -> None:
    """Measure, print one table, write it as JSON."""
    if threads is not None:
        torch.set_num_threads(threads)
    configs = [(ModelConfig(fusion=FUSION, nr_resnet=1, nr_filters=40, nr_logistic_mix=5), turns)]
    if full:
        large = ModelConfig(fusion=FUSION, nr_resnet=5, nr_filters=120, nr_logistic_mix=10)
        configs.append((large, 1 if device().type == "cpu" else turns))
    load = os.getloadavg()[0]
    results = [measure(config, batch, count) for config, count in configs]
    Console(width=None if os.isatty(1) else 160).print(show(results))
    write(out, [asdict(result) | {"ratios": result.ratios} for result in results], load)


if __name__ == "__main__":
    app()
