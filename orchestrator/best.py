"""`python -m orchestrator.best --metric val_acc`: choose a checkpoint from the tables, check it, export it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from cpcnn_core.metrics import DIRECTIONS
from cpcnn_core.suggest import nearest
from orchestrator import command_line as cli
from orchestrator import leaderboard
from orchestrator.export import METRICS, ExportError, MismatchError, export
from orchestrator.leaderboard import Entry
from orchestrator.objective import Objective
from orchestrator.progress import plain
from orchestrator.space import parse_settings
from orchestrator.store import Store, sweeps

app = cli.command()


class ChoiceError(Exception):
    """Nothing that could be chosen."""


@app.command()
def main(
    metric: Annotated[str, typer.Option(help="The column of `epochs` to choose by.")],
    results: cli.Results = Path("results"),
    sweep: Annotated[str | None, typer.Option(help="The sweep to choose from; all of them.")] = None,
    mode: Annotated[Literal["max", "min"] | None, typer.Option(help="Which way is better; the metric's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to export to; one within the sweep's folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that exists.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many trials to print.")] = 10,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.root=PATH", help="Where the data lies now.")
    ] = None,
) -> None:
    """Print the top of the table; export the winner's weights, configuration and metrics."""
    console = cli.console()
    with cli.plain_errors(ChoiceError):
        settings = parse_settings(given or ())
        if set(settings) - {"data.root"}:
            raise ChoiceError(f"--set {', '.join(settings)}: only data.root can be set here")
        entries, problems = leaderboard.read(chosen_sweeps(results, sweep))
        for problem in problems:
            console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
        objective = objective_of(metric, mode, entries)
        comparable(entries)
        ranked = leaderboard.ranked(entries, objective)
        console.print(leaderboard.table(ranked, objective, top=top))
        winner, note = choose(entries, objective)
        if note:
            console.print(note, soft_wrap=True, highlight=False)
    epoch = winner.best(objective, kept=True)
    assert epoch is not None
    name = f"{metric}-{winner.trial_id}-{epoch['epoch']:04d}"
    try:
        with cli.plain_errors():
            done = export(
                winner,
                epoch,
                metric,
                out or winner.store.folder / "exports" / name,
                force=force,
                data_root=settings.get("data.root"),
            )
    except MismatchError as error:
        cli.fail(str(error), cli.FAILED)
    except ExportError as error:
        cli.fail(str(error), cli.BAD_INPUT)
    else:
        compared = done.checked.get(metric)
        agreed = f": {metric} {compared[0]:.6f} recorded, {compared[1]:.6f} measured again" if compared else ""
        console.print(f"Exported epoch {epoch['epoch']} of trial {winner.trial_id}{agreed}.", highlight=False)
        console.print(f"  {done.folder} (weights, configuration, {METRICS})", soft_wrap=True, highlight=False)


def chosen_sweeps(results: Path, name: str | None) -> list[Store]:
    """The sweep called `name`, or all of them. Raise ChoiceError where there is none."""
    found = {store.folder.name: store for store in sweeps(results)}
    if not found:
        raise ChoiceError(
            f"{results}: holds no sweep; {cli.again('orchestrator.sweep', 'search_spaces/digits.py')} runs one"
        )
    if name is None:
        return list(found.values())
    if name not in found:
        raise ChoiceError(f"--sweep {name}: no such sweep in {results}{nearest(name, found)}")
    return [found[name]]


def objective_of(metric: str, mode: Literal["max", "min"] | None, entries: Sequence[Entry]) -> Objective:
    """The metric with its direction. Raise ChoiceError where no table has it, or nobody knows its direction."""
    columns = {
        name: None
        for entry in entries
        for row in entry.epochs
        for name, value in row.items()
        if isinstance(value, float) or name in DIRECTIONS
    }
    if not columns:
        raise ChoiceError("no trial has finished an epoch yet")
    if metric not in columns:
        raise ChoiceError(f"--metric {metric}: no such metric{nearest(metric, columns)}")
    if mode is None and metric not in DIRECTIONS:
        raise ChoiceError(f"--metric {metric}: which way is it better? Give --mode max or --mode min")
    return Objective(metric, mode or ("max" if DIRECTIONS[metric] == "max" else "min"))


_DATA = ("data.name", "data.image_size", "data.channels", "data.quantize")


def comparable(entries: Sequence[Entry]) -> None:
    """Raise ChoiceError where the trials were measured on different data."""
    kinds: dict[tuple[object, ...], set[str]] = {}
    for entry in entries:
        kinds.setdefault(tuple(entry.trial[key] for key in _DATA), set()).add(entry.store.folder.name)
    if len(kinds) > 1:
        listed = "; ".join(
            f"{', '.join(sorted(names))}: "
            + ", ".join(f"{key}={plain(value)}" for key, value in zip(_DATA, data, strict=True))
            for data, names in kinds.items()
        )
        raise ChoiceError(
            f"these trials saw different data, which no metric compares ({listed}); choose a sweep with --sweep, and "
            "give trials of other data a folder of their own with --name"
        )


def choose(entries: Sequence[Entry], objective: Objective) -> tuple[Entry, str | None]:
    """The trial with the best epoch whose weights are on disk, and a note where a better epoch's are not.

    Raise ChoiceError where the metric is null everywhere, or no weights were kept.
    """
    best = leaderboard.ranked(entries, objective)[0]
    top = best.best(objective)
    if top is None:
        raise ChoiceError(f"--metric {objective.metric}: null in every epoch of every trial; nothing to choose by")
    winner = leaderboard.ranked(entries, objective, kept=True)[0]
    chosen = winner.best(objective, kept=True)
    if chosen is None:
        raise ChoiceError(f"no epoch with a {objective.metric} has its weights on disk any more; nothing to export")
    held, wanted = objective.value(chosen), objective.value(top)
    if held == wanted:
        return winner, None
    return winner, (
        f"The very best, {objective.metric} {wanted:.4f} in epoch {top['epoch']} of {best.trial_id}, was not kept; "
        f"the best that was: {held:.4f} in epoch {chosen['epoch']} of {winner.trial_id}."
    )


if __name__ == "__main__":
    app()
