"""Record learning curves on digits, once, so that searches can be compared by replaying them.

    nice -n 19 python -m benchmarks.record_curves [--jobs 1]

trains every configuration of `SPACE` and appends its curve to `benchmarks/curves_digits.csv`, one row per epoch. The
order is drawn once and for all, so that a table that is not complete yet is a fair sample of the space. Stopped or
killed and started again, it goes on with what is missing. There are 216 configurations, each some 20 to 60 CPU seconds.
"""

from __future__ import annotations

import csv
import io
import os
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cpcnn_core.config import Scalar, TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.search.space import SearchSpace
from search_spaces import choice, floats, ints

TABLE = Path(__file__).with_name("curves_digits.csv")
METRICS = ("val_acc", "val_bpd")

# Finite, so that every configuration that a sampler may suggest has its curve. 9 epochs leave room for rungs.
SPACE = SearchSpace(
    source="benchmarks/record_curves.py",
    question="Which fusion, size and learning rate classify digits best?",
    fields={
        "model.fusion": choice("none", "input_map", "stem_add", "block_mild", "block_three_bias", "block_film"),
        "model.nr_resnet": ints(1, 2),
        "model.nr_filters": ints(8, 16, step=4),
        "train.lr": floats(0.004, 0.024, step=0.004),
    },
    settings={
        "data.name": "digits",
        "data.train_fraction": 0.5,
        "model.nr_logistic_mix": 3,
        "model.dropout": 0.1,
        "train.epochs": 9,
        "train.schedule": "cosine",
        "eval.batch_size": 500,
        "eval.train_images": 0,
        "seed": 0,
    },
    trials=216,
    objective=Objective.of("val_acc"),
)
FIELDS = SPACE.searched
_COLUMNS = (*FIELDS, "epoch", *METRICS, "cpu_seconds")

Key = tuple[Scalar, ...]


@dataclass(frozen=True)
class Epoch:
    """One row of the table."""

    epoch: int
    val_acc: float
    val_bpd: float
    cpu_seconds: float  # of one core: what the epoch costs wherever it ran, and however busy the machine was

    def row(self) -> dict[str, float]:
        """As a row of `epochs`, as far as an objective reads it."""
        return {"epoch": self.epoch, "val_acc": self.val_acc, "val_bpd": self.val_bpd}


def key_of(config: TrialConfig) -> Key:
    """What tells the table's configurations apart."""
    flat = config.flat()
    return tuple(flat[name] for name in FIELDS)


def read(path: Path = TABLE) -> dict[Key, tuple[Epoch, ...]]:
    """The complete curves in the table, by configuration."""
    known = {tuple(str(value) for value in key_of(config)): key_of(config) for config in SPACE.all()}
    found: dict[Key, dict[int, Epoch]] = {}
    if path.exists():
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                key = known.get(tuple(row[name] for name in FIELDS))
                if key is not None:
                    values = (float(row[name]) for name in (*METRICS, "cpu_seconds"))
                    found.setdefault(key, {})[int(row["epoch"])] = Epoch(int(row["epoch"]), *values)
    last = SPACE.default().train.epochs
    whole = {key: rows for key, rows in found.items() if sorted(rows) == list(range(1, last + 1))}
    return {key: tuple(rows[epoch] for epoch in sorted(rows)) for key, rows in whole.items()}


def missing(path: Path = TABLE) -> list[TrialConfig]:
    """The configurations without a complete curve, in the order in which they are recorded."""
    held = read(path)
    every = list(SPACE.all())
    random.Random(0).shuffle(every)
    return [config for config in every if key_of(config) not in held]


def record(config: TrialConfig) -> list[Epoch]:
    """Train one configuration and measure its curve."""
    import torch

    from cpcnn_core import data
    from cpcnn_core.train import fit

    torch.set_num_threads(1)
    dataset = data.load(config.data)
    curve = []
    with tempfile.TemporaryDirectory(prefix="cpcnn-curve-") as folder:
        before = time.process_time()
        for metrics in fit(config, dataset, Path(folder)):
            now = time.process_time()
            assert metrics.val_acc is not None
            assert metrics.val_bpd is not None
            curve.append(Epoch(metrics.epoch, metrics.val_acc, metrics.val_bpd, now - before))
            before = now
    return curve


def append(config: TrialConfig, curve: list[Epoch], path: Path = TABLE) -> None:
    """Add a curve to the table in one write, so that a kill leaves all of it or a part that `read` passes over."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists():
        writer.writerow(_COLUMNS)
    elif not path.read_bytes().endswith(b"\n"):
        text.write("\n")
    for epoch in curve:
        numbers = (f"{epoch.val_acc:.6f}", f"{epoch.val_bpd:.5f}", f"{epoch.cpu_seconds:.3f}")
        writer.writerow((*key_of(config), epoch.epoch, *numbers))
    with path.open("a", newline="") as stream:
        stream.write(text.getvalue())
        stream.flush()
        os.fsync(stream.fileno())


def main(
    jobs: Annotated[int, typer.Option(min=1, help="How many to train at a time, one core each.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Record at most so many, and stop.")] = None,
    table: Annotated[Path, typer.Option(help="The table to complete.")] = TABLE,
) -> None:
    """Complete the table."""
    left = missing(table)
    total = int(SPACE.size)
    print(f"{total - len(left)} of {total} configurations are recorded in {table}")
    chosen = left[:limit]
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(record, config): config for config in chosen}
        for count, done in enumerate(as_completed(running), start=1):
            config, curve = running[done], done.result()
            append(config, curve, table)
            pairs = zip(FIELDS, key_of(config), strict=True)
            settings = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in pairs)
            seconds = sum(epoch.cpu_seconds for epoch in curve)
            best = max(epoch.val_acc for epoch in curve)
            print(f"[{count}/{len(chosen)}] {settings}: val_acc {best:.4f}, {seconds:.0f} CPU s", flush=True)


if __name__ == "__main__":
    typer.run(main)
