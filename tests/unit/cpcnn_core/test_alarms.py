"""What alarms in an epoch is said in a sentence, and nothing of what was not measured."""

from __future__ import annotations

import pytest

from cpcnn_core import alarms

SOUND = {
    "sample_saturation": 0.5,
    "sample_saturation_validation": 0.5,
    "nearest_train": 1.0,
    "nearest_train_validation": 1.0,
    "activation_max": 20.0,
    "gate_saturation": 0.1,
}


@pytest.mark.parametrize(
    ("column", "just_right", "too_far", "said"),
    [
        (
            "sample_saturation",
            0.75,
            0.76,
            "76% of the drawn sub-pixels are 0 or 255, and 50% of the validation images'",
        ),
        (
            "nearest_train",
            0.5,
            0.49,
            "the model recites its training images: what it draws is at 0.49 from the nearest",
        ),
        ("activation_max", 1000.0, 5e6, "the largest activation is 5e+06; the network blows up"),
        ("gate_saturation", 0.5, 0.51, "51% of the gates are as good as shut or open for good"),
    ],
)
def test_what_is_beyond_its_bound_is_said(column: str, just_right: float, too_far: float, said: str) -> None:
    assert alarms.of_epoch(SOUND | {column: just_right}) == []
    [sentence] = alarms.of_epoch(SOUND | {column: too_far})
    assert said in sentence


@pytest.mark.parametrize("column", SOUND)
def test_nothing_is_said_of_what_was_not_measured(column: str) -> None:
    far = {**SOUND, "sample_saturation": 1.0, "nearest_train": 0.0, "activation_max": 1e9, "gate_saturation": 1.0}
    assert len(alarms.of_epoch(far)) == 4
    assert len(alarms.of_epoch({**far, column: None})) == 3
    assert alarms.of_epoch({}) == []
