"""`python -m orchestrator.sweep SPACE`: run a sweep, or resume it; then say which trial was best."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator.choosing import asked as asking
from orchestrator.machines import cluster_file, launch
from orchestrator.machines.cluster import ClusterError
from orchestrator.objectives.objective import ParetoObjective
from orchestrator.records import ranking
from orchestrator.records.location import spelled
from orchestrator.records.states import reason_of
from orchestrator.search import samplers, space
from orchestrator.search.budget import Budget
from orchestrator.text import calling
from orchestrator.tune import driver
from orchestrator.tune.dry_run import show as dry_run_of
from orchestrator.tune.plan import Plan
from orchestrator.views import leaderboard, tracking
from orchestrator.views.progress import Progress

app = cli.command()


def _check_cluster(file: Path | None) -> None:
    if file is None:
        return
    with cli.plain_errors():
        problems = cluster_file.problems(file, here=Path.cwd())
        if problems:
            raise ClusterError("\n".join([f"{file} will not do as it is:", *(f"  {problem}" for problem in problems)]))
        head, most = cluster_file.prices(cluster_file.load(file))
    console = cli.console()
    console.print(f"{file} will do.", highlight=False, soft_wrap=True)
    if most:
        text = f"An hour costs {head:.2f} while nothing runs and {most:.2f} with all the workers that may come."
        console.print(text, highlight=False, soft_wrap=True)
    raise typer.Exit


def _submit(console: Console, context: typer.Context, plan: Plan, address: str, space_file: Path) -> None:
    options = [*_typed(context), "--address", "auto"]
    settings = context.params["given"] or ()
    job = launch.submit(address, space_file, options, name=plan.name, results=plan.results, settings=settings)
    console.print(f"The cluster runs it as job {job}; this machine may be switched off.", highlight=False)
    for verb in (["logs", "--follow"], ["status"], ["stop"]):
        command = shlex.join(["uv", "run", "ray", "job", *verb, "--address", address, job])
        console.print(f"  {command}", soft_wrap=True, highlight=False)


def _typed(context: typer.Context) -> list[str]:
    """The options that the command was given, those that say where it runs apart."""
    options: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name)
        if given is None or given.name != "COMMANDLINE" or name in {"space_file", "address", "submit"}:
            continue
        value, option = context.params[name], parameter.opts[0]
        if value is True:
            options.append(option)
        else:
            for each in value if isinstance(value, list | tuple) else (value,):
                options += [option, str(each)]
    return options


@app.command()
def main(
    context: typer.Context,
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
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run the trials that FAILED again, each from its last checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the sweep would cost, and do not run it.")
    ] = False,
    cluster: Annotated[
        Path | None,
        typer.Option(
            parser=cli.local, metavar="FILE", help="With --dry-run: what it would cost on the cluster of FILE."
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, HOST:PORT or auto; RAY_ADDRESS. None: a Ray of our own.")
    ] = None,
    submit: Annotated[
        str | None, typer.Option(metavar="URL", help="Have a cluster run all this as a job, http://127.0.0.1:8265.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="On a cluster: stop when its nodes have cost so much.")
    ] = None,
    pending_minutes: Annotated[
        float, typer.Option(min=0, help="On a cluster: stop where no trial finds a place for so long.")
    ] = 30,
    wandb: cli.WandbOption = None,
    tensorboard: cli.TensorBoardOption = False,
    check_cluster: Annotated[  # noqa: ARG001 - it has done its work
        Path | None,
        typer.Option(
            parser=cli.local,
            metavar="FILE",
            callback=_check_cluster,
            is_eager=True,
            help="Only say what is wrong with FILE.",
        ),
    ] = None,
) -> None:
    """Search SPACE. The same command again resumes the sweep where it was stopped or killed."""
    console = cli.console()
    with cli.plain_errors(), cli.stoppable():
        asked = space.read(space_file, given or (), seed=seed, sampler=sampler)
        asked = replace(asked, schedule=asked.schedule.named(scheduler))
        plan = Plan(
            name=cli.folder_name(space_file.stem if name is None else name),
            space=asked,
            results=results,
            trials=trials or asked.trials,
            seed=seed,
            warm_start=tuple(warm_start or ()),
            budget=Budget(hours, gpu_hours),
            extend=extend,
            retry_failed=retry_failed,
            pending_minutes=pending_minutes,
            max_cost=max_cost,
        )
        if dry_run:
            dry_run_of(console, plan, cluster)
            return
        if cluster is not None:
            raise ClusterError("--cluster: goes with --dry-run; --address and --submit run a sweep on a cluster")
        if submit is not None:
            _submit(console, context, plan, submit, space_file)
            return
        if address is not None:
            os.environ["RAY_ADDRESS"] = launch.check_address(address)
        with Progress(console, asked.objective, asked.searched, total=plan.trials) as view:
            outcome = driver.run(
                plan,
                view,
                beside=lambda: tracking.following(plan.store, wandb=wandb, tensorboard=tensorboard, say=console.print),
            )
    if outcome.interrupted:
        console.print(f"Stopped after {outcome.finished} of {plan.trials} trials. To go on where they stand:")
        console.print(f"  {calling.same()}", soft_wrap=True, highlight=False)
        raise typer.Exit(cli.STOPPED)
    if outcome.spent:
        console.print(
            f"{outcome.spent} are over after {outcome.finished} of {plan.trials} trials; a larger number goes on.",
            highlight=False,
        )
    show(console, plan)


def show(console: Console, plan: Plan) -> None:
    """Print the leaderboard and the next command to type. Exit with an error where no trial came to a good end."""
    entries, problems = ranking.read([plan.store])
    found = asking.parted(entries, plan.store.read_sweep() or {})
    entries = found.own
    for problem in problems:
        console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
    objective = plan.space.objective
    ranked = ranking.ranked(entries, objective)
    if isinstance(objective, ParetoObjective):
        console.print(leaderboard.front_table(ranking.front(entries, objective), objective))
    else:
        console.print(leaderboard.table(ranked, objective))
    if found.others:
        console.print(f"Not in the table: {found.besides} in {plan.store.folder}", soft_wrap=True, highlight=False)
    if ranked and not ranked[0].meaning.failed and ranked[0].best(objective, kept=True) is not None:
        where = [] if plan.results == Path("results") else ["--results", spelled(plan.results)]
        only = ["--where", found.only_own] if found.others else []
        following = calling.again(
            "orchestrator.best", "--metric", objective.column, "--sweep", plan.name, *only, *where
        )
        console.print("Next, check and export the winner:")
        console.print(f"  {following}", soft_wrap=True, highlight=False)
    failed = [entry for entry in entries if entry.meaning.failed]
    if failed:
        console.print(
            f"{len(failed)} of {len(entries)} trials FAILED; `status` says why. To run them again once that is mended:",
            highlight=False,
        )
        retrying = calling.same() if "--retry-failed" in sys.argv else f"{calling.same()} --retry-failed"
        console.print(f"  {retrying}", soft_wrap=True, highlight=False)
    if not any(entry.meaning.ended and not entry.meaning.failed for entry in entries):
        reasons = [f"the last one that failed: {reason_of(failed[-1].trial)}"] if failed else []
        cli.fail("; ".join([f"{plan.store.folder}: no trial has completed", *reasons]), cli.FAILED)


if __name__ == "__main__":
    cli.run(app)
