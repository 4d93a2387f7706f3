"""Benchmarks that take no time."""

from __future__ import annotations

from benchmarks.figure import Asked, Figure, NotMeasuredError


def measured(asked: Asked) -> list[Figure]:
    return [Figure("a step", 2.5, "a slow one"), Figure("a gap", 0.125 if asked.short else 9.0, "Tune's", "smaller")]


def fails(asked: Asked) -> list[Figure]:
    raise FloatingPointError("diverged")


def lacks(asked: Asked) -> list[Figure]:
    raise NotMeasuredError(f"needs images, not {asked.root}")
