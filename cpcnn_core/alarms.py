"""What should alarm whoever looks at an epoch, in sentences. Free of torch, so that readers of results start fast."""

from __future__ import annotations

from collections.abc import Mapping

MORE_SATURATED = 0.25
"""The share of sub-pixels by which samples may be more saturated than the data before it is said."""

RECITES = 0.5
"""Of the validation images' distance to the training images: samples that are nearer than that are copies."""

STUCK_GATES = 0.5
"""The share of saturated gates from which on it is said."""


LARGE_ACTIVATION = 1000.0
"""The largest activation from which on it is said: networks of digits have 5 to 20, one that had blown up 5 million."""


def of_epoch(row: Mapping[str, object]) -> list[str]:
    """What is alarming in an epoch's metrics, by their columns; nothing of what was not measured."""
    return [
        sentence for sentence in (_saturates(row), _recites(row), _explodes(row), _sticks(row)) if sentence is not None
    ]


def _saturates(row: Mapping[str, object]) -> str | None:
    share, of_data = (_number(row, name) for name in ("sample_saturation", "sample_saturation_validation"))
    if share is None or of_data is None or share <= of_data + MORE_SATURATED:
        return None
    return (
        f"{share:.0%} of the drawn sub-pixels are 0 or 255, and {of_data:.0%} of the validation images'; the network "
        "blows up or is about to: look at activation_max, and lower train.lr or train.grad_clip"
    )


def _recites(row: Mapping[str, object]) -> str | None:
    nearest, of_data = (_number(row, name) for name in ("nearest_train", "nearest_train_validation"))
    if nearest is None or of_data is None or nearest >= RECITES * of_data:
        return None
    return (
        f"the model recites its training images: what it draws is at {nearest:.3g} from the nearest of them in the "
        f"middle, validation images at {of_data:.3g}; its FID says nothing of new images"
    )


def _explodes(row: Mapping[str, object]) -> str | None:
    largest = _number(row, "activation_max")
    if largest is None or largest <= LARGE_ACTIVATION:
        return None
    return f"the largest activation is {largest:.3g}; the network blows up: lower train.lr or train.grad_clip"


def _sticks(row: Mapping[str, object]) -> str | None:
    share = _number(row, "gate_saturation")
    if share is None or share <= STUCK_GATES:
        return None
    return (
        f"{share:.0%} of the gates are as good as shut or open for good, and hardly learn any more; lower train.lr or "
        "train.grad_clip"
    )


def _number(row: Mapping[str, object], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else None
