"""From what two configurations take to what a sweep takes."""

from __future__ import annotations

import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.search.scheduling import Schedule
from orchestrator.search.space import SearchSpace
from orchestrator.training import trainer
from orchestrator.tune import forecast
from search_spaces import choice, ints

CONFIG = TrialConfig.from_flat({"train.epochs": 10})
MEDIAN = forecast.Measured(forecast.Load(CONFIG, 100.0), 2.0, 1.0)
LARGEST = forecast.Measured(forecast.Load(CONFIG, 300.0), 4.0, 5.0)


@pytest.mark.parametrize(
    ("work", "seconds"), [(100.0, 1.0), (200.0, 3.0), (300.0, 5.0), (999.0, 5.0), (50.0, 0.5), (1.0, 0.3)]
)
def test_an_epoch_lies_on_a_line_through_what_was_measured(work: float, seconds: float) -> None:
    assert forecast.epoch_seconds(forecast.Load(CONFIG, work), MEDIAN, LARGEST) == pytest.approx(seconds)


def test_a_space_of_one_size_takes_what_was_measured() -> None:
    assert forecast.epoch_seconds(MEDIAN.load, MEDIAN, MEDIAN) == 1.0


def test_trials_wait_for_places() -> None:
    found = forecast.played([MEDIAN.load], MEDIAN, MEDIAN, places=2, most_epochs=[None, None, None], fixed_seconds=6.0)
    assert (found.wall.low, found.wall.high) == pytest.approx((0.8 * 30, 1.35 * 30))  # two after another
    assert (found.trials.low, found.trials.high) == pytest.approx((0.8 * 36, 1.35 * 36))


def test_trials_that_are_stopped_take_their_epochs() -> None:
    found = forecast.played([MEDIAN.load], MEDIAN, MEDIAN, places=1, most_epochs=[10, 3, 99], fixed_seconds=0.0)
    assert found.trials.low == pytest.approx(0.8 * (3 * 2 + 10 + 3 + 10))


@pytest.mark.parametrize(
    ("name", "epochs", "trained"),
    [
        ("none", 9, [9, 9, 9, 9]),
        ("asha", 9, [9, 3, 3, 3]),
        ("promote", 9, [9, 3, 3, 3]),
        ("asha", 3, [3, 3, 3, 3]),  # there is no rung below the last epoch
    ],
)
def test_as_many_stop_as_the_scheduler_may(name: str, epochs: int, trained: list[int]) -> None:
    assert forecast.stopped_epochs(Schedule.of(name), epochs, 4) == trained


def test_the_work_of_a_step_counts_parameters_and_passes() -> None:
    fields = {"model.nr_filters": ints(4, 8), "model.nr_resnet": choice(1)}
    settings = {"model.nr_logistic_mix": 2, "data.name": "digits"}
    space = SearchSpace("a test", "", fields, settings, 1, Objective("val_acc", "max"))
    dataset = trainer.dataset(space.default().data)
    loads = forecast.drawn(space, dataset)
    assert loads == sorted(loads, key=lambda each: each.work)
    assert {load.config.model.nr_filters for load in loads} == set(range(4, 9))
    plain = forecast.load(space.default(), dataset).work
    classes = forecast.load(space.default().with_settings({"train.class_loss_weight": 0.1}), dataset).work
    one = forecast.load(
        space.default().with_settings({"train.class_loss_weight": 0.1, "train.class_loss_others": 1}), dataset
    ).work
    assert (classes, one) == (plain * dataset.nr_classes, plain * 2)
