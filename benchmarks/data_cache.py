"""`python -m benchmarks.data_cache`: memory and start of processes that all read the same images.

    python -m benchmarks.data_cache [--images 50000] [--processes 8] [--kind png] [--threads 2]

Makes so many images of 32x32 pixels in colour, as files that a CSV lists (png) or in one npz. The first start decodes
them: by one thread, and by as many as there are cores, each with an empty cache. Then so many processes start at once,
load the data and look at every pixel: by `data.load`, whose splits are slices of a mapped file, and as it was before,
where each process checked the whole file and copied the splits. Memory is the sum of what each holds of its own and of
the mapped files, a page that several share counted once (Linux); what each had before it loaded is taken off.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import numpy as np
import psutil
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.figure import Asked, Figure, NotMeasuredError
from cpcnn_core import cache, data
from cpcnn_core.config import DataConfig
from cpcnn_core.sources import SOURCES

Kind = Literal["png", "npz"]
SIDE, CLASSES = 32, 10
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Start:
    """What starting together took: of each process, the mean."""

    seconds: float
    processor_seconds: float
    bytes: int  # of all together


def make(folder: Path, kind: Kind, images: int) -> DataConfig:
    """Write images that compress as little as photographs do; the data that they are."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 200, (images, SIDE // 4, SIDE // 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    pixels = coarse + random.integers(0, 16, coarse.shape, dtype=np.uint8)
    labels = np.arange(images) % CLASSES
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for split, share in SHARES.items():
        stop = start + round(images * share)
        arrays |= {f"images_{split}": pixels[start:stop], f"labels_{split}": labels[start:stop]}
        if kind == "png":
            _write_files(folder, split, pixels[start:stop], labels[start:stop])
        start = stop
    if kind == "png":
        return DataConfig(name="csv", root=str(folder))
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    return DataConfig(name="npz", root=str(folder / "data.npz"))


def _write_files(folder: Path, split: str, pixels: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    (folder / split).mkdir()
    names = [f"{split}/{index:07d}.png" for index in range(len(pixels))]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(folder / name, compress_level=1)
    rows = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    (folder / f"{split}.csv").write_text("".join(rows))


def mapped(config: DataConfig) -> list[Tensor]:
    """The images of the splits, as they are loaded now."""
    found = data.load(config)
    return [found.train.images, found.validation.images, found.test.images]


def copied(config: DataConfig) -> list[Tensor]:
    """As they were loaded before: the whole file is hashed, and each split copied by its indices."""
    found = data.load(config)
    splits = [found.train, found.validation, found.test]
    cache.digest([split.images.clone() for split in splits])
    return [split.images[torch.arange(len(split))] for split in splits]


WAYS: dict[str, Callable[[DataConfig], list[Tensor]]] = {"copied": copied, "mapped": mapped}


def first_start(config: DataConfig, threads: int) -> float:
    """Seconds until all images are decoded, with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        return _alone(_decode, config, folder, threads)


def _decode(config: DataConfig, folder: str, threads: int) -> float:
    os.environ["CPCNN_CACHE"] = folder
    torch.set_num_threads(1)
    joblib.cpu_count = lambda: threads
    begun = time.perf_counter()
    data.load(config)
    return time.perf_counter() - begun


def _alone(call: Callable[..., float], *arguments: object) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def together(way: str, config: DataConfig, folder: str, processes: int) -> Start:
    """Start so many processes at once, with a cache that holds the images already."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(processes), context.Queue()
    started = [context.Process(target=_hold, args=(way, config, folder, barrier, found)) for _ in range(processes)]
    for process in started:
        process.start()
    rows = [found.get(timeout=600) for _ in started]
    for process in started:
        process.join()
    seconds, of_processor, sizes = zip(*rows, strict=True)
    return Start(sum(seconds) / processes, sum(of_processor) / processes, sum(sizes))


def _hold(way: str, config: DataConfig, folder: str, barrier: Barrier, found: Queue[tuple[float, float, int]]) -> None:
    os.environ["CPCNN_CACHE"] = folder
    torch.set_num_threads(1)
    importlib.import_module(SOURCES[config.name].module)
    torch.zeros(1).sum()
    barrier.wait()
    before = bytes_held(Path(folder))
    barrier.wait()
    begun, of_processor = time.perf_counter(), time.process_time()
    images = WAYS[way](config)
    seconds, of_processor = time.perf_counter() - begun, time.process_time() - of_processor
    for split in images:
        split.sum(dtype=torch.int64 if split.dtype == torch.uint8 else torch.float64)
    barrier.wait()  # all hold what they hold
    size = bytes_held(Path(folder)) - before
    barrier.wait()
    found.put((seconds, of_processor, size))


def bytes_held(cached: Path) -> int:
    """This process's own memory and its part of the mapped files under `cached`: of a page that n share, an nth.

    Libraries are left out: a process's part of them changes whenever any other process starts or ends.
    """
    mapped, cached = psutil.Process().memory_maps(), cached.resolve()
    return sum(part.pss for part in mapped if part.path.startswith("[") or Path(part.path).is_relative_to(cached))


def _check_machine() -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        raise NotMeasuredError("needs Linux, which says what processes share")


def figures(asked: Asked) -> list[Figure]:
    """Memory and start of several processes, against a copy in each."""
    _check_machine()
    images, processes = (5_000, 4) if asked.short else (50_000, 8)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kept:
        config = make(Path(folder), "png", images)
        _alone(_decode, config, kept, joblib.cpu_count())
        starts = {way: together(way, config, kept, processes) for way in WAYS}
    was, now = starts["copied"], starts["mapped"]
    against = f"a copy in each, {images:,} images"
    return [
        Figure(f"memory of {processes} processes for their data", now.bytes / was.bytes, against, "smaller"),
        Figure("processor time of a second start", now.processor_seconds / was.processor_seconds, against, "smaller"),
    ]


@app.command()
def main(
    images: Annotated[int, typer.Option(min=100)] = 50_000,
    processes: Annotated[int, typer.Option(min=1)] = 8,
    kind: Annotated[str, typer.Option(help="png or npz.")] = "png",
    threads: Annotated[int, typer.Option(min=1, help="Of the first start.")] = joblib.cpu_count(),
) -> None:
    """Measure and print two tables."""
    _check_machine()
    if kind not in {"png", "npz"}:
        raise typer.BadParameter(f"{kind}: must be png or npz", param_hint="--kind")
    console = Console()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kept:
        config = make(Path(folder), "png" if kind == "png" else "npz", images)
        table = Table("threads", "seconds of a first start", title=f"{images:,} images, {kind}")
        for count in dict.fromkeys((1, threads)):
            table.add_row(str(count), f"{first_start(config, count):.1f}")
        console.print(table)
        _alone(_decode, config, kept, threads)
        table = Table("way", "seconds", "of a processor", "MB in all", title=f"{processes} processes, a second start")
        for way in WAYS:
            start = together(way, config, kept, processes)
            cells = (f"{start.seconds:.2f}", f"{start.processor_seconds:.2f}", f"{start.bytes / 1e6:.0f}")
            table.add_row(way, *cells)
        console.print(table)


if __name__ == "__main__":
    app()
