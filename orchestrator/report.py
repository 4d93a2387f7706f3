"""`cpcnn report`: the results of sweeps as one HTML file that needs neither network nor program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator import command_line as cli
from orchestrator.choosing.rules import DEFAULT_RULE, Rule

app = cli.command()


@app.command(epilog=cli.examples("report", 'report --sweep digits --metric fid --where "val_acc >= 0.8"'))
@cli.plain_errors()
def main(
    metric: Annotated[
        str, typer.Option(rich_help_panel=cli.CHOICE_PANEL, help="The metric that the table is ordered by.")
    ] = "val_acc",
    mode: Annotated[
        Literal["max", "min"] | None,
        typer.Option(rich_help_panel=cli.CHOICE_PANEL, show_default="the metric's own", help="Which way is better."),
    ] = None,
    sweep: cli.Sweeps = None,
    condition: Annotated[
        str,
        typer.Option(
            "--where",
            metavar="CONDITIONS",
            rich_help_panel=cli.CHOICE_PANEL,
            show_default="all trials",
            help="As for best.",
        ),
    ] = "",
    rule: Annotated[Rule, typer.Option(rich_help_panel=cli.CHOICE_PANEL, help="As for best.")] = DEFAULT_RULE,
    results: cli.Results = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option(
            parser=cli.local,
            metavar="FILE",
            rich_help_panel=cli.OUT_PANEL,
            show_default="report.html in RESULTS",
            help="The HTML file.",
        ),
    ] = None,
) -> None:
    """Write the report."""
    console = cli.console()
    from orchestrator.choosing import selection, where
    from orchestrator.choosing.decision import choose, read
    from orchestrator.records.location import beside

    selected = selection.select(results, sweep or ())
    conditions = where.parse(condition) if condition else ()
    decision = choose(read(selected, metric, mode=mode, conditions=conditions), rule)
    from orchestrator.views import page  # plotly takes a second to import; a mistake is answered before

    file = out or beside(results) / "report.html"
    page.write(file, selected, decision)
    if selected.sentence is not None:
        console.print(selected.sentence, soft_wrap=True, highlight=False)
    for problem in decision.epochs.problems:
        console.print(f"warning: {problem}", style="yellow", soft_wrap=True)
    console.print(
        f"{file}: {len(selected.stores)} sweep(s), {decision.total_trials} trials; open it in any browser",
        soft_wrap=True,
    )


if __name__ == "__main__":
    cli.run(app)
