"""The picture of the layers in docs/architecture.md, for the site: from the import contract in pyproject.toml.

The page itself has it as a mermaid diagram, which GitHub draws; on the site that would take a program from another
host.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from documentation.generated import PageError

FILE = "layers.svg"
BELOW = ("cpcnn_core", "search_spaces", "cluster (files only)")

_WIDTH, _STEP, _BOX = 560, 38, 26
_STYLE = (
    ".paper{fill:#fff;stroke:#d0d7de}text{font:12px system-ui,sans-serif;fill:#1f2328;text-anchor:middle}"
    ".box{fill:#f6f8fa;stroke:#8c959f}.line{stroke:#8c959f}"
    "@media(prefers-color-scheme:dark){.paper{fill:#161b22;stroke:#30363d}text{fill:#e6edf3}.box{fill:#21262d;"
    "stroke:#6e7681}.line{stroke:#6e7681}}"
)


def layers(root: Path) -> list[str]:
    """What stands in each layer, from the top down. Raise PageError where no contract says so."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    found = [contract["layers"] for contract in contracts if contract.get("containers") == ["orchestrator"]]
    if len(found) != 1:
        raise PageError("pyproject.toml: one contract with containers = ['orchestrator'] says what the layers are")
    return [", ".join(layer.split(" | ")) for layer in found[0]]


def svg(root: Path) -> str:
    """The layers as boxes, each of which may import what is below it."""
    rows = layers(root)
    height = 24 + _STEP * (len(rows) + 1) + 8
    said = escape("Layers, from the top down: " + "; ".join(rows))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<title>{said}</title><style>{_STYLE}</style>",
            f'<rect class="paper" x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *_column(rows),
            *_base(18 + _STEP * len(rows)),
            "</svg>\n",
        ]
    )


def _column(rows: list[str]) -> Iterator[str]:
    for number, row in enumerate(rows):
        top = 16 + _STEP * number
        yield f'<line class="line" x1="{_WIDTH / 2:g}" x2="{_WIDTH / 2:g}" y1="{top}" y2="{top + _STEP}"/>'
        yield from _box(_WIDTH / 2, top, _WIDTH - 24 if len(row) > 40 else 180, row)


def _base(top: int) -> Iterator[str]:
    for number, package in enumerate(BELOW):
        yield from _box(_WIDTH * (2 * number + 1) / 6, top, 170, package)


def _box(middle: float, top: int, width: int, text: str) -> Iterator[str]:
    yield f'<rect class="box" x="{middle - width / 2:g}" y="{top}" width="{width}" height="{_BOX}" rx="3"/>'
    yield f'<text x="{middle:g}" y="{top + 17}">{escape(text)}</text>'
