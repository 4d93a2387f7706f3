"""How long `cpcnn --help` and the help of each command take, beside importing what any such page is drawn with.

    python -m benchmarks.startup [--turns 10]

Each is a process of its own, in turns; its seconds are those of the processor, which other processes do not add to, and
the least of all turns counts.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figure import Asked, Figure
from orchestrator.cpcnn import listed

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

# typer draws a page with the parts of rich that it imports there.
BASELINE = [sys.executable, "-c", "import typer, typer.rich_utils"]


def commands() -> dict[str, list[str]]:
    """What is typed, by how the table calls it."""
    ours = [sys.executable, "-m", "orchestrator.cpcnn"]
    inner = [("trial", name) for name in ("run", "continue", "import", "sample", "look", "replay")]
    typed = [(), *((name,) for name in listed()), *inner]
    return {" ".join(["cpcnn", *names, "--help"]): [*ours, *names, "--help"] for names in typed}


def seconds(command: list[str]) -> float:
    """Seconds of the processor that a process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "80"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(turns: int) -> tuple[float, dict[str, float]]:
    """The least seconds of the baseline, and of each command."""
    every = commands()
    taken = [{name: seconds(command) for name, command in {"": BASELINE, **every}.items()} for _ in range(turns)]
    least = {name: min(turn[name] for turn in taken) for name in taken[0]}
    return least.pop(""), least


def figures(asked: Asked) -> list[Figure]:
    """The slowest page, beside the baseline."""
    baseline, taken = measured(3 if asked.short else 10)
    slowest = max(taken, key=lambda name: taken[name])
    return [
        Figure(f"time of `{slowest}`, the slowest", taken[slowest] / baseline, "importing typer and rich", "smaller")
    ]


@app.command()
def main(turns: Annotated[int, typer.Option(min=1, help="How often each is run.")] = 10) -> None:
    """Print the table."""
    baseline, taken = measured(turns)
    table = Table("command", "seconds", "ratio", title=f"importing typer and rich: {baseline:.3f} s")
    for name, took in taken.items():
        table.add_row(name, f"{took:.3f}", f"{took / baseline:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    app()
