"""The commands of docs/import.md are ones that the command takes, and what they map to is there."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from cpcnn_core import renaming
from orchestrator import trial
from tests.contract.networks import network
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "import.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", "").splitlines()]


def test_the_page_has_its_commands() -> None:
    assert len(COMMANDS) > 8
    for option in ("--drop ", "--rename ", "--first-classes", "+film.", "{1}"):
        assert any(option in command for command in COMMANDS), option


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_maps_to_what_there_is(command: str) -> None:
    head, arguments = "uv run cpcnn trial import ", shlex.split(command)
    assert command.startswith(head)
    group = typer.main.get_group(trial.app)
    given = group.commands["import"].make_context("import", arguments[len(head.split()) :])
    ours = list(network(given.params["fusion"]).state_dict())
    for item in given.params["rename"] or ():
        new = re.sub(r"\{\d+\}", "*", renaming.parse(item).new)
        assert renaming.matching(new, ours), item


def test_the_prefix_example_of_the_page_is_right() -> None:
    (example,) = re.findall(r"takes `(.*?)` \(.*?\) for `(.*?)`", PAGE.replace("\n", " "))
    (rule,) = re.findall(r"--rename '(film\.\*\.\*\.\*\.\*\.\*=.*?)'", PAGE)
    (origin,) = renaming.origins([renaming.parse(rule)], [example[0]], ())
    assert origin.ours == example[1]
