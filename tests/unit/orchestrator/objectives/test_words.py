"""`--objective` says what a space file may say, and executes nothing."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core.metrics import DIRECTIONS
from orchestrator.objectives.objective import Objective, ObjectiveError
from orchestrator.objectives.words import read
from search_spaces import COURSE_GRADING, constrained, desirability, goal, pareto, soft_goal

SAID = [
    ("val_acc", "val_acc"),
    ("desirability()", desirability()),
    ("COURSE_GRADING", COURSE_GRADING),
    ("desirability(val_acc=goal(0.25, 0.75), fid=goal(60, 30, weight=2))", desirability(
        val_acc=goal(0.25, 0.75), fid=goal(60, 30, weight=2)
    )),
    ("desirability(fid=soft_goal(100, 25, log=True))", desirability(fid=soft_goal(100, 25, log=True))),
    ("desirability(kid=goal(1, -1))", desirability(kid=goal(1, -1))),
    ('constrained("val_acc", fid=30)', constrained("val_acc", fid=30)),
    ("constrained(val_acc, fid=30)", constrained("val_acc", fid=30)),
    ("pareto('val_acc', 'fid')", pareto("val_acc", "fid")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "declared"), SAID, ids=[text for text, _ in SAID])
def test_the_words_of_a_space_file(text: str, declared: object) -> None:
    assert read(text) == Objective.of(declared)


@pytest.mark.parametrize("metric", [name for name in DIRECTIONS if name != "score"])
def test_every_metric_by_its_name(metric: str) -> None:
    assert read(metric) == Objective.of(metric)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("val_ac", "did you mean val_acc?"),
        ("val_acc.a cat", "'val_acc.a cat' is of one class"),
        ("desirabilty()", "did you mean desirability?"),
        ("desirability(fid=goal(30, 60))", "the worst value comes first"),
        ("desirability(fid=goal(30))", "--objective: "),
        ("desirability(fid=goal(1, 1))", "worst and best are the same"),
        ("constrained('val_acc')", "name at least one limit"),
        ("pareto('val_acc', 'speed')", "speed"),
        ("", "cannot be read"),
        ("desirability(", "cannot be read"),
        ("__import__('os').system('touch pwned')", "means nothing"),
        ("[x for x in (1,)]", "means nothing"),
        ("goal(0, 1)", "neither the name of a metric nor"),
        ("7", "neither the name of a metric nor"),
    ],
)
def test_what_means_nothing_is_said_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ObjectiveError) as raised:
        read(text)
    assert says in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@given(st.text(max_size=30))
def test_any_text_is_an_objective_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(ObjectiveError):
        assert isinstance(read(text), Objective)
