"""`python -m orchestrator.sweep SPACE`: run a sweep, or resume it; then say which trial was best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator import driver, leaderboard, planning, samplers, space
from orchestrator.budget import Budget
from orchestrator.objective import ParetoObjective
from orchestrator.progress import Progress
from orchestrator.resources import ResourcesError
from orchestrator.scheduling import ScheduleError
from orchestrator.study import StudyError

app = cli.command()


@app.command()
def main(
    space_file: cli.SpaceFile,
    trials: Annotated[int | None, typer.Option(min=1, help="How many configurations; the space's `trials`.")] = None,
    given: cli.Settings = None,
    results: cli.Results = Path("results"),
    name: Annotated[str | None, typer.Option(help="The sweep's name; the space file's.")] = None,
    seed: cli.Seed = 0,
    sampler: Annotated[
        str | None, typer.Option(help=f"What chooses: {', '.join(samplers.SAMPLERS)}; the space's `sampler`.")
    ] = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option("--warm-start", metavar="SWEEP", help="An earlier sweep to learn from. May be repeated."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Who stops trials early: asha, promote, median or none; the space's `scheduler`.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="End after so many hours of work, those of earlier runs included.")
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(min=0, help="The same, counting each GPU that a trial holds.")
    ] = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Go on with a sweep whose space has grown since: more options, wider bounds."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the sweep would cost, and do not run it.")
    ] = False,
) -> None:
    """Search SPACE. The same command again resumes the sweep where it was stopped or killed."""
    console = cli.console()
    with cli.plain_errors(driver.SweepError, StudyError, ScheduleError, ResourcesError):
        asked = space.read(space_file, given or (), seed=seed, sampler=sampler)
        asked = replace(asked, schedule=asked.schedule.named(scheduler))
        plan = driver.Plan(
            name=cli.folder_name(name or space_file.stem),
            space=asked,
            results=results,
            trials=trials or asked.trials,
            seed=seed,
            warm_start=tuple(warm_start or ()),
            budget=Budget(hours, gpu_hours),
            extend=extend,
        )
        if dry_run:
            planning.show(console, plan)
            return
        with Progress(console, asked.objective, asked.searched, total=plan.trials) as view:
            outcome = driver.run(plan, view)
    if outcome.interrupted:
        console.print(f"Stopped after {outcome.finished} of {plan.trials} trials. To go on where they stand:")
        console.print(f"  {cli.same()}", soft_wrap=True, highlight=False)
        raise typer.Exit(cli.STOPPED)
    if outcome.spent:
        console.print(
            f"{outcome.spent} are over after {outcome.finished} of {plan.trials} trials; a larger number goes on.",
            highlight=False,
        )
    show(console, plan)


def show(console: Console, plan: driver.Plan) -> None:
    """Print the leaderboard and the next command to type."""
    entries, problems = leaderboard.read([plan.store])
    for problem in problems:
        console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
    objective = plan.space.objective
    ranked = leaderboard.ranked(entries, objective)
    if isinstance(objective, ParetoObjective):
        console.print(leaderboard.front_table(leaderboard.front(entries, objective), objective))
    else:
        console.print(leaderboard.table(ranked, objective))
    if ranked and ranked[0].best(objective, kept=True) is not None:
        where = [] if plan.results == Path("results") else ["--results", str(plan.results)]
        following = cli.again("orchestrator.best", "--metric", objective.column, "--sweep", plan.name, *where)
        console.print("Next, check and export the winner:")
        console.print(f"  {following}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    app()
