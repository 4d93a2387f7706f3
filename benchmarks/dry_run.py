"""Whether the time that a sweep takes falls into the interval that `--dry-run` states before it.

    python -m benchmarks.dry_run [--data PATH] [--only NAME ...] [--trials 4]

Three spaces: digits, and, with the folder of the course's images, two sizes of cpen455's preset `cpu`. For each, the
dry run and then the sweep are the commands as a user types them, timed by the clock from start to end, in a folder that
is thrown away. The interval is from the least with as many trials stopped early as may be to the most with none. It is
for a machine that stays as busy as it was while it was measured: run this on one that does nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figure import Asked, Figure, NotMeasuredError

SMALL = ["data.train_fraction=0.05", "train.epochs=2", "eval.train_images=0", "eval.fid_images_per_class=5"]
LARGER = ["data.train_fraction=0.1", "train.epochs=3", "eval.train_images=0", "eval.fid_images_per_class=10"]
COURSE = {"cpen455, small": SMALL, "cpen455, larger": LARGER}
UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"([\d.]+) (ms|s|min|h|d)\b")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Outcome:
    """What was stated, and what it took; seconds."""

    low: float
    high: float
    dry_run: float
    taken: float

    @property
    def is_within(self) -> bool:
        return self.low <= self.taken <= self.high


def seconds(said: str) -> float:
    """The seconds of a duration such as `2 min 45 s`."""
    return sum(float(number) * UNITS[unit] for number, unit in DURATION.findall(said))


def stated(said: str) -> tuple[float, float]:
    """The interval in what a dry run prints, with early stops as far as it says them."""
    found = re.findall(r"^(?:time: | +)(.+?) to (.+?) if (?:no trial|the scheduler)", said, re.MULTILINE)
    if not found:
        raise ValueError(f"no interval in:\n{said}")
    return min(seconds(low) for low, _ in found), max(seconds(high) for _, high in found)


def spaces(data: Path | None) -> dict[str, list[str]]:
    """What `sweep` is given for each space."""
    asked = {"digits": ["digits"]}
    if data is not None:
        for name, settings in COURSE.items():
            given = [f"data.root={data.absolute()}", *settings]
            asked[name] = ["cpen455", "--preset", "cpu", *(part for each in given for part in ("--set", each))]
    return asked


def measured(asked: list[str], trials: int) -> Outcome:
    """Run both commands."""
    with tempfile.TemporaryDirectory(prefix="cpcnn-dry-run-") as folder:
        command = [sys.executable, "-m", "orchestrator.sweep", *asked, "--trials", str(trials), "--results", folder]
        said, dry = timed([*command, "--dry-run"])
        left_behind = list(Path(folder).iterdir())
        if left_behind:
            raise ValueError(f"the dry run left {left_behind[0].name}")
        _, taken = timed(command)
    return Outcome(*stated(said), dry, taken)


def timed(command: list[str]) -> tuple[str, float]:
    """What a command prints, and the seconds that it takes."""
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, time.perf_counter() - begun


def figures(asked: Asked) -> list[Figure]:
    """The time that sweeps took, beside the middle of what was stated."""
    if asked.root is None:
        raise NotMeasuredError("needs the course's images: --root PATH")
    names = ["digits"] if asked.short else list(spaces(asked.root))
    found = {name: measured(spaces(asked.root)[name], 2 if asked.short else 4) for name in names}
    return [
        Figure(f"time of a sweep of {name}", each.taken / (each.low + each.high) * 2, "the middle of what was stated")
        for name, each in found.items()
    ]


@app.command()
def main(
    data: Annotated[Path | None, typer.Option(help="The cpen455 folder; without it, digits alone.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="These spaces alone.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Of each sweep.")] = 4,
) -> None:
    """Print the table."""
    known = spaces(data)
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(known)}", param_hint="--only")
    table = Table("space", "stated", "taken", "within", "the dry run itself", title=f"{trials} trials each")
    for name, asked in known.items():
        if only and name not in only:
            continue
        each = measured(asked, trials)
        interval = f"{each.low:.0f} to {each.high:.0f} s"
        table.add_row(name, interval, f"{each.taken:.0f} s", "yes" if each.is_within else "NO", f"{each.dry_run:.0f} s")
    Console(width=100).print(table)


if __name__ == "__main__":
    app()
