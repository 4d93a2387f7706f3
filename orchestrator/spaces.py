"""`cpcnn spaces`: the spaces that ship, what each asks and what it costs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from orchestrator import command_line as cli
from orchestrator.text import calling

app = cli.command()


@app.command(epilog=cli.examples("spaces", "spaces digits > mine.py"))
@cli.plain_errors()
def main(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            show_default="all of them",
            autocompletion=cli.space_names,
            help="Print the file of this space, to read or to change a copy of.",
        ),
    ] = None,
) -> None:
    """List the spaces that ship, each with its question and its cost."""
    console = cli.console()
    from orchestrator.search import shipped

    if name is not None:
        text = shipped.text(name)
        console.print(Text(text.rstrip("\n")), soft_wrap=True)
        return
    for one in shipped.every():
        console.print(Text(one.name, style="bold"))
        presets = f" Presets: {', '.join(one.presets)}." if one.presets else ""
        for line in (one.question, f"Cost: {one.cost}{presets}"):
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    for text, command in (
        ("To search one:", calling.again("sweep", "digits")),
        ("To have measured first what it takes on this machine:", calling.again("sweep", "digits", "--dry-run")),
        ("To ask a question of your own:", calling.again("new-space", "mine.py")),
    ):
        console.print(f"{text}\n  {command}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
