"""How long `best` takes to answer over a million epochs, and how much memory.

    python -m benchmarks.store [--trials 10000] [--epochs 100]

Writes the tables of such a sweep as the driver leaves them, compacted, then runs the command in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import typer

from benchmarks.figure import Asked, Figure
from cpcnn_core.config import TrialConfig
from orchestrator.records.columns import ATTEMPT_COLUMNS, EPOCH_COLUMNS, TIME, config_columns
from orchestrator.records.layout import COMPACTED
from orchestrator.records.store import Store

IMPORTS = (
    "from orchestrator.choosing import decision, pinned, selection, where; from orchestrator.views import standings"
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def write(store: Store, trials: int, epochs: int) -> None:
    """Tables of so many trials of so many epochs each, with random values."""
    store.create()
    rng = np.random.default_rng(0)
    ids = np.array(sorted(f"{number:012x}" for number in rng.choice(2**48, trials, replace=False)))
    N = trials * epochs
    flat = TrialConfig().flat()

    def column(name: str, kind: pa.DataType, rows: int, constants: dict[str, Any]) -> pa.Array:
        if name in constants:
            return (
                pa.array(constants[name], kind)
                if not np.isscalar(constants[name])
                else pa.repeat(constants[name], rows).cast(kind)
            )
        if kind == TIME:
            return pa.repeat(0, rows).cast(kind)
        if flat.get(name) is not None:
            return pa.repeat(flat[name], rows).cast(kind)
        return pa.nulls(rows, kind)

    def table(columns: dict[str, pa.DataType], rows: int, constants: dict[str, Any]) -> pa.Table:
        return pa.table({name: column(name, kind, rows, constants) for name, kind in columns.items()})

    attempts = {
        "trial_id": ids, "attempt": 1, "state": "COMPLETE", "device": "cpu", "epochs": epochs,
        "model.nr_filters": rng.choice([40, 80, 120], trials), "train.lr": rng.uniform(1e-4, 1e-2, trials),
    }  # fmt: skip
    pq.write_table(table(ATTEMPT_COLUMNS | config_columns(), trials, attempts), store.trials_folder / COMPACTED)
    epoch = np.tile(np.arange(1, epochs + 1), trials)
    names = np.repeat(ids, epochs)
    kept = [
        f"checkpoints/{name}/weights-{at:04d}.safetensors" if at >= epochs - 2 else None
        for name, at in zip(names, epoch, strict=True)
    ]
    measured = {name: rng.random(N) for name, kind in EPOCH_COLUMNS.items() if kind == pa.float64()}
    values = measured | {
        "trial_id": names, "attempt": 1, "epoch": epoch, "checkpoint": kept, "fid_extractor": "classifier-00000000",
        "fid_images": 100, "fid_reference": "digits/validation-00000000",
    }  # fmt: skip
    pq.write_table(table(EPOCH_COLUMNS, N, values), store.epochs_folder / COMPACTED)


def figures(asked: Asked) -> list[Figure]:
    """What `best` takes beyond its start, and per epoch."""
    trials = 500 if asked.short else 10_000
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), trials, 100)
        asking = [sys.executable, "-m", "orchestrator.best"]
        start = spent([sys.executable, "-c", IMPORTS])["processor_seconds"]
        whole = spent([*asking, "--results", folder, "--no-export", "--metric", "val_acc"])["processor_seconds"]
    return [Figure(f"`best` over {100 * trials:,} epochs", whole / start, "importing what it uses", "smaller")]


def written(folder: Path, trials: int, epochs: int) -> None:
    """Write a sweep in a process of its own: memory of this one would be counted to those that it starts."""
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(Store(folder / "large"), trials, epochs))
    writer.start()
    writer.join()


def spent(command: list[str]) -> dict[str, float]:
    """Wall time, processor time and peak memory of a command that succeeds."""
    begun, before = time.perf_counter(), os.times()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    after = os.times()
    return {
        "seconds": time.perf_counter() - begun,
        "processor_seconds": after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


@app.command()
def main(
    trials: Annotated[int, typer.Option(min=1)] = 10_000,
    epochs: Annotated[int, typer.Option(min=1)] = 100,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/store.json"),
) -> None:
    """Write, ask, and report wall time, processor time and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), trials, epochs)
        best = [sys.executable, "-m", "orchestrator.best", "--results", folder, "--no-export", "--metric"]
        measured = {
            " ".join(asked): spent([*best, *asked])
            for asked in (["val_acc"], ["val_acc", "--where", "fid <= 0.5 and model.nr_filters < 100"])
        }
    print(json.dumps(measured, indent=1))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    app()
