"""Objectives of one metric and of several: what an epoch, a trial and a set of trials are worth."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core.config import TrialConfig
from orchestrator.objectives.objective import (
    ConstrainedObjective,
    DesirabilityObjective,
    Objective,
    ObjectiveError,
    ParetoObjective,
    log_desirability,
    pareto_front,
)
from search_spaces import COURSE_GRADING, Desirability, Goal, constrained, desirability, goal, pareto, soft_goal
from tests.support.fakes import metrics

GRADING = Objective.of(COURSE_GRADING)
WITHIN = Objective.of(constrained("val_acc", fid=30))
FRONT = Objective.of(pareto("val_acc", "fid"))
EVERY = [Objective.of("val_bpd"), GRADING, WITHIN, FRONT]


def row(epoch: int = 1, /, **values: float | None) -> dict[str, Any]:
    return {"epoch": epoch, **values}


@pytest.mark.parametrize(
    ("accuracy", "fid", "score"),
    [(0.75, 30.0, 1.0), (0.9, 5.0, 1.0), (0.5, 45.0, 0.5), (0.75, 45.0, math.sqrt(0.5)), (0.2, 30.0, 0.0)],
)
def test_the_courses_grading_is_the_geometric_mean_of_the_way_that_each_metric_has_gone(
    accuracy: float, fid: float, score: float
) -> None:
    assert GRADING.value(row(val_acc=accuracy, fid=fid)) == pytest.approx(score, abs=1e-6)


# (accuracy, FID), best first: what anybody would say who wants both.
BEST_FIRST = [
    (0.88, 25.0), (0.85, 25.0), (0.85, 30.0), (0.76, 25.0), (0.73, 41.0), (0.60, 61.0), (0.40, 61.0), (0.40, 150.0),
]  # fmt: skip
DEFAULT = Objective.of(desirability())


@pytest.mark.parametrize("objective", [DEFAULT, GRADING], ids=["the default", "the course's grading"])
def test_both_put_results_in_the_order_that_anybody_would(objective: Objective) -> None:
    scores = [objective.value(row(val_acc=accuracy, fid=fid)) for accuracy, fid in BEST_FIRST]
    assert all(score is not None for score in scores)
    assert sorted(set(scores), reverse=True) == scores  # none equal
    assert all(0 < score < 1 for score in scores if score is not None)


def test_the_course_s_grading_moves_by_less_than_can_be_told() -> None:
    linear = Objective.of(Desirability(COURSE_GRADING.goals))
    for accuracy, fid in BEST_FIRST:
        epoch = row(val_acc=accuracy, fid=fid)
        assert GRADING.value(epoch) == pytest.approx(linear.value(epoch), abs=1e-6)


@given(
    accuracy=st.integers(0, 10_000), more=st.integers(1, 10_000), fid=st.floats(1e-3, 1e6), factor=st.floats(1.001, 1e3)
)
def test_the_default_is_strictly_better_for_more_accuracy_and_for_less_fid(
    accuracy: int, more: int, fid: float, factor: float
) -> None:
    """Over everything that occurs: a class's share of ten thousand images, FIDs from a thousandth to a million."""
    one = DEFAULT.value(row(val_acc=accuracy / 10_000, fid=fid))
    assert one is not None
    assert 0 < one < 1
    if accuracy + more <= 10_000:
        better = DEFAULT.value(row(val_acc=(accuracy + more) / 10_000, fid=fid))
        assert better is not None
        assert better > one
    worse = DEFAULT.value(row(val_acc=accuracy / 10_000, fid=fid * factor))
    assert worse is not None
    assert worse < one


@pytest.mark.parametrize("wanted", [soft_goal(0.5, 0.9), soft_goal(100, 25, log=True), soft_goal(0.9, 0.5)])
def test_a_soft_goal_is_a_tenth_at_its_worst_and_nine_tenths_at_its_best(wanted: Goal) -> None:
    assert math.exp(log_desirability(wanted.worst, wanted)) == pytest.approx(0.1)
    assert math.exp(log_desirability(wanted.best, wanted)) == pytest.approx(0.9)


def test_a_distance_of_nothing_is_worth_everything() -> None:
    assert log_desirability(0.0, soft_goal(100, 25, log=True)) == 0.0


@pytest.mark.parametrize("declared", [desirability(), COURSE_GRADING, desirability(val_acc=goal(0, 1))], ids=str)
def test_what_is_recorded_of_it_gives_it_again(declared: Desirability) -> None:
    objective = Objective.of(declared)
    assert Objective.from_description(json.loads(json.dumps(objective.describe()))) == objective


def test_a_linear_goal_is_recorded_as_before_there_were_others() -> None:
    described = Objective.of(desirability(val_acc=goal(0, 1))).describe()
    assert described["goals"] == {"val_acc": {"worst": 0.0, "best": 1.0, "weight": 1.0}}
    assert "tie_break" not in described


def test_a_weight_of_two_counts_like_the_same_metric_twice() -> None:
    weighed = Objective.of(desirability(val_acc=goal(0, 1, weight=2), fid=goal(100, 0)))
    assert weighed.value(row(val_acc=0.64, fid=73.0)) == pytest.approx((0.64 * 0.64 * 0.27) ** (1 / 3))


@given(
    one=st.tuples(st.floats(0, 1), st.floats(0, 200)),
    more=st.tuples(st.floats(0, 1), st.floats(0, 200)),
    weight=st.floats(0.1, 10),
)
def test_no_metric_that_gets_better_makes_the_score_worse(
    one: tuple[float, float], more: tuple[float, float], weight: float
) -> None:
    objective = Objective.of(desirability(val_acc=goal(0.25, 0.75, weight=weight), fid=goal(60, 30)))
    better = row(val_acc=min(1.0, one[0] + more[0]), fid=max(0.0, one[1] - more[1]))
    before, after = objective.value(row(val_acc=one[0], fid=one[1])), objective.value(better)
    assert before is not None
    assert after is not None
    assert 0 <= before <= after * (1 + 1e-12) <= 1 + 1e-9


@pytest.mark.parametrize("objective", [GRADING, WITHIN], ids=["desirability", "constrained"])
def test_a_metric_that_is_null_makes_the_score_null_with_the_reason(objective: Objective) -> None:
    failed = metrics(1, fid=None, fid_error="too few images of class cat")
    assert objective.score(failed) == (None, "fid: too few images of class cat")
    assert objective.score(metrics(1)) == (None, "fid was not measured in this epoch")
    assert objective.score(metrics(1, fid=math.nan)) == (None, "fid is nan")
    assert objective.value(failed.row()) is None
    assert objective.values(failed.row()) is None


@pytest.mark.parametrize("value", [0.0, -1e-9, 1e-7, math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("metric", ["val_bpd", "train_bpd"])
def test_a_bpd_that_no_images_cost_is_no_value(metric: str, value: float | None) -> None:
    """As an earlier version recorded of networks that had diverged: it would stand first."""
    objective = Objective.of(metric)
    sound = row(2, **{metric: 5.0})
    assert objective.value(row(**{metric: value})) is None
    assert objective.best([row(**{metric: value}), sound]) == sound
    for combined in (desirability(**{metric: goal(8, 2)}), pareto(metric, "val_acc")):
        assert Objective.of(combined).value(row(**{metric: value, "val_acc": 0.5})) is None
        assert Objective.of(combined).value(row(**{metric: 5.0, "val_acc": 0.5})) is not None


def test_a_limit_that_is_broken_leaves_the_study_a_value_and_the_table_none() -> None:
    broken, kept = metrics(1, val_acc=0.9, fid=36.0), metrics(2, val_acc=0.4, fid=30.0)
    assert WITHIN.score(broken) == (None, "fid 36 is above the limit of 30")
    assert WITHIN.score(kept) == (0.4, None)
    assert WITHIN.values(broken.row()) == (0.9,)
    assert WITHIN.violations(broken.row())["fid"] == pytest.approx(0.2)
    assert WITHIN.violations(kept.row()) == {"fid": 0.0}
    best = WITHIN.best([broken.row(), kept.row()])
    assert best is not None
    assert best["epoch"] == 2
    worse = metrics(3, val_acc=0.99, fid=60.0).row()
    assert WITHIN.best([broken.row(), worse]) == broken.row()  # nothing keeps the limit: the least broken


def test_a_limit_of_a_metric_that_is_better_when_larger_is_a_lower_one_and_a_small_objective_scores_negative() -> None:
    objective = Objective.of(constrained("val_bpd", val_acc=0.5))
    assert objective.score(metrics(1, val_bpd=2.0, val_acc=0.6)) == (-2.0, None)
    assert objective.score(metrics(1, val_bpd=2.0, val_acc=0.4))[1] == "val_acc 0.4 is below the limit of 0.5"


def test_of_several_objectives_the_first_decides_which_epoch_stands_for_a_trial() -> None:
    rows = [row(1, val_acc=0.5, fid=20.0), row(2, val_acc=0.6, fid=50.0), row(3, val_acc=0.6, fid=40.0)]
    best = FRONT.best([*rows, row(4, val_acc=0.9, fid=None)])
    assert best == rows[2]
    assert FRONT.values(rows[2]) == (0.6, 40.0)
    assert FRONT.directions == ("max", "min")
    assert FRONT.keys(rows[2]) == ((-0.6,), (40.0,))
    assert FRONT.keys(row(4, val_acc=0.9, fid=None)) is None
    assert Objective.of("val_acc").keys(rows[2]) == ((0.0, -0.6),)


@pytest.mark.parametrize("objective", EVERY, ids=lambda objective: type(objective).__name__)
def test_an_objective_travels_as_json(objective: Objective) -> None:
    assert Objective.from_description(json.loads(json.dumps(objective.describe()))) == objective


def test_the_default_combination_is_accuracy_and_fid() -> None:
    assert Objective.of(desirability()).reads == ("val_acc", "fid")


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (lambda: pareto("val_acc", "fidd"), "'fidd' is no metric; did you mean fid?"),
        (lambda: constrained("val_ac", fid=30), "did you mean val_acc?"),
        (lambda: constrained("val_acc", fd=30), "'fd' is no metric"),
        (lambda: "test_acc", "objective: test_acc is of the test images, by which nothing is chosen"),
        (lambda: constrained("val_acc", test_acc=0.5), "objective: test_acc is of the test images"),
        (lambda: desirability(fid=goal(30, 60)), "fid, which is better when smaller: the worst value comes first"),
        (lambda: desirability(val_acc=goal(0.9, 0.1)), "better when larger"),
        (lambda: "val_acc.a b.c", "'val_acc.a b.c' is of one class; a sweep optimises metrics of all classes"),
        (lambda: constrained("val_acc", **{"fid.cat": 30}), "'fid.cat' is of one class"),
        (lambda: "score", "objective = desirability"),
        (lambda: 7, "neither the name of a metric nor"),
    ],
)
def test_an_objective_that_means_nothing_is_refused(declare: Any, says: str) -> None:
    with pytest.raises(ObjectiveError, match="objective") as raised:
        Objective.of(declare())
    assert says in str(raised.value)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: goal(1, 1),
        lambda: goal(0, 1, weight=0),
        lambda: goal(0, math.inf),
        lambda: soft_goal(1, 1),
        lambda: soft_goal(0, 1, log=True),
        lambda: desirability(fid=(60, 30)),
        lambda: constrained("val_acc"),
        lambda: constrained("val_acc", fid="30"),
        lambda: pareto("val_acc"),
        lambda: pareto("fid", "fid"),
    ],
)
def test_the_words_refuse_what_means_nothing(declare: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"goal\(|desirability\(|constrained\(|pareto\("):
        declare()


def test_what_no_trial_would_measure_is_named_with_the_way_out() -> None:
    config = TrialConfig.from_flat({"eval.train_images": 0})
    assert Objective.of("val_acc").unmeasured(config) is None
    said = GRADING.unmeasured(config)
    assert said is not None
    assert "fid is not measured while eval.fid_every is 0" in said
    assert "--set eval.fid_every=1" in said
    assert GRADING.unmeasured(config.with_settings({"eval.fid_every": 2})) is None
    assert "--set eval.train_images=512" in str(Objective.of("train_acc").unmeasured(config))
    half = config.with_settings({"eval.fid_every": 1})
    assert "--set eval.fid_extrapolate=true" in str(Objective.of("fid_infinity").unmeasured(half))


# few values, so that equal points and equal coordinates are common
POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), max_size=30)


def beats(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """With directions max, min, max."""
    signed = [(a * sign, b * sign) for a, b, sign in zip(one, other, (1, -1, 1), strict=True)]
    return all(a >= b for a, b in signed) and any(a > b for a, b in signed)


@given(points=POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, ...]]) -> None:
    front = pareto_front(range(len(points)), lambda index: points[index], ("max", "min", "max"))
    assert sorted(front) == [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert [points[index][0] for index in front] == sorted((points[index][0] for index in front), reverse=True)


def test_the_kinds_are_what_their_words_say() -> None:
    assert [type(objective) for objective in EVERY] == [
        Objective,
        DesirabilityObjective,
        ConstrainedObjective,
        ParetoObjective,
    ]
    assert [objective.column for objective in EVERY] == ["val_bpd", "score", "score", "val_acc"]
