"""What the benchmark reads of a dry run is what a dry run prints."""

from __future__ import annotations

import pytest

from benchmarks import dry_run
from orchestrator.views.progress import duration


@pytest.mark.parametrize("length", [4.0, 165.0, 7380.0])
def test_durations_are_read_as_they_are_printed(length: float) -> None:
    assert dry_run.seconds(duration(length)) == length


def test_the_interval_is_from_the_least_to_the_most() -> None:
    said = (
        "time: 2 min 45 s to 6 min 27 s if no trial is stopped early (scheduler asha)\n"
        "      2 min 17 s to 5 min 9 s if the scheduler stops as many as it may\n"
    )
    assert dry_run.stated(said) == (137.0, 387.0)
    with pytest.raises(ValueError, match="no interval"):
        dry_run.stated("Every trial has ended")
