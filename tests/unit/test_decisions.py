"""docs/decisions.md: numbers in the order of time, each with its day, and links that arrive."""

from __future__ import annotations

import itertools
import re
from datetime import date

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "decisions.md").read_text()
ENTRIES = re.findall(r"^## (.*)\n\n(.*)", PAGE, re.MULTILINE)


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_numbers_are_those_from_one_on_in_order() -> None:
    numbers = [int(re.match(r"(\d+)\. \S", heading)[1]) for heading, _ in ENTRIES]
    assert numbers == list(range(1, len(ENTRIES) + 1))
    assert len(numbers) > 40


def test_each_has_the_day_it_was_made_on_and_none_is_before_the_one_above() -> None:
    days = [date.fromisoformat(re.match(r"\*(\d{4}-\d\d-\d\d)\.\* \S", text)[1]) for _, text in ENTRIES]
    assert all(one <= other for one, other in itertools.pairwise(days))


def test_the_table_at_the_top_has_each_once() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| .* \| \[\d+\]\(#", line)]
    links = [link for row in rows for link in re.findall(r"\[(\d+)\]\(#([^)]+)\)", row)]
    headings = {heading.split(".")[0]: anchor(heading) for heading, _ in ENTRIES}
    assert len(links) == len(ENTRIES)
    assert dict(links) == headings


def test_a_page_that_refers_to_one_finds_it() -> None:
    anchors = {anchor(heading): heading.split(".")[0] for heading, _ in ENTRIES}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    link = re.compile(r"ecision (\d+)\]\([\w/]*decisions\.md#([^)]+)\)")
    links = [(number, target) for page in pages for number, target in link.findall(page.read_text())]
    assert links
    for number, target in links:
        assert anchors.get(target) == number, target
    for text in [file.read_text() for file in (ROOT / "benchmarks").glob("*.py")]:
        assert all(number in anchors.values() for number in re.findall(r"decision (\d+)", text))
