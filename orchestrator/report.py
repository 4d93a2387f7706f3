"""`cpcnn report`: the results of sweeps as one HTML file that needs neither network nor program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator.choosing.rules import DEFAULT_RULE, Rule

if TYPE_CHECKING:
    from orchestrator.choosing.decision import Decision
    from orchestrator.choosing.selection import Selection

app = cli.command()

Metric = Annotated[str, typer.Option(rich_help_panel=cli.CHOICE_PANEL, help="The metric that the table is ordered by.")]
Where = Annotated[
    str,
    typer.Option(
        "--where",
        metavar="CONDITIONS",
        rich_help_panel=cli.CHOICE_PANEL,
        show_default="all trials",
        help="As for best.",
    ),
]
RuleOption = Annotated[Rule, typer.Option(rich_help_panel=cli.CHOICE_PANEL, help="As for best.")]
Out = Annotated[
    Path | None,
    typer.Option(
        parser=cli.local,
        metavar="FILE",
        rich_help_panel=cli.OUT_PANEL,
        show_default="report.html in RESULTS",
        help="The HTML file.",
    ),
]
Pictures = Annotated[
    bool,
    typer.Option(
        rich_help_panel=cli.OUT_PANEL,
        help="Draw what the best trials draw and mistake, if the sweep has not done so at its end.",
    ),
]
Serve = Annotated[
    bool,
    typer.Option(
        "--serve",
        rich_help_panel=cli.LIVE_PANEL,
        show_default="write a file",
        help="Serve the page, and follow the sweep while it runs, until Ctrl-C.",
    ),
]
Host = Annotated[
    str,
    typer.Option(
        rich_help_panel=cli.LIVE_PANEL, help="Where to listen. On an address that others reach, a token is needed."
    ),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, rich_help_panel=cli.LIVE_PANEL, help="The port; 0: any that is free.")
]
WithToken = Annotated[
    bool,
    typer.Option(
        "--with-token",
        rich_help_panel=cli.LIVE_PANEL,
        show_default="beyond this machine alone",
        help="A token on this machine too, if others work on it.",
    ),
]


@app.command(epilog=cli.examples("report --serve", 'report --sweep digits --metric fid --where "val_acc >= 0.8"'))
@cli.plain_errors()
def main(
    metric: Metric = "val_acc",
    mode: cli.Mode = None,
    sweep: cli.Sweeps = None,
    condition: Where = "",
    rule: RuleOption = DEFAULT_RULE,
    results: cli.Results = Path("results"),
    out: Out = None,
    pictures: Pictures = True,
    serve: Serve = False,
    host: Host = "127.0.0.1",
    port: Port = 8555,
    with_token: WithToken = False,
) -> None:
    """Write the report, or serve it."""
    console = cli.console()
    from orchestrator.choosing import where

    conditions = where.parse(condition) if condition else ()
    if serve:
        from orchestrator.records import stop_requests
        from orchestrator.views.page import serving

        serving.serve(
            results,
            sweep or (),
            metric,
            mode=mode,
            conditions=conditions,
            rule=rule,
            listen=serving.Listen(host, port, with_token),
            stop=stop_requests.ask,
            say=lambda text: console.print(text, soft_wrap=True, highlight=False),
        )
        return
    from orchestrator.choosing import selection
    from orchestrator.choosing.decision import choose, read
    from orchestrator.records.location import beside

    selected = selection.select(results, sweep or ())
    decision = choose(read(selected, metric, mode=mode, conditions=conditions), rule)
    if pictures:
        _draw(console, decision)
    _write(console, out or beside(results) / "report.html", selected, decision)


def _write(console: Console, file: Path, selected: Selection, decision: Decision) -> None:
    """Write the page, and say what is in it."""
    from orchestrator.views.page import writing  # plotly takes a second to import; a mistake is answered before

    writing.write(file, selected, decision)
    if selected.sentence is not None:
        console.print(selected.sentence, soft_wrap=True, highlight=False)
    for problem in decision.epochs.problems:
        console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
    console.print(
        f"{file}: {len(selected.stores)} sweep(s), {decision.total_trials} trials; open it in any browser",
        soft_wrap=True,
    )


def _draw(console: Console, decision: Decision) -> None:
    """Make the pictures of finalists that have none, from their weights, if they are here."""
    from orchestrator.choosing import finalists

    if missing := finalists.without_pictures(finalists.of(decision)):
        from orchestrator.exporting import pictures  # which needs torch

        pictures.draw(missing, lambda text: console.print(text, soft_wrap=True, highlight=False))


if __name__ == "__main__":
    cli.run(app)
