"""Conditions on times."""

from __future__ import annotations

import pytest

from orchestrator.choosing.where import WhereError, parse
from tests.support.times import at

TIMES = [at("2026-01-30 23:59"), None, at("2026-01-31"), at("2026-02-01")]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('started >= "2026-01-31"', [False, False, True, True]),
        ('started < "2026-01-31T01:00:00+01:00"', [True, False, False, False]),
        ("started == '2026-01-31 00:00'", [False, False, True, False]),
        ("started != '2026-01-31'", [True, False, False, True]),
    ],
)
def test_a_time_is_compared_with_a_moment_in_utc_unless_it_names_another_zone(text: str, holds: list[bool]) -> None:
    [condition] = parse(text)
    assert condition.holds(TIMES).tolist() == holds


@pytest.mark.parametrize("text", ["started > 2026", "started > 'yesterday'"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    [condition] = parse(text)
    with pytest.raises(
        WhereError, match=r'started holds times, which are compared as in started >= "2026-01-31 12:00"'
    ):
        condition.holds(TIMES)
