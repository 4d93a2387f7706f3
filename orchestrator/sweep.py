"""`cpcnn sweep SPACE`: run a sweep, or resume it; then say which trial was best."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator.text import calling

if TYPE_CHECKING:
    from orchestrator.search.space import SearchSpace
    from orchestrator.tune.plan import Outcome, Plan
    from orchestrator.views import tracking

app = cli.command()


@cli.plain_errors()
def _check_cluster(file: Path | None) -> None:
    if file is None:
        return
    from orchestrator.machines import cluster_file

    head, most = cluster_file.check(file, here=Path.cwd())
    console = cli.console()
    console.print(f"{file} will do.", highlight=False, soft_wrap=True)
    if most:
        text = f"An hour costs {head:.2f} while nothing runs and {most:.2f} with all the workers that may come."
        console.print(text, highlight=False, soft_wrap=True)
    if unknown := cluster_file.unknown(file):
        console.print("Nobody can know from here:", highlight=False)
        for line in unknown:
            console.print(f"  - {line}", highlight=False, soft_wrap=True)
    raise typer.Exit


Trials = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=cli.SPACE_PANEL,
        show_default="the space's trials, else 16",
        help="How many configurations to try.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=cli.RESULTS_PANEL,
        show_default="the space's name, and the preset's",
        help="The sweep's name, and its folder in RESULTS.",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=cli.SEARCH_PANEL,
        show_default="the space's sampler, else tpe",
        help="What chooses configurations: tpe, random, grid, nsga2 or gp.",
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        "--objective",
        rich_help_panel=cli.SPACE_PANEL,
        show_default="the space's objective",
        help="What to optimise, in a space file's words, as val_acc.",
    ),
]
WarmStart = Annotated[
    list[str] | None,
    typer.Option(
        "--warm-start",
        metavar="SWEEP",
        rich_help_panel=cli.SEARCH_PANEL,
        show_default="none",
        help="An earlier sweep to learn from. May be repeated.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=cli.SEARCH_PANEL,
        show_default="the space's scheduler, else asha",
        help="Who stops trials early: asha, promote, median or none.",
    ),
]
Hours = Annotated[
    float | None,
    typer.Option(
        min=0,
        rich_help_panel=cli.LIMITS_PANEL,
        show_default="no limit",
        help="End after so many hours of work, those of earlier runs included.",
    ),
]
GpuHours = Annotated[
    float | None,
    typer.Option(
        min=0,
        rich_help_panel=cli.LIMITS_PANEL,
        show_default="no limit",
        help="The same, counting each GPU that a trial holds.",
    ),
]
Extend = Annotated[
    bool,
    typer.Option(
        "--extend",
        rich_help_panel=cli.AGAIN_PANEL,
        show_default="refuse another space",
        help="Go on with a sweep whose space has grown since: more options, wider bounds.",
    ),
]
Disk = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        rich_help_panel=cli.LIMITS_PANEL,
        show_default="no limit",
        help="As 5GB: what checkpoints may take; the least valuable go first.",
    ),
]
MoreEpochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=cli.AGAIN_PANEL,
        show_default="none",
        help="Once the sweep has finished: let its COMPLETE trials go on for so many more.",
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        rich_help_panel=cli.AGAIN_PANEL,
        show_default="leave them",
        help="Run the trials that FAILED again, each from its last checkpoint.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=cli.LIMITS_PANEL,
        show_default="run it",
        help="Say what the sweep would cost, and do not run it.",
    ),
]
ClusterFile = Annotated[
    Path | None,
    typer.Option(
        parser=cli.local,
        metavar="FILE",
        rich_help_panel=cli.CLUSTER_PANEL,
        show_default="this machine",
        help="With --dry-run: what it would cost on the cluster of FILE.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=cli.CLUSTER_PANEL,
        show_default="RAY_ADDRESS, else a Ray of our own",
        help="A running Ray cluster, HOST:PORT or auto.",
    ),
]
Submit = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=cli.CLUSTER_PANEL,
        show_default="run it from here",
        help="Have a cluster run all this as a job, http://127.0.0.1:8265.",
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        min=0,
        rich_help_panel=cli.CLUSTER_PANEL,
        show_default="no limit",
        help="On a cluster: stop when its nodes have cost so much.",
    ),
]
PendingMinutes = Annotated[
    float,
    typer.Option(
        min=0,
        rich_help_panel=cli.CLUSTER_PANEL,
        help="On a cluster: stop where no trial finds a place for so long.",
    ),
]
CheckCluster = Annotated[
    Path | None,
    typer.Option(
        parser=cli.local,
        metavar="FILE",
        callback=_check_cluster,
        is_eager=True,
        rich_help_panel=cli.CLUSTER_PANEL,
        show_default="none",
        help="Only say what is wrong with FILE.",
    ),
]


@app.command(
    epilog=cli.examples(
        "sweep digits",
        "sweep cpen455 --preset cpu --set data.root=PATH --hours 2",
    )
)
@cli.plain_errors()
@cli.stoppable()
def main(
    context: typer.Context,
    space_file: cli.SpaceFile,
    trials: Trials = None,
    preset: cli.Preset = None,
    given: cli.Settings = None,
    objective: ObjectiveOption = None,
    seed: cli.Seed = 0,
    sampler: Sampler = None,
    scheduler: Scheduler = None,
    warm_start: WarmStart = None,
    hours: Hours = None,
    gpu_hours: GpuHours = None,
    disk: Disk = None,
    dry_run: DryRun = False,
    extend: Extend = False,
    more_epochs: MoreEpochs = None,
    retry_failed: RetryFailed = False,
    results: cli.Results = Path("results"),
    name: Name = None,
    plain: cli.PlainOption = False,
    wide: cli.WideOption = False,
    wandb: cli.WandbOption = None,
    tensorboard: cli.TensorBoardOption = False,
    tracker: cli.TrackerOption = None,
    address: Address = None,
    submit: Submit = None,
    cluster: ClusterFile = None,
    max_cost: MaxCost = None,
    pending_minutes: PendingMinutes = 30,
    check_cluster: CheckCluster = None,  # noqa: ARG001 - it has done its work
) -> None:
    """Search SPACE. The same command again resumes the sweep where it was stopped or killed."""
    console = cli.console()
    with cli.doing(console, f"Reading {space_file.stem}", plain=plain):
        from orchestrator.records.room import parse_size
        from orchestrator.search import shipped
        from orchestrator.search.budget import Budget
        from orchestrator.tune.plan import Plan
        from orchestrator.views import tracking

    trackers = tracking.asked(tracker or (), wandb=wandb, tensorboard=tensorboard)
    asked = _asked(space_file, given, objective, scheduler, preset=preset, seed=seed, sampler=sampler)
    plan = Plan(
        name=cli.folder_name(shipped.sweep_name(space_file, preset) if name is None else name),
        space=asked,
        results=results,
        trials=trials or asked.trials,
        seed=seed,
        warm_start=tuple(warm_start or ()),
        budget=Budget(hours, gpu_hours),
        extend=extend,
        more_epochs=more_epochs,
        disk=None if disk is None else parse_size(disk),
        retry_failed=retry_failed,
        pending_minutes=pending_minutes,
        max_cost=max_cost,
    )
    if dry_run or cluster is not None:
        _estimate(console, plan, cluster, dry_run=dry_run)
    elif submit is not None:
        _submit(console, context, plan, submit, space_file)
    else:
        _run(console, plan, address, trackers, plain=plain, wide=wide)


def _asked(
    space_file: Path,
    given: list[str] | None,
    objective: str | None,
    scheduler: str | None,
    *,
    preset: str | None,
    seed: int,
    sampler: str | None,
) -> SearchSpace:
    """What SPACE asks, and what the options say otherwise. Raise SpaceError, ScheduleError, ObjectiveError."""
    from orchestrator.objectives import words
    from orchestrator.search import space

    wanted = None if objective is None else words.read(objective)
    asked = space.read(space_file, given or (), preset=preset, seed=seed, sampler=sampler, objective=wanted)
    return asked.scheduled(scheduler)


def _estimate(console: Console, plan: Plan, cluster: Path | None, *, dry_run: bool) -> None:
    """Say what the sweep would cost. Raise ClusterError where nobody asked for that alone."""
    if not dry_run:
        from orchestrator.machines.cluster import ClusterError

        raise ClusterError("--cluster: goes with --dry-run; --address and --submit run a sweep on a cluster")
    with cli.doing(console, "Importing PyTorch and Ray"):
        from orchestrator.tune import dry_run as dry_run_of
    dry_run_of.show(console, plan, cluster, partial(cli.doing, console))


def _run(
    console: Console, plan: Plan, address: str | None, trackers: tracking.Asked, *, plain: bool, wide: bool
) -> None:
    """Run the sweep and show how it ended."""
    with cli.doing(console, "Importing Optuna and PyTorch", plain=plain):
        from orchestrator.machines import launch
        from orchestrator.tune import driver
        from orchestrator.views import tracking
        from orchestrator.views.progress import Progress

    if address is not None:
        os.environ["RAY_ADDRESS"] = launch.check_address(address)
    with Progress(console, plan.space.objective, plan.space.searched, total=plan.trials, plain=plain) as view:
        outcome = driver.run(
            plan,
            view,
            beside=lambda: tracking.following(plan.store, trackers, say=view.note),
        )
    _show_why_it_ended(console, plan, outcome)
    _draw_finalists(console, plan)
    show(console, plan, wide=wide)


def _draw_finalists(console: Console, plan: Plan) -> None:
    """Make the report's pictures of the best trials while weights and data are at hand."""
    from orchestrator.training import trainer

    if plan.trainer == trainer.TRAINER:  # simulated trials have no weights
        from orchestrator.exporting import pictures

        pictures.draw_missing(plan.store, lambda text: console.print(text, soft_wrap=True, highlight=False))


def _show_why_it_ended(console: Console, plan: Plan, outcome: Outcome) -> None:
    """Say it where trials are left. Exit where the user stopped it."""
    if outcome.interrupted:
        cli.stopped(console, f"Stopped after {outcome.finished} of {plan.trials} trials. To go on where they stand:")
    if outcome.spent:
        console.print(
            f"{outcome.spent} are over after {outcome.finished} of {plan.trials} trials; a larger number goes on.",
            highlight=False,
        )


def _submit(console: Console, context: typer.Context, plan: Plan, address: str, space_file: Path) -> None:
    from orchestrator.machines import launch

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


def show(console: Console, plan: Plan, *, wide: bool = False) -> None:
    """Print the leaderboard and the next command to type. Exit with an error where no trial came to a good end."""
    from orchestrator.views import ending

    end = ending.read(plan.store, plan.space.objective)
    for problem in end.problems:
        console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
    console.print(end.table(wide=wide), soft_wrap=True)
    if end.trials.others:
        text = f"Not in the table: {end.trials.others_in_words} in {plan.store.folder}"
        console.print(text, soft_wrap=True, highlight=False)
    if (following := end.next_command(plan.results)) is not None:
        console.print("Next, check and export the winner:")
        console.print(f"  {following}", soft_wrap=True, highlight=False)
    if end.failed:
        text = f"{len(end.failed)} of {len(end.trials.own)} trials FAILED; `status` says why."
        console.print(f"{text} To run them again once that is mended:", highlight=False)
        retrying = calling.same() if "--retry-failed" in sys.argv else f"{calling.same()} --retry-failed"
        console.print(f"  {retrying}", soft_wrap=True, highlight=False)
    if end.failure is not None:
        cli.fail(end.failure, cli.FAILED)


if __name__ == "__main__":
    cli.run(app)
