"""docs/architecture.md and docs/structure.md show the packages as they are, and as the import contracts want them."""

from __future__ import annotations

import re
import tomllib

from tests.support.paths import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_picture_shows_the_layers_of_the_contract() -> None:
    (contract,) = [held for held in CONTRACTS if held.get("containers") == ["orchestrator"]]
    picture = PAGE.split("```mermaid")[1].split("```")[0]
    labels = dict(re.findall(r'(\w+)\["([^"]+)"\]', picture))
    arrows = dict(re.findall(r'^  (\w+)(?:\["[^"]+"\])? --> (\w+)', picture.split("  orchestrator([")[0], re.MULTILINE))
    shown, at = [], "commands"
    while at:
        shown.append(set(labels.get(at, at).split(", ")))
        at = arrows.get(at, "")
    assert shown == [set(layer.split(" | ")) for layer in contract["layers"]]


def test_every_module_is_on_the_page_of_its_package() -> None:
    page = (ROOT / "docs" / "structure.md").read_text()
    table = page.split("## Many trials")[1].split("## A cluster")[0]
    top = ROOT / "orchestrator"
    packages = [file.parent for file in sorted(top.rglob("__init__.py")) if file.parent != top]
    assert len(packages) > 10
    for package in packages:
        rows = table.split(f"**`{package.relative_to(top)}/`**")[1].split("**`")[0]
        there = {file.name for file in package.glob("*.py")} - {"__init__.py"}
        assert set(re.findall(r"^\| `(\w+\.py)` \|", rows, re.MULTILINE)) == there, package.name
