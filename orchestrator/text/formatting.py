"""Numbers and settings as people read them: short, and never shown as another one.

A *setting* is shown exactly, so that it can be typed again. A *measurement* is rounded, but to a whole number (an
accuracy of 1, a FID of 0) only where it is one. In a column of a table either has as many digits as tell its different
values apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_DECIMALS = 4  # of a measurement
_SIGNIFICANT = 4  # digits of a setting in a table
_ALL_DIGITS = 17  # tell any two floats apart
_HUGE = 1e9  # a network that diverged; decimals say nothing there
_ROUNDING = 1e-9  # values that differ by so small a part are equal: what is left is the rounding of sums


def plain(value: object) -> str:
    """A setting as `--set KEY=` takes it: all digits of a float, null for None, true and false."""
    if isinstance(value, float):
        texts = (f"{value:.{digits}g}" for digits in range(_SIGNIFICANT, _ALL_DIGITS + 1))
        return next((text for text in texts if float(text) == value), str(value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_apart(values: Sequence[object]) -> list[str]:
    """The settings of a column: floats with four significant digits, or as many more as tell all values apart."""
    different = len({plain(value) for value in values})
    for digits in range(_SIGNIFICANT, _ALL_DIGITS):
        texts = [f"{value:.{digits}g}" if isinstance(value, float) else plain(value) for value in values]
        if len(set(texts)) == different:
            return texts
    return [plain(value) for value in values]


def measured(value: float | None, decimals: int = _DECIMALS) -> str:
    """A measurement with so many decimals, more where it would look like a whole number and is none; - for None.

    What the rounding of sums left of a whole number is that number: 1 - 1e-16 is no accuracy below 1.
    """
    if value is None:
        return "-"
    if abs(value) >= _HUGE:
        return f"{value:.{decimals + 3}g}"
    text = f"{value:.{decimals}f}"
    if not math.isfinite(value) or not float(text).is_integer() or _equal(float(text), value):
        return text
    if abs(value) < 10.0 ** -(decimals + 2):
        return f"{value:.2g}"
    longer = (f"{value:.{more}f}" for more in range(decimals + 1, _ALL_DIGITS))
    return next((text for text in longer if not float(text).is_integer()), repr(value))


def gained(value: float) -> str:
    """A difference of measurements, with its sign."""
    return f"{'-' if value < 0 else '+'}{measured(abs(value))}"


def measured_apart(values: Sequence[float | None], decimals: int = _DECIMALS) -> list[str]:
    """The measurements of a column: so many decimals, or as many more as tell its different values apart."""
    known = sorted(value for value in values if value is not None and math.isfinite(value))
    different = [(low, high) for low, high in pairwise(known) if not _equal(low, high)]
    for more in range(decimals, _ALL_DIGITS):
        if all(measured(low, more) != measured(high, more) for low, high in different):
            return [measured(value, more) for value in values]
    return ["-" if value is None else repr(value) for value in values]


def short(digest: str) -> str:
    """The first twelve digits of a SHA-256."""
    return digest[:12]


def probability(value: float) -> str:
    """A probability with two decimals; certain only where it is."""
    text = f"{value:.2f}"
    if text == "1.00" and not _equal(value, 1.0):
        return ">0.99"
    return "<0.01" if text == "0.00" and value > 0 else text


def interval(low: float, high: float) -> str:
    """The bounds of an interval."""
    return f"{measured(low)} to {measured(high)}"


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_ROUNDING)
