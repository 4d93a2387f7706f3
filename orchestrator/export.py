"""`cpcnn export FOLDER`: check an exported folder, wherever it was copied to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator import command_line as cli

app = cli.command()


@app.command(epilog=cli.examples("export results/digits/exports/NAME", "export submission --data-root /data/cpen455"))
@cli.plain_errors()
def main(
    folder: Annotated[Path, typer.Argument(parser=cli.local, metavar="FOLDER", help="A folder that `best` exported.")],
    data_root: Annotated[
        str | None,
        typer.Option(
            parser=cli.data_root,
            metavar="PATH|URL",
            rich_help_panel=cli.HERE_PANEL,
            show_default="where it lay",
            help="Where the data lies now.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="hf://USER/NAME",
            rich_help_panel=cli.OUT_PANEL,
            show_default="nowhere",
            help="Then upload it to the Hugging Face Hub; a new repository there is private.",
        ),
    ] = None,
) -> None:
    """Check an exported folder: checksums, metrics and predictions."""
    console = cli.console()
    repository = None
    if push is not None:
        from orchestrator.exporting.hub import Repository

        repository = Repository.ready(push)
    with cli.doing(console, "Importing PyTorch"):
        from orchestrator.exporting.folder import verify

    found = verify(folder, data_root)
    console.print(
        f"{folder} is as it was exported: {', '.join(f'{name} {value:.6f}' for name, value in found.items())}",
        soft_wrap=True,
        highlight=False,
    )
    if repository is not None:
        console.print(f"Uploaded to {repository.push(folder)}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    cli.run(app)
