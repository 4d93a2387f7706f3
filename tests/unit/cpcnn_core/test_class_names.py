from __future__ import annotations

import math
import posixpath
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cpcnn_core import class_names, metrics
from orchestrator.choosing import candidates, where
from orchestrator.views import sections
from tests.support import odd

PRINTABLE = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=200)
"""What a class may be called, and more."""

MLFLOW = re.compile(r"[/\w.\- :]*")  # its own pattern of a metric's name, which may not be longer than 250

METRICS = st.sampled_from(class_names.OF_CLASS)


@given(METRICS, PRINTABLE)
@example("val_acc", "a.b")
@example("fid", ".")
@example("val_acc", "min")
def test_a_column_of_a_class_has_its_whole_name(metric: str, name: str) -> None:
    column = class_names.of_class(metric, name)
    assert class_names.class_in(column) == (metric, name)
    assert class_names.pair_in(column, ()) is None
    assert candidates.objective_of(column, None).direction == ("max" if metric == "val_acc" else "min")
    assert metrics.least(column) == -math.inf  # also of a class that is called like a metric in bits


@given(METRICS, PRINTABLE, st.sampled_from(["<=", ">=", "==", "!=", "<", ">"]))
@example("val_acc", "a`b", ">=")
@example("fid", "x and fid <= 3", "<")
def test_a_condition_on_any_class_is_read_as_it_is_written(metric: str, name: str, operator: str) -> None:
    condition = where.Condition(class_names.of_class(metric, name), operator, 0.5)
    other = where.Condition("epoch", "==", 2.0)
    assert where.parse(f"{condition} and {other}") == (condition, other)


@given(st.lists(PRINTABLE, min_size=2, max_size=8, unique=True))
@example(["a/b", "a//b", "a/../b", "b"])
@example([".", ".."])
@example(["x" * 200, "x" * 199 + "y"])
@example(["猫" * 200, "犬" * 200])
def test_trackers_take_every_name_and_make_one_of_no_two(names: list[str]) -> None:
    tags = [sections.tag(sections.sectioned(class_names.of_class("val_acc", name))) for name in names]
    assert len(set(tags)) == len(names)
    for tag in tags:
        assert tag.startswith("val_acc_by_class/")
        assert MLFLOW.fullmatch(tag)
        assert posixpath.normpath(tag) == tag
        assert len(tag.encode()) <= 200


@given(st.lists(PRINTABLE, min_size=2, max_size=8, unique=True))
@example(["1", "0"])
@example(["7", "3"])
def test_a_class_is_asked_for_by_its_name_before_its_number(names: list[str]) -> None:
    for label, name in enumerate(names):
        assert class_names.label_of(name, names) == label
        assert class_names.name_of(label, names) == name
        by_number = class_names.label_of(str(label), names)
        assert by_number == (names.index(str(label)) if str(label) in names else label)
    assert class_names.label_of(str(len(names) + 10**6), names) in {None, *range(len(names))}
    assert class_names.name_of(7, ()) == "7"


def test_a_class_is_found_by_a_name_whose_umlaut_was_typed_as_two_characters() -> None:
    assert class_names.label_of("A\u0308", ("b", "Ä")) == 1
    assert class_names.label_of("Ä", ("b", "A\u0308")) == 1


def test_what_is_no_number_of_a_class_names_none() -> None:
    for given_name in ("", "-1", "3", "²", "\uff11", "1.0", "cat "):
        assert class_names.label_of(given_name, ("cat", "dog", "cow")) is None


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("class_distance.0.2", "cat and class 7"),
        ("class_distance.1.9", "a.b and class 9"),
        ("class_distance.cat.dog", "cat.dog"),  # of an earlier release
        ("class_distance.min", None),
        ("class_distance.mean", None),
        ("val_acc.min", None),
    ],
)
def test_a_pair_of_classes_is_said_in_words(column: str, said: str | None) -> None:
    assert class_names.pair_in(column, ("cat", "a.b", "7")) == said


def test_of_too_many_classes_none_has_a_metric_of_its_own() -> None:
    most = class_names.MOST_MEASURED
    values = [(str(label), 0.5) for label in range(most)]
    assert len(class_names.of_classes("fid", [*values, ("last", None)], most)) == most
    assert class_names.of_classes("fid", [*values, ("last", 0.5)], most + 1) == {}


def test_a_long_name_is_shortened_to_what_fits() -> None:
    for name in odd.TEXTS:
        assert class_names.shortened(name, 200) == name
        short = class_names.shortened(name, 4)
        assert len(short) <= 4
        assert short == name or short.endswith("…")
