"""`cpcnn new-space NAME.py`: a space file to change, with comments, which runs as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator import command_line as cli
from orchestrator.text import calling

app = cli.command()


@app.command(epilog=cli.examples("new-space mine.py", "new-space spaces/deeper.py"))
@cli.plain_errors()
def main(
    file: Annotated[
        Path, typer.Argument(parser=cli.local, metavar="NAME.py", help="The file to make; one that exists is left.")
    ],
) -> None:
    """Write a space file to change. As it is, it searches the digits for a minute or two."""
    from orchestrator.search import shipped

    shipped.write_template(file)
    console = cli.console()
    console.print(f"{file} asks a small question of the digits; its comments say what to change. It runs as it is:")
    console.print(f"  {calling.again('sweep', str(file))}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
