"""A model that Python opened: images in and out as Pillow has them, numbers as the core has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cpcnn_core.checkpoint import Weights, build_model
from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.config import ConfigError, TrialConfig
from orchestrator.exporting import drawing
from orchestrator.python.model import ImageError, Model

CLASSES = ("a b", "2", "1")
SETTINGS = {"model.fusion": "stem_add", "model.nr_filters": 4, "model.nr_logistic_mix": 2, "seed": 3}


def opened(channels: int = 3, **settings: str) -> Model:
    config = TrialConfig.from_flat(SETTINGS | {name.replace("__", "."): value for name, value in settings.items()})
    torch.manual_seed(0)
    network = build_model(config, (channels, 8, 12), 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return Model(Weights(network, config, 2, {"val_acc": 0.5}, {}, CLASSES))


def images(count: int = 5, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 12, channels), dtype=np.uint8)


def test_likelihoods_are_those_of_the_core() -> None:
    model, given = opened(), images()
    there = torch.from_numpy(given).permute(0, 3, 1, 2)
    expected = class_log_likelihoods(model.network, there, batch_size=128).numpy()
    np.testing.assert_array_equal(model.log_likelihood(given), expected)
    np.testing.assert_allclose(model.log_likelihood(given.astype(np.float64)), expected, rtol=1e-5)
    assert model.image_shape == (8, 12, 3)
    assert (model.epoch, model.metrics, model.nr_classes) == (2, {"val_acc": 0.5}, 3)
    assert repr(model).startswith("Model(stem_add 1/4/2 of trial ")


def test_grey_images_need_no_last_axis() -> None:
    model, given = opened(channels=1), images(channels=1)
    np.testing.assert_array_equal(model.log_likelihood(given[..., 0]), model.log_likelihood(given))


def test_classes_follow_by_bayes() -> None:
    model, given = opened(), images()
    table = model.log_likelihood(given)
    prior = np.array([0.2, 0.3, 0.5])
    for weights, found in ((np.ones(3), model.classify(given)), (prior, model.classify(given, prior=10 * prior))):
        joint = np.exp(table - table.max(1, keepdims=True)) * weights
        np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True), rtol=1e-9)


def test_the_training_sets_frequencies_are_asked_for() -> None:
    model = opened(eval__prior="empirical")
    with pytest.raises(ConfigError, match=r"prior is empirical: give classify\(..., prior"):
        model.classify(images())
    assert model.classify(images(), prior=[0.2, 0.3, 0.5]).shape == (5, 3)
    for wrong in ([0.5, 0.5], [0.0, 0.5, 0.5], [np.nan, 0.5, 0.5]):
        with pytest.raises(ConfigError, match="expected 3 probabilities"):
            model.classify(images(), prior=wrong)


def test_images_drawn_are_those_of_the_command() -> None:
    model = opened()
    drawn, labels = model.sample({2: 1, 0: 2}, seed=5)
    asked = drawing.draw(model._weights, drawing.Request({0: 2, 2: 1}, 5))
    assert labels.tolist() == [0, 0, 2]
    assert drawn.dtype == np.uint8
    assert drawn.shape == (3, 8, 12, 3)
    np.testing.assert_array_equal(drawn, asked.images.permute(0, 2, 3, 1).numpy())
    own, _ = model.sample(1)
    np.testing.assert_array_equal(own, model.sample({0: 1, 1: 1, 2: 1}, seed=3)[0])


def test_evidence_adds_up_to_the_likelihoods_ratio() -> None:
    model, given = opened(), images()
    table = model.log_likelihood(given)
    found = model.evidence(given, 0, [1, 2, 1, 2, 1])
    assert found.shape == (5, 8, 12)
    np.testing.assert_allclose(found.sum((1, 2)), table[:, 0] - table[np.arange(5), [1, 2, 1, 2, 1]], atol=1e-3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((1, 12, 8, 3), np.uint8), r"takes \(N, 8, 12, 3\)"),
        (np.zeros((8, 12, 3), np.uint8), r"\(8, 12, 3\): this network takes"),
        (np.zeros((1, 8, 12, 3), np.int64), "int64: expected uint8"),
        (np.full((1, 8, 12, 3), 256.0), "from 256.0 to 256.0"),
        (np.full((1, 8, 12, 3), np.nan), "from nan"),
    ],
)
def test_other_images_are_refused(given: NDArray[np.generic], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        opened().log_likelihood(given)


def test_other_classes_are_refused() -> None:
    model = opened()
    for wrong in ({3: 1}, {0: -1}, {0: 0}, 0):
        with pytest.raises(ConfigError, match="per_class: "):
            model.sample(wrong)
    for labels in (3, -1, 0.5, [0, 1]):
        with pytest.raises(ConfigError, match="classes: "):
            model.evidence(images(), 0, labels)
    with pytest.raises(ConfigError, match="temperature"):
        model.sample(1, temperature=-1.0)


def test_a_model_of_no_images_gives_no_rows(tmp_path: Path) -> None:
    assert opened().evidence(images(0), 0, 1).shape == (0, 8, 12)
