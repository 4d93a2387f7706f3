"""`cpcnn best --metric val_acc`: choose a checkpoint, say how sure, check it, export it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator.choosing.rules import DEFAULT_RULE, Rule
from orchestrator.process import streams

if TYPE_CHECKING:
    from cpcnn_core.config import Scalar
    from orchestrator.choosing import decision
    from orchestrator.choosing.candidates import Candidates
    from orchestrator.choosing.confirming import Question
    from orchestrator.exporting.hub import Repository
    from orchestrator.tune.plan import Plan
    from orchestrator.views.board import Board

app = cli.command()

_SURE_PANEL = "How sure"

Metric = Annotated[str, typer.Option(rich_help_panel=cli.CHOICE_PANEL, help="The column of `epochs` to choose by.")]
Where = Annotated[
    str,
    typer.Option(
        "--where",
        metavar="CONDITIONS",
        rich_help_panel=cli.CHOICE_PANEL,
        show_default="all trials",
        help='As in "fid <= 30 and model.nr_filters < 100".',
    ),
]
Trial = Annotated[
    str | None,
    typer.Option(
        metavar="TRIAL_ID",
        rich_help_panel=cli.CHOICE_PANEL,
        show_default="all trials",
        help="Choose among this trial's epochs alone: its id, or as much of it as no other has.",
    ),
]
Epoch = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=cli.CHOICE_PANEL,
        show_default="all epochs",
        help="With --trial: this epoch, if its weights were kept.",
    ),
]
RuleOption = Annotated[
    Rule,
    typer.Option(rich_help_panel=cli.CHOICE_PANEL, help="How to choose; docs/choosing.md says which does what."),
]
Top = Annotated[int, typer.Option(min=1, rich_help_panel=cli.SHOWN_PANEL, help="How many trials to print.")]
Confirm = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="K",
        rich_help_panel=_SURE_PANEL,
        show_default="none",
        help="Train the K finalists again on new seeds, which decide.",
    ),
]
Seeds = Annotated[
    int,
    typer.Option(min=1, metavar="R", rich_help_panel=_SURE_PANEL, help="With --confirm: how many new seeds for each."),
]
Ensemble = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="K",
        rich_help_panel=_SURE_PANEL,
        show_default="none",
        help="Also say what averaging the K best trials would gain.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=cli.SHOWN_PANEL,
        show_default="a table and sentences",
        help="Print JSON, and nothing else, on stdout.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        parser=cli.local,
        metavar="FOLDER",
        rich_help_panel=cli.OUT_PANEL,
        show_default="one within the sweep's folder",
        help="The folder to export to.",
    ),
]
Export = Annotated[
    bool, typer.Option("--export/--no-export", rich_help_panel=cli.OUT_PANEL, help="Whether to export the choice.")
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        rich_help_panel=cli.OUT_PANEL,
        show_default="refuse",
        help="Replace a folder that exists.",
    ),
]
Push = Annotated[
    str | None,
    typer.Option(
        "--push",
        metavar="hf://USER/NAME",
        rich_help_panel=cli.OUT_PANEL,
        show_default="nowhere",
        help="Upload the exported folder to the Hugging Face Hub; a new repository there is private.",
    ),
]


class _Found(NamedTuple):
    """What is chosen, a row of `epochs`, and what is shown of it."""

    epochs: Candidates
    row: int
    table: Board
    sentences: Sequence[str]
    described: dict[str, object]


@app.command(
    epilog=cli.examples(
        "best --metric val_acc --sweep digits",
        'best --metric val_acc --where "fid <= 30" --confirm 3 --out submission',
    )
)
@cli.plain_errors()
def main(
    metric: Metric,
    mode: cli.Mode = None,
    sweep: cli.Sweeps = None,
    condition: Where = "",
    trial: Trial = None,
    epoch: Epoch = None,
    rule: RuleOption = DEFAULT_RULE,
    confirm: Confirm = None,
    seeds: Seeds = 3,
    ensemble: Ensemble = None,
    results: cli.Results = Path("results"),
    top: Top = 10,
    wide: cli.WideOption = False,
    as_json: AsJson = False,
    out: Out = None,
    export: Export = True,
    force: Force = False,
    push: Push = None,
    given: cli.DataRoot = None,
) -> None:
    """Print the best trials with how sure that is; export the choice with all that is handed in."""
    console = cli.console(stderr=as_json)
    from orchestrator.choosing import decision, pinned
    from orchestrator.search.settings import parse_data_root

    _check_confirm(confirm, trial, ensemble)
    repository = _repository(push, export=export)
    data_root = parse_data_root(given or ()).get("data.root")
    selected, conditions = pinned.asked(results, sweep or (), condition, trial, epoch)

    def chosen() -> decision.Decision:
        return decision.choose(decision.read(selected, metric, mode=mode, conditions=conditions), rule)

    if selected.sentence is not None and not as_json:
        console.print(selected.sentence, soft_wrap=True, highlight=False)
    if confirm is None:
        found = _chosen(chosen(), top, ensemble, wide=wide)
    else:
        with cli.doing(console, "Importing Optuna and PyTorch"):
            from orchestrator.tune import confirmation

        asked = confirmation.Asked(metric, mode, rule, condition, confirm, seeds)
        planned = confirmation.planned(results, selected, chosen, asked, root=data_root)
        found = _confirmed(console, *planned, wide=wide)
    _show(console, found, only_problems=as_json)
    described = found.described | selected.describe()
    if export:
        exported = _export(console, found, described, out, force=force, data_root=data_root, quiet=as_json)
        described["exported"] = str(exported)
        if repository is not None:
            described["pushed"] = repository.push(exported)
            if not as_json:
                console.print(f"Uploaded to {described['pushed']}", soft_wrap=True, highlight=False)
    if as_json:
        _print_json(described)


def _check_confirm(confirm: int | None, trial: str | None, ensemble: int | None) -> None:
    """Raise ChoiceError where --confirm stands beside an option that it does not go with."""
    from orchestrator.choosing.candidates import ChoiceError

    if confirm is not None and trial is not None:
        raise ChoiceError("--confirm and --trial do not go together: one trial is no choice to confirm")
    if confirm is not None and ensemble is not None:
        raise ChoiceError("--confirm and --ensemble do not go together")


def _repository(push: str | None, *, export: bool) -> Repository | None:
    """Where the export goes; before anything is computed it is seen whether it can. Raise AddressError, PushError."""
    if push is None:
        return None
    from orchestrator.exporting.hub import AddressError, Repository

    if not export:
        raise AddressError("--push and --no-export do not go together: what is uploaded is the exported folder")
    return Repository.ready(push)


def _print_json(described: dict[str, object]) -> None:
    print(json.dumps(described, indent=2))  # noqa: T201 - the command's output, free of a terminal's markup
    if streams.lost():
        raise typer.Exit(cli.FAILED)  # for whoever reads it: half of it is none


def _chosen(made: decision.Decision, top: int, ensemble: int | None, *, wide: bool) -> _Found:
    """The choice among what was trained, with what an ensemble would gain where that is asked."""
    from orchestrator.choosing import decision
    from orchestrator.views import standings

    sentences, described = decision.sentences(made), decision.describe(made, top=top)
    if ensemble is not None:
        gain = decision.ensemble_of(made, ensemble)
        sentences, described = [*sentences, gain["sentence"]], described | {"ensemble": gain}
    return _Found(made.epochs, made.row, standings.choice_table(made, top=top, wide=wide), sentences, described)


def _confirmed(console: Console, plan: Plan, question: Question, *, wide: bool) -> _Found:
    """Run the confirmation, or go on with it, or only read it where it is finished. Exit where the user stops it."""
    from orchestrator.choosing import confirming
    from orchestrator.tune import driver
    from orchestrator.views import standings
    from orchestrator.views.progress import Progress

    with (
        cli.stoppable(),
        Progress(console, plan.space.objective, plan.space.searched, total=plan.trials) as view,
    ):
        outcome = driver.run(plan, view)
    if outcome.interrupted:
        cli.stopped(console, f"Stopped after {outcome.finished} of {plan.trials} runs. To go on where they stand:")
    made = confirming.decide(plan.store, question)
    table, sentences = standings.confirmation_table(made, wide=wide), confirming.sentences(made)
    return _Found(made.epochs, made.row, table, sentences, made.describe())


def _show(console: Console, found: _Found, *, only_problems: bool) -> None:
    for problem in found.epochs.problems:
        console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
    if not only_problems:
        console.print(found.table, soft_wrap=True)
        for line in found.sentences:
            console.print(line, highlight=False)


def _export(
    console: Console,
    found: _Found,
    described: dict[str, object],
    out: Path | None,
    *,
    force: bool,
    data_root: Scalar,
    quiet: bool,
) -> Path:
    """Export what was found, and say so. Return the folder."""
    from orchestrator.exporting import folder  # torch takes seconds

    metric = found.epochs.objective.metric
    entry, epoch = found.epochs.entry(found.row)
    into = out or folder.usual(entry, epoch, metric)
    done = folder.export(entry, epoch, metric, into, force=force, data_root=data_root, choice=described)
    for line in [] if quiet else folder.sentences(done, entry, epoch, metric):
        console.print(line, soft_wrap=True, highlight=False)
    return done.folder


if __name__ == "__main__":
    cli.run(app)
