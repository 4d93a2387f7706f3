"""`python -m orchestrator.best --metric val_acc`: choose a checkpoint, say how sure, check it, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator.choosing import choice, selection, where
from orchestrator.choosing.candidates import ChoiceError, Epochs
from orchestrator.choosing.judge import DEFAULT_RULE, Rule
from orchestrator.process import streams
from orchestrator.records.location import beside
from orchestrator.search.space import parse_settings
from orchestrator.text import calling
from orchestrator.text.names import identifier
from orchestrator.views import standings

if TYPE_CHECKING:
    from orchestrator.choosing.confirming import Decision, Question
    from orchestrator.tune.plan import Plan

app = cli.command()


@app.command()
def main(
    metric: Annotated[str, typer.Option(help="The column of `epochs` to choose by.")],
    results: cli.Results = Path("results"),
    sweep: cli.Sweeps = None,
    condition: Annotated[
        str, typer.Option("--where", metavar="CONDITIONS", help='As in "fid <= 30 and model.nr_filters < 100".')
    ] = "",
    mode: Annotated[Literal["max", "min"] | None, typer.Option(help="Which way is better; the metric's own.")] = None,
    rule: Annotated[Rule, typer.Option(help="How to choose; docs/choosing.md says which does what.")] = DEFAULT_RULE,
    top: Annotated[int, typer.Option(min=1, help="How many trials to print.")] = 10,
    confirm: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Train the K finalists again on new seeds, which decide.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="R", help="With --confirm: how many new seeds for each.")] = 3,
    ensemble: Annotated[
        int | None, typer.Option(min=2, metavar="K", help="Also say what averaging the K best trials would gain.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=cli.local, metavar="FOLDER", help="The folder to export to; one within the sweep's folder."
        ),
    ] = None,
    export: Annotated[bool, typer.Option("--export/--no-export", help="Whether to export the choice.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that exists.")] = False,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.root=PATH", help="Where the data lies now.")
    ] = None,
) -> None:
    """Print the best trials with how sure that is; export the choice with all that is handed in."""
    console = cli.console(stderr=as_json)
    with cli.plain_errors():
        settings = parse_settings(given or ())
        if set(settings) - {"data.root"}:
            raise ChoiceError(f"--set {', '.join(settings)}: only data.root can be set here")
        data_root = settings.get("data.root")
        selected = selection.select(results, sweep or ())
        conditions = where.parse(condition) if condition else ()

        def chosen() -> choice.Choice:
            return choice.choose(choice.read(selected, metric, mode=mode, conditions=conditions), rule)

        if selected.sentence is not None and not as_json:
            console.print(selected.sentence, soft_wrap=True, highlight=False)

        if confirm is not None:
            if ensemble is not None:
                raise ChoiceError("--confirm and --ensemble do not go together")
            from orchestrator.choosing import confirming  # take a second; who does not ask for it does without
            from orchestrator.tune import confirmation

            asked = {"metric": metric, "mode": mode, "rule": rule, "where": condition, "finalists": confirm}
            name = confirming.name_of([store.folder.name for store in selected.stores], **asked, seeds=seeds)
            plan, question = confirmation.planned(results, name, chosen, finalists=confirm, seeds=seeds, root=data_root)
            decision = _confirmed(console, plan, question)
        else:
            made = chosen()
            gain = None if ensemble is None else choice.ensemble_of(made, ensemble)
    if confirm is not None:
        for problem in decision.epochs.problems:
            console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
        if not as_json:
            console.print(standings.confirmation_table(decision))
            for line in confirming.sentences(decision):
                console.print(line, soft_wrap=True, highlight=False)
        described = decision.describe()
        exported = decision.epochs, decision.row
    else:
        for problem in made.epochs.problems:
            console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
        if not as_json:
            console.print(standings.choice_table(made, top=top))
            for line in (*choice.sentences(made), *([] if gain is None else [gain["sentence"]])):
                console.print(line, soft_wrap=True, highlight=False)
        described = choice.describe(made, top=top) | ({} if gain is None else {"ensemble": gain})
        exported = made.epochs, made.row
    described |= selected.describe()
    if export:
        described["exported"] = str(_export(console, *exported, out, described, force, data_root, as_json))
    if as_json:
        print(json.dumps(described, indent=2))  # noqa: T201 - the command's output, free of a terminal's markup
        if streams.lost():
            raise typer.Exit(cli.FAILED)  # for whoever reads it: half of it is none


def _confirmed(console: Console, plan: Plan, question: Question) -> Decision:
    """Run the confirmation, or go on with it, or only read it where it is finished. Exit where the user stops it."""
    from orchestrator.choosing import confirming
    from orchestrator.tune import driver
    from orchestrator.views.progress import Progress

    with (
        cli.plain_errors(),
        cli.stoppable(),
        Progress(console, plan.space.objective, plan.space.searched, total=plan.trials) as view,
    ):
        outcome = driver.run(plan, view)
    if outcome.interrupted:
        console.print(f"Stopped after {outcome.finished} of {plan.trials} runs. To go on where they stand:")
        console.print(f"  {calling.same()}", soft_wrap=True, highlight=False)
        raise typer.Exit(cli.STOPPED)
    return confirming.decide(plan.store, question)


def _export(
    console: Console,
    epochs: Epochs,
    row: int,
    out: Path | None,
    described: dict[str, Any],
    force: bool,
    data_root: Any,
    quiet: bool,
) -> Path:
    from orchestrator.exporting.folder import CARD
    from orchestrator.exporting.folder import export as write

    metric = epochs.objective.metric
    entry, epoch = epochs.entry(row)
    number = epoch["epoch"]
    sweep = entry.store.folder
    folder = (
        out or beside(sweep.parent) / sweep.name / "exports" / f"{identifier(metric)}-{entry.trial_id}-{number:04d}"
    )
    with cli.plain_errors():
        done = write(entry, epoch, metric, folder, force=force, data_root=data_root, choice=described)
    if not quiet:
        compared = done.checked.get(metric)
        agreed = f": {metric} {compared[0]:.6f} recorded, {compared[1]:.6f} measured again" if compared else ""
        what = f"imported checkpoint {entry.trial_id}" if entry.is_imported else f"epoch {number} of {entry.trial_id}"
        console.print(f"Exported {what}{agreed}.", highlight=False)
        if done.as_graded is not None:
            console.print(
                "Its pixels are rounded, and so are those of the predictions handed in. The course's scripts do not "
                f"round: they would give the weights val_acc {done.as_graded['val_acc']:.6f}, val_bpd "
                f"{done.as_graded['val_bpd']:.6f}.",
                soft_wrap=True,
                highlight=False,
            )
        console.print(f"  {done.folder} ({CARD} says what is in it)", soft_wrap=True, highlight=False)
    return done.folder


if __name__ == "__main__":
    cli.run(app)
