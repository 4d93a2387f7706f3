"""`python -m orchestrator.export FOLDER`: check an exported folder, wherever it was copied to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator import command_line as cli
from orchestrator.exporting.folder import verify

app = cli.command()


@app.command()
@cli.plain_errors()
def main(
    folder: Annotated[Path, typer.Argument(parser=cli.local, metavar="FOLDER", help="A folder that `best` exported.")],
    data_root: Annotated[
        str | None, typer.Option(parser=cli.data_root, metavar="PATH|URL", help="Where the data lies now.")
    ] = None,
) -> None:
    """Check an exported folder: checksums, metrics and predictions."""
    found = verify(folder, data_root)
    cli.console().print(
        f"{folder} holds: {', '.join(f'{name} {value:.6f}' for name, value in found.items())}",
        soft_wrap=True,
        highlight=False,
    )


if __name__ == "__main__":
    cli.run(app)
