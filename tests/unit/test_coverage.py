"""What the measure of coverage leaves out: little, and nothing that is gone."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.support.paths import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
PATTERNS: list[str] = SETTINGS["report"]["exclude_also"]
LINES = [
    line
    for package in SETTINGS["run"]["source"]
    for file in (ROOT / package).rglob("*.py")
    for line in file.read_text().splitlines()
]
BEGINNINGS = ("if TYPE_CHECKING", "class", "if __name__")  # of what has nothing to execute, and may be everywhere
_LISTED = re.findall(r'^  "(.*)", # (\S.*)$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_exclusion_has_a_reason_and_excludes_something(pattern: str) -> None:
    assert any(re.search(pattern, line) for line in LINES)
    reasons = {text.replace("\\\\", "\\"): reason for text, reason in _LISTED}
    assert reasons[pattern]


def test_code_for_other_devices_is_a_few_blocks() -> None:
    of_devices = [pattern for pattern in PATTERNS if not pattern.startswith(BEGINNINGS)]
    excluded = [line for line in LINES if any(re.search(pattern, line) for pattern in of_devices)]
    assert 0 < len(excluded) <= 10, excluded


def test_the_floor_stands() -> None:
    assert SETTINGS["report"]["fail_under"] >= 90
    assert SETTINGS["run"]["branch"]
    assert not any("pragma: no cover" in line for line in LINES)
