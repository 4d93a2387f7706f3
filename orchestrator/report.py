"""`python -m orchestrator.report`: the results of sweeps as one HTML file that needs neither network nor program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from orchestrator import command_line as cli
from orchestrator.choosing import finalists, selection, where
from orchestrator.choosing.decision import Decision, choose, read
from orchestrator.choosing.judge import DEFAULT_RULE, Rule
from orchestrator.records.location import beside

app = cli.command()


@app.command()
@cli.plain_errors()
def main(
    metric: Annotated[str, typer.Option(help="The metric that the table is ordered by.")] = "val_acc",
    results: cli.Results = Path("results"),
    sweep: cli.Sweeps = None,
    condition: Annotated[str, typer.Option("--where", metavar="CONDITIONS", help="As for best.")] = "",
    mode: Annotated[Literal["max", "min"] | None, typer.Option(help="Which way is better; the metric's own.")] = None,
    rule: Annotated[Rule, typer.Option(help="As for best.")] = DEFAULT_RULE,
    out: Annotated[
        Path | None,
        typer.Option(parser=cli.local, metavar="FILE", help="The HTML file; report.html in RESULTS."),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option(help="Draw what the finalists draw and mistake, where that was not done at the end of the sweep."),
    ] = True,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page instead, and follow the sweep while it runs, until Ctrl-C.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --serve: where to listen. Beyond this machine a token is needed.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve; 0: any that is free.")] = 8555,
    with_token: Annotated[
        bool, typer.Option("--with-token", help="With --serve: a token on this machine too, which others use.")
    ] = False,
) -> None:
    """Write the report, or serve it."""
    console = cli.console()
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
    selected = selection.select(results, sweep or ())
    decision = choose(read(selected, metric, mode=mode, conditions=conditions), rule)
    if pictures:
        _draw(console, decision)
    from orchestrator.views.page import writing  # plotly takes a second to import; a mistake is answered before

    file = out or beside(results) / "report.html"
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
    if missing := finalists.without_pictures(finalists.of(decision)):
        from orchestrator.exporting import pictures  # which needs torch

        pictures.draw(missing, lambda text: console.print(text, soft_wrap=True, highlight=False))


if __name__ == "__main__":
    cli.run(app)
