"""README.md, CONTRIBUTING.md, CHANGELOG.md and docs/: links that arrive, every page and every command in the README."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.unit.test_decisions import anchor

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)) for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_arrives(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"\w+:", link):
            continue
        name, _, head = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not head or head in anchors(target), link


def test_the_readme_lists_every_page() -> None:
    rows = {link for line in README.splitlines() if line.startswith("| [") for link in LINK.findall(line)}
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages - rows == {"docs/add-a-fusion.md"}  # a part of docs/extending.md
    assert "add-a-fusion.md" in LINK.findall((ROOT / "docs" / "extending.md").read_text())


def test_the_readme_has_every_command() -> None:
    section = README.split("\n| command | |\n")[1].split("\n\n")[0]
    named = [name.replace("-", "_") for name in re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)]
    commands = {file.stem for file in (ROOT / "orchestrator").glob("*.py") if "@app.command" in file.read_text()}
    assert sorted(named) == sorted(commands)


def test_the_first_screen_shows_pictures_and_three_commands_each_with_what_it_prints() -> None:
    screen = README.split("\n## ")[0]
    pictures = re.findall(r'<img src="(docs/\w+\.png)" [^>]*alt="[^"]{20,}"', screen)
    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)
    blocks = re.findall(r"^```\n(.*?)^```$", screen, re.DOTALL | re.MULTILINE)
    typed, printed = blocks[::2], blocks[1::2]
    assert typed == [
        "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install uv && python3 -m uv run cpcnn sweep digits\n",
        "uv run cpcnn best --metric val_acc --sweep digits\n",
        "uv run cpcnn report --sweep digits\n",
    ]
    assert len(printed) == 3
    assert "val_acc" in printed[0]
    assert "Exported epoch" in printed[1]
    assert "results/report.html" in printed[2]


def test_a_word_of_the_glossary_stands_once_in_alphabetic_order() -> None:
    glossary = (ROOT / "docs" / "structure.md").read_text().split("## Glossary")[1].split("\n## ")[0]
    words = [row.strip("` ") for row in re.findall(r"^\| ([^|]+) \| ", glossary, re.MULTILINE)][2:]
    keys = [word.removeprefix("the ").casefold() for word in words]
    assert len(keys) > 40
    assert keys == sorted(keys)
    assert max(Counter(words).values()) == 1
