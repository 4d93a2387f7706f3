"""The ratios of every benchmark in one table, each with what it is taken against.

    python -m benchmarks.all [--short] [--only NAME] [--root PATH] [--out FILE]

With --short, each does the least that still says something: some minutes in all, and ratios that are good to a tenth or
so. Without, each does what it does by itself. Every benchmark runs in a process of its own, one after another.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import (
    choosing,
    class_loss,
    classification,
    compiled,
    cpu_hour,
    data_cache,
    dry_run,
    evaluation,
    fid,
    fusions,
    kernels,
    overhead,
    protocol,
    sampling,
    search,
    startup,
    store,
    training,
)
from benchmarks.figure import Asked, Figure, NotMeasuredError
from benchmarks.timing import machine

BENCHMARKS: dict[str, Callable[[Asked], list[Figure]]] = {
    "training": training.figures,
    "class_loss": class_loss.figures,
    "classification": classification.figures,
    "evaluation": evaluation.figures,
    "sampling": sampling.figures,
    "fid": fid.figures,
    "compiled": compiled.figures,
    "kernels": kernels.figures,
    "search": search.figures,
    "choosing": choosing.figures,
    "overhead": overhead.figures,
    "store": store.figures,
    "startup": startup.figures,
    "dry_run": dry_run.figures,
    "data_cache": data_cache.figures,
    "fusions": fusions.figures,
    "protocol": protocol.figures,
    "cpu_hour": cpu_hour.figures,
}
WITHOUT_FIGURES = {"record_curves": "records what `search` replays"}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def row(benchmark: str, figure: Figure) -> tuple[str, ...]:
    """The cells of one figure."""
    better = "" if figure.better == "larger" else "smaller is better"
    return benchmark, figure.name, f"{figure.ratio:.4g}", figure.baseline, better


def write(out: Path, figures: list[tuple[str, Figure]]) -> None:
    """The figures as CSV or JSON, by the file's ending."""
    rows: list[dict[str, Any]] = [{"benchmark": benchmark, **asdict(figure)} for benchmark, figure in figures]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as stream:
        if out.suffix == ".csv":
            writer = csv.DictWriter(stream, ["benchmark", *Figure.__dataclass_fields__])
            writer.writeheader()
            writer.writerows(rows)
        else:
            json.dump(rows, stream, indent=1)


@app.command()
def main(
    short: Annotated[bool, typer.Option("--short", help="The least that says something: minutes.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="One of the benchmarks; may be repeated.")] = None,
    root: Annotated[Path | None, typer.Option(help="The cpen455 folder, for what needs it.")] = None,
    out: Annotated[Path | None, typer.Option(help="A CSV or JSON file, by its ending.")] = None,
) -> None:
    """Measure, and print one table. Exit code 1 where a benchmark failed."""
    if unknown := set(only or ()) - set(BENCHMARKS):
        raise typer.BadParameter(f"{min(unknown)}: there are {', '.join(BENCHMARKS)}", param_hint="--only")
    if out is not None and out.suffix not in {".csv", ".json"}:
        raise typer.BadParameter(f"{out}: must end in .csv or .json", param_hint="--out")
    console = Console(width=140)
    table = Table("benchmark", "figure", "ratio", "against", "", title=f"{'short, ' if short else ''}{machine()}")
    figures: list[tuple[str, Figure]] = []
    failed = False
    for name in only or BENCHMARKS:
        started = time.perf_counter()
        try:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                measured = process.submit(BENCHMARKS[name], Asked(short, root)).result()
        except NotMeasuredError as error:
            table.add_row(name, "not measured", "-", str(error), "")
            continue
        except Exception as error:  # noqa: BLE001 - the others say what they say all the same
            failed = True
            table.add_row(name, "failed", "-", f"{type(error).__name__}: {error}", "")
            continue
        figures += [(name, figure) for figure in measured]
        for figure in measured:
            table.add_row(*row(name, figure))
            console.print(*row(name, figure), style="dim", highlight=False)  # for a run that is stopped
        console.print(f"{name} took {time.perf_counter() - started:.0f} s", style="dim", highlight=False)
        if out is not None:
            write(out, figures)
    console.print(table)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
