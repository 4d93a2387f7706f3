from __future__ import annotations

import itertools
import random

import pytest

from orchestrator.objectives.objective import Objective
from orchestrator.search.scheduler import Scheduler, Stopped
from orchestrator.search.scheduling import Schedule, ScheduleError
from search_spaces import constrained, pareto

ACCURACY = Objective("val_acc", "max")


def show(scheduler: Scheduler, trial: str, *accuracies: float | None) -> str | None:
    """Show a curve from epoch 1 on; return why the trial stops after the last of its epochs."""
    for epoch, value in enumerate(accuracies, start=1):
        scheduler.observe(trial, epoch, ACCURACY.keys({"val_acc": value}))
    return scheduler.stops(trial, len(accuracies))


@pytest.mark.parametrize(
    ("schedule", "epochs", "rungs"),
    [
        (Schedule(), 4, (3,)),
        (Schedule(), 3, ()),
        (Schedule(), 20, (3, 9)),
        (Schedule(), 100, (12, 36)),
        (Schedule(name="promote", grace_epochs=1, reduction_factor=4), 17, (1, 4, 16)),
        (Schedule(name="median", grace_epochs=3), 6, (3, 4, 5)),
        (Schedule(name="none"), 100, ()),
        (Schedule(grace_epochs=9), 9, ()),
    ],
)
def test_rungs_are_epochs_below_the_last(schedule: Schedule, epochs: int, rungs: tuple[int, ...]) -> None:
    assert schedule.scheduler(epochs).rungs == rungs


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("ashaa", "did you mean asha"),
        (3, "3 is no scheduler; there are asha, promote, median, none"),
        ({"name": "asha", "grace": 3}, r"scheduler\.grace: no such field; there are name, grace_epochs"),
        ({"grace_epochs": 0}, "grace_epochs is 0; it must be a whole number of at least 1"),
        ({"reduction_factor": 1.5}, "reduction_factor is 1.5"),
        ({"reduction_factor": True}, "reduction_factor is True"),
    ],
)
def test_a_schedule_that_means_nothing_is_refused(given: object, says: str) -> None:
    with pytest.raises(ScheduleError, match=says):
        Schedule.of(given)


def test_a_schedule_keeps_its_numbers_under_another_name() -> None:
    schedule = Schedule.of({"name": "asha", "grace_epochs": 5})
    assert schedule.named("median") == Schedule(name="median", grace_epochs=5)
    assert schedule.named(None) == schedule
    with pytest.raises(ScheduleError, match="nothing"):
        schedule.named("nothing")


def test_asha_lets_the_best_third_of_each_rung_go_on() -> None:
    scheduler = Schedule(grace_epochs=2).scheduler(9)
    assert show(scheduler, "a", 0.1, 0.5) is None  # the first has nothing to be compared with
    assert show(scheduler, "b", 0.1) is None  # no rung
    assert show(scheduler, "b", 0.1, 0.4) == "after epoch 2 behind 1 of 1 others"
    assert show(scheduler, "c", 0.1, 0.6) is None
    assert show(scheduler, "d", 0.1, 0.5) is not None
    for name, value in zip("efg", (0.1, 0.2, 0.55), strict=True):
        stopped = show(scheduler, name, 0.0, value)
    assert stopped is None  # two of seven go on, and it is the second
    assert show(scheduler, "a", 0.1, 0.5, 0.6, 0.7, 0.7, 0.7) is None
    assert show(scheduler, "c", 0.1, 0.6, 0.6, 0.6, 0.6, 0.6) == "after epoch 6 behind 1 of 1 others"
    assert scheduler.resumes({"b": Stopped(2)}, nothing_new=True) is None  # what it stops it stops for good


def test_a_trial_is_worth_its_best_epoch_so_far_and_a_null_leaves_it_where_it_was() -> None:
    scheduler = Schedule(grace_epochs=2).scheduler(9)
    show(scheduler, "a", 0.9, 0.1)
    assert show(scheduler, "b", 0.5, 0.5) is not None
    assert show(scheduler, "c", 0.95, None) is None
    assert show(scheduler, "d", None, None) is None  # nothing is known against it


def test_equals_share_a_place() -> None:
    scheduler = Schedule(grace_epochs=1).scheduler(9)
    assert [show(scheduler, name, 0.5) for name in "abcdef"] == [None] * 6


def test_the_median_stops_the_worse_half_once_five_are_known() -> None:
    scheduler = Schedule(name="median", grace_epochs=2).scheduler(9)
    assert [show(scheduler, name, 0.0, value) for name, value in zip("abcd", (0.9, 0.8, 0.7, 0.1), strict=True)] == [
        None
    ] * 4
    assert show(scheduler, "e", 0.0, 0.6) is not None
    assert show(scheduler, "f", 0.0, 0.75) is None  # third of six


def test_promoting_pauses_at_each_rung_and_resumes_the_best_third() -> None:
    scheduler = Schedule(name="promote", grace_epochs=1).scheduler(9)
    paused = {}
    for name, value in zip("abcdef", (0.1, 0.6, 0.2, 0.3, 0.5, 0.4), strict=True):
        if show(scheduler, name, value) is not None:
            paused[name] = Stopped(1)
    assert set(paused) == set("abcdef")  # each had somebody ahead of it, or too few beside it, when it came
    assert scheduler.resumes(paused, nothing_new=False) == "b"
    del paused["b"]
    assert scheduler.resumes(paused, nothing_new=False) == "e"
    del paused["e"]
    assert scheduler.resumes(paused, nothing_new=False) is None  # two of six
    show(scheduler, "e", 0.5, 0.5, 0.5)
    paused["e"] = Stopped(3)
    assert scheduler.resumes(paused, nothing_new=False) is None
    assert scheduler.resumes(paused, nothing_new=True) == "e"  # at least the best of a rung gets through
    show(scheduler, "b", 0.6, 0.6, 0.4)
    paused["b"] = Stopped(3)
    assert scheduler.resumes(paused, nothing_new=True) == "b"


def test_none_takes_up_what_another_scheduler_stopped() -> None:
    scheduler = Schedule(name="none").scheduler(9)
    assert show(scheduler, "a", 0.1, 0.1, 0.1) is None
    assert scheduler.resumes({"a": Stopped(3)}, nothing_new=False) == "a"
    assert scheduler.resumes({}, nothing_new=True) is None


def test_several_objectives_are_judged_by_their_front() -> None:
    scheduler = Schedule(grace_epochs=1).scheduler(9)
    points = {"a": (0.0, 3.0), "b": (3.0, 0.0), "c": (1.0, 1.0), "d": (2.0, 2.0), "e": (4.0, 4.0), "f": (1.5, 1.5)}
    for trial, point in points.items():
        scheduler.observe(trial, 1, tuple((value,) for value in point))
    stopped = {trial for trial in points if scheduler.stops(trial, 1) is not None}
    assert stopped == {"d", "e", "f"}  # a third of six, and all of the front that begins it
    promoting = Schedule(name="promote", grace_epochs=1).scheduler(9)
    for trial, point in points.items():
        promoting.observe(trial, 1, tuple((value,) for value in point))
    paused = {trial: Stopped(1) for trial in points}
    resumed = []
    while (chosen := promoting.resumes(paused, nothing_new=False)) is not None:
        resumed.append(chosen)
        del paused[chosen]
    assert resumed == ["a", "b", "c"]


def test_a_larger_reduction_stops_at_least_as_many() -> None:
    rng = random.Random(0)
    curves = [[rng.random() for _ in range(8)] for _ in range(40)]

    def stopped(factor: int) -> int:
        scheduler = Schedule(grace_epochs=1, reduction_factor=factor).scheduler(8)
        return sum(show(scheduler, str(i), curve[0]) is not None for i, curve in enumerate(curves))

    counts = [stopped(factor) for factor in (2, 3, 4, 8)]
    assert all(a <= b for a, b in itertools.pairwise(counts))
    assert counts[0] > 0


def test_a_front_is_judged_by_all_its_metrics_and_a_limit_comes_before_the_metric() -> None:
    front = Objective.of(pareto("val_acc", "fid"))
    assert front.keys({"val_acc": 0.5, "fid": 30.0}) == ((-0.5,), (30.0,))
    assert front.keys({"val_acc": 0.5, "fid": None}) is None
    limited = Objective.of(constrained("val_acc", fid=30))
    kept, broken = (limited.keys({"val_acc": accuracy, "fid": fid}) for accuracy, fid in ((0.5, 30.0), (0.9, 33.0)))
    assert kept is not None
    assert broken is not None
    assert kept < broken
