"""Tests that must not run side by side are a group, which one process runs."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_is_known_to_what_hands_out_tests(request: pytest.FixtureRequest) -> None:
    if not hasattr(request.config, "workerinput"):
        pytest.skip("one process runs all tests here")
    assert request.node.nodeid.endswith("@groups"), "these releases of pytest and xdist do not fit each other"
