"""Every file that is written by the program, whole or in parts, with the text that it should have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from documentation import commands, fusion_pages, layers, settings, space_words
from documentation.generated import with_parts


def written(root: Path) -> dict[Path, str]:
    """The files below `root` by their path. Raise PageError where a page lacks a part, or a row its meaning."""
    docs = root / "docs"
    parts: dict[str, Mapping[str, Callable[[str], str]]] = {
        "settings.md": settings.parts(),
        "every-fusion.md": fusion_pages.parts(docs),
        "fusions.md": {settings.OPTIONS: settings.options},
        "commands.md": {commands.COMMANDS: commands.commands},
        "spaces.md": {
            space_words.WORDS: space_words.words,
            space_words.METRICS: space_words.metrics,
            space_words.FUNCTIONS: space_words.functions,
        },
    }
    pages = {docs / name: with_parts((docs / name).read_text(encoding="utf-8"), each) for name, each in parts.items()}
    return pages | fusion_pages.drawings(docs) | {docs / layers.FILE: layers.svg(root)}
