"""Of which epochs the weights are kept, and what each of them is worth. Free of torch, for whoever makes room."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from cpcnn_core.config import TrainConfig
from cpcnn_core.metrics import OF_IMAGES, EpochMetrics, fid_protocol_of

Row = Mapping[str, object]

KEPT_BEST_BY = {"val_acc": "max", "val_bpd": "min", "score": "max", "fid": "min", "fid_infinity": "min", "kid": "min"}
"""The metrics whose best epoch keeps its weights; one that was not measured keeps nothing."""


def kept_epochs(history: Sequence[EpochMetrics], train: TrainConfig, there: Container[int]) -> tuple[int, ...]:
    """The epochs of those `there` whose weights stay.

    Always the last, and the best by each of `KEPT_BEST_BY` (the earliest of equals); beside them at most
    `train.keep_most` of those in which images were drawn and of every `train.keep_every`-th, the most valuable ones.
    """
    rows: list[Row] = [epoch.row() for epoch in history]
    last = history[-1].epoch
    places = epoch_places(rows)
    best = {last, *(epoch for epoch, place in places.items() if place == 0)}
    others = [
        epoch.epoch
        for epoch in history
        if epoch.epoch not in best and (epoch.was_drawn or (train.keep_every and epoch.epoch % train.keep_every == 0))
    ]
    others = [epoch for epoch in most_valuable(others, places) if epoch in there][: train.keep_most]
    return tuple(sorted({*(epoch for epoch in best if epoch in there), *others}))


def epoch_places(rows: Iterable[Row]) -> dict[int, int]:
    """Each epoch's best place by any of `KEPT_BEST_BY`, 0 being the first, of equals the earliest."""
    rows = list(rows)
    # Resumed on another machine, a trial may go on with other features; its earlier FIDs do not compare with those.
    protocol = next((fid_protocol_of(row) for row in reversed(rows) if row.get("fid_extractor") is not None), None)
    places: dict[int, int] = {}
    for metric, direction in KEPT_BEST_BY.items():
        sign = 1 if direction == "min" else -1
        values = sorted(
            (sign * float(value), epoch)
            for row in rows
            if isinstance(value := row.get(metric), int | float) and isinstance(epoch := row["epoch"], int)
            if metric not in OF_IMAGES or fid_protocol_of(row) == protocol
        )
        for place, (_, epoch) in enumerate(values):
            places[epoch] = min(place, places.get(epoch, place))
    return places


def most_valuable(epochs: Iterable[int], places: Mapping[int, int]) -> list[int]:
    """The epochs in order of what their weights are worth: of their best place by any metric, of equals the later."""
    return sorted(epochs, key=lambda epoch: (places.get(epoch, len(places)), -epoch))
