"""`cpcnn fid A B`: FID and KID of the images in one folder against those in another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cpcnn_core.sources import SOURCES
from orchestrator import command_line as cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cpcnn_core.config import Scalar
    from cpcnn_core.fid import Extractor

app = cli.command()

_PANEL = "Features"

Images = Annotated[Path, typer.Argument(parser=cli.local, metavar="A", help="A folder of images, those to judge.")]
Real = Annotated[Path, typer.Argument(parser=cli.local, metavar="B", help="A folder of images, to hold A against.")]
Features = Annotated[
    Literal["inception-2048", "inception-192", "classifier"],
    typer.Option(
        "--features",
        rich_help_panel=_PANEL,
        help="Whose features: the literature's, the course's, or a small classifier's.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        parser=cli.local,
        metavar="FILE",
        rich_help_panel=_PANEL,
        show_default="from the cache, else downloaded",
        help="Inception's weights.",
    ),
]
DataName = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME",
        autocompletion=lambda: list(SOURCES),
        rich_help_panel=_PANEL,
        show_default="none",
        help="For `classifier`: whose training images it learns from, by its `data.name`. A and B are of their size.",
    ),
]
Root = Annotated[
    str | None,
    typer.Option(
        "--root",
        parser=cli.data_root,
        metavar="PATH",
        rich_help_panel=_PANEL,
        show_default="none; digits needs none",
        help="Where that data lies.",
    ),
]
DataSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="data.KEY=VALUE",
        rich_help_panel=_PANEL,
        show_default="docs/settings.md's",
        help="How that data is read, as data.dataset=CIFAR10. May be repeated.",
    ),
]


@app.command(
    epilog=cli.examples("fid drawn/samples real", "fid drawn/samples real --features classifier --data digits")
)
@cli.plain_errors()
def main(
    a: Images,
    b: Real,
    features: Features = "inception-2048",
    weights: Weights = None,
    data: DataName = None,
    root: Root = None,
    given: DataSettings = None,
) -> None:
    """Print FID and KID of folder A against folder B, each with what it must share with another to be compared."""
    console = cli.console()
    with cli.doing(console, "Importing PyTorch"):
        from cpcnn_core import fid
        from orchestrator.text.formatting import interval, measured

    for folder in (a, b):
        fid.images_in(folder)
    settings = _data_settings(data, root, given or ())
    distances = fid.between_folders(_extractor(features, weights, settings), a, b)
    for name, distance in zip(("FID", "KID"), distances, strict=True):
        bounds = distance.interval
        value = f"not measured: {distance.reason}" if distance.value is None else measured(distance.value)
        console.print(f"{name} {value}{f', 95% interval {interval(*bounds)}' if bounds else ''}", highlight=False)
    first = distances[0]
    console.print(
        f"{first.images} images of {a} against {b} ({first.reference}), features {first.extractor}. "
        "Compare it only with values of the same features, number of images and reference.",
        soft_wrap=True,
        highlight=False,
    )


def _data_settings(data: str | None, root: str | None, given: Sequence[str]) -> Mapping[str, Scalar]:
    """The settings of the data that a classifier learns from. Raise FidError, SpaceError."""
    from cpcnn_core.fid import FidError
    from orchestrator.search.settings import parse_settings

    settings = {
        name: value for name, value in (("data.name", data), ("data.root", root)) if value is not None
    } | parse_settings(given)
    if others := [name for name in settings if not name.startswith("data.")]:
        raise FidError(f"--set {', '.join(others)}: only settings of the data, data.KEY, can be given here")
    return settings


def _extractor(features: str, weights: Path | None, data: Mapping[str, Scalar]) -> Extractor:
    """The extractor asked for. Raise FidError, ConfigError, DataError."""
    from cpcnn_core import fid
    from cpcnn_core.config import TrialConfig
    from cpcnn_core.data import Split, load
    from orchestrator.training import trainer

    if features != "classifier":
        if data:
            given = ", ".join(f"{name}={value}" for name, value in data.items())
            raise fid.FidError(
                f"{given}: is for --features classifier, the only ones that learn from data; leave it out"
            )
        import torch

        nothing = Split(torch.empty(0, 1, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
        return fid.extractor(features, nothing, weights=weights, device=trainer.device())
    if "data.name" not in data:
        raise fid.FidError("--features classifier learns from labelled images: say which by --data, as --data digits")
    return fid.extractor(features, load(TrialConfig.from_flat(data).data).train)


if __name__ == "__main__":
    cli.run(app)
