"""What people are shown is never another number than the one that there is."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.text.formatting import interval, measured, measured_apart, plain, probability, settings_apart

numbers = st.floats(allow_nan=False, allow_infinity=False)
small = st.floats(-1e8, 1e8)
shares = st.floats(0, 1)


@given(numbers)
def test_a_setting_is_shown_so_that_it_can_be_typed_again(value: float) -> None:
    assert float(plain(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-3, "0.001"), (0.00123456, "0.00123456"), (1.0, "1"), (None, "null"), (True, "true"), (16, "16"), ("a", "a")],
)
def test_settings_are_short_and_what_json_would_say(value: object, text: str) -> None:
    assert plain(value) == text
    assert value == "a" or json.loads(text) == value


@given(
    st.lists(st.one_of(numbers, st.integers(-(10**6), 10**6), st.none(), st.booleans(), st.text("ab1.e", max_size=3)))
)
def test_different_settings_of_a_column_look_different(values: list[object]) -> None:
    shown = settings_apart(values)
    for index, value in enumerate(values):
        for other in range(index):
            assert (shown[index] == shown[other]) == (plain(value) == plain(values[other]))


def test_a_column_of_settings_has_no_more_digits_than_it_needs() -> None:
    assert settings_apart([0.00123456, 0.00123461]) == ["0.00123456", "0.00123461"]


@given(st.one_of(small, shares, shares.map(lambda share: 1 - share * 1e-6)), st.integers(0, 6))
def test_a_measurement_is_rounded_and_never_to_a_whole_number(value: float, decimals: int) -> None:
    shown = float(measured(value, decimals))
    assert abs(shown - value) <= 0.5000001 * 10.0**-decimals or math.isclose(shown, value)
    assert not shown.is_integer() or math.isclose(shown, value, rel_tol=1e-9)  # which sums of floats lose


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.99996, "0.99996"),
        (1.0, "1.0000"),
        (0.9999999999999998, "1.0000"),
        (0.0, "0.0000"),
        (0.00004, "0.00004"),
        (1e-12, "1e-12"),
        (0.69421, "0.6942"),
        (None, "-"),
        (12.00003, "12.00003"),
        (math.nan, "nan"),
        (3.4e30, "3.4e+30"),
    ],
)
def test_measurements_by_hand(value: float | None, text: str) -> None:
    assert measured(value) == text


@given(
    st.lists(st.one_of(numbers, shares, st.none(), st.just(math.nan), st.just(math.inf)), max_size=8), st.integers(0, 5)
)
def test_different_measurements_of_a_column_look_different_and_in_order(
    values: list[float | None], decimals: int
) -> None:
    shown = measured_apart(values, decimals)
    for value, text in zip(values, shown, strict=True):
        for other, other_text in zip(values, shown, strict=True):
            if value is None or other is None:
                assert (text == other_text) == (value is other)
            elif math.isfinite(value) and math.isfinite(other) and value < other:
                assert float(text) <= float(other_text)
                assert text != other_text or math.isclose(value, other, rel_tol=1e-8)


def test_equals_up_to_rounding_do_not_make_a_column_wide() -> None:
    assert measured_apart([0.1 + 0.2, 0.3, 0.4]) == ["0.3000", "0.3000", "0.4000"]
    assert measured_apart([5.16111, 5.16113, None]) == ["5.16111", "5.16113", "-"]


@given(shares)
def test_a_probability_is_certain_only_where_it_is(value: float) -> None:
    text = probability(value)
    assert (text == "1.00") == math.isclose(value, 1.0, rel_tol=1e-9)
    assert (text == "0.00") == (value == 0)


def test_an_interval_of_accuracies_does_not_reach_a_bound_that_it_does_not_have() -> None:
    assert interval(0.99, 0.99996) == "0.9900 to 0.99996"
    assert interval(0.5, 1.0) == "0.5000 to 1.0000"
