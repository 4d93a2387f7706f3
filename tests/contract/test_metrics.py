"""What every metric of the validation split keeps: it is a number, of all images, and better where predictions are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cpcnn_core.evaluation import Evaluation
from cpcnn_core.metrics import METRICS
from orchestrator.objectives.objective import Objective

MEASURED = [name for name, metric in METRICS.items() if metric.of is not None]
Y = 3


def evaluation(log_likelihood: Tensor, labels: Tensor) -> Evaluation:
    names = tuple(f"image {index}" for index in range(len(labels)))
    prior = torch.full((Y,), -math.log(Y), dtype=torch.float64)
    return Evaluation(names, labels, log_likelihood.double(), prior, (1, 4, 4))


def tables(seed: int = 0, images: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % Y
    return torch.randn(images, Y, generator=generator) - 100, labels


def value(name: str, log_likelihood: Tensor, labels: Tensor) -> float:
    of = METRICS[name].of
    assert of is not None
    return of(evaluation(log_likelihood, labels))


@pytest.mark.parametrize("name", MEASURED)
def test_a_finite_number_of_python(name: str) -> None:
    for images in (1, 60):
        number = value(name, *tables(images=images))
        assert isinstance(number, float)
        assert math.isfinite(number)


@pytest.mark.parametrize("name", MEASURED)
def test_the_order_of_images_does_not_matter_and_each_of_them_does(name: str) -> None:
    log_likelihood, labels = tables()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    assert value(name, log_likelihood[order], labels[order]) == pytest.approx(value(name, log_likelihood, labels))
    changed = log_likelihood.clone()
    changed[-1] = changed[-1].roll(1) - 5
    assert value(name, changed, labels) != value(name, log_likelihood, labels)


@pytest.mark.parametrize("name", [name for name in MEASURED if METRICS[name].better is not None])
def test_it_is_better_where_every_image_is_likelier_under_its_class(name: str) -> None:
    log_likelihood, labels = tables()
    right = log_likelihood.scatter_add(1, labels[:, None], torch.full((len(labels), 1), 30.0))
    wrong = log_likelihood.scatter_add(1, (labels[:, None] + 1) % Y, torch.full((len(labels), 1), 30.0))
    good, bad = value(name, right, labels), value(name, wrong - 30, labels)
    assert good > bad if METRICS[name].better == "max" else good < bad


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].better is not None and name != "score"])
def test_a_sweep_can_optimise_it(name: str) -> None:
    assert Objective.of(name).direction == METRICS[name].better
