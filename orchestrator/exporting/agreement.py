"""Whether what weights measure again is what was recorded of them: on the same device to the last digits, elsewhere as
far as rounding allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cpcnn_core.classify import log_joint
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.metrics import of_evaluation
from orchestrator.records.arrays import rows as rows_of
from orchestrator.records.ranking import Entry
from orchestrator.records.store import NotThereError, Row, as_int, as_number
from orchestrator.training import trainer

TOLERANCE = 1e-4  # of metrics and logits; relative ones allow for a temperature of some hundreds
RELATIVE_TOLERANCE = 1e-5

# On another device, sums are added up in another order. That leaves log p(x | y) by some hundredths of a nat, which bpd
# does not show. What is fitted (a temperature), counted in bins (calibration), or counted at all, may step further.
_ELSEWHERE = 0.005
_RELATIVE_ELSEWHERE = 0.05
_CLOSE = 0.5  # nats between two classes, either of which may then be the likelier one


def same(one: float, other: float) -> bool:
    """Whether two values of a metric are the same, both measured on one kind of device."""
    return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=TOLERANCE)


def nearly_same(name: str, one: float, other: float) -> bool:
    """Whether two values of the metric `name` are the same, as far as two kinds of device can give the same."""
    if name.endswith("_bpd"):
        return same(one, other)
    return math.isclose(one, other, rel_tol=_RELATIVE_ELSEWHERE, abs_tol=_ELSEWHERE)


def compared(epoch: Row, evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Recorded and measured again, by metric."""
    again = of_evaluation(evaluation)
    recordings = {name: as_number(epoch.get(name)) for name in again}
    return {name: (value, again[name]) for name, value in recordings.items() if value is not None}


def disagreement(entry: Entry, epoch: Row, metric: str, evaluation: Evaluation) -> str | None:
    """What differs of an epoch whose weights were evaluated again here; None where nothing does.

    On the device that recorded it, `metric` is compared, or where evaluation does not give it, all that it gives. On
    another one bpd is, each prediction that is no close call, and the rest relatively.
    """
    recorded_on, here = str(entry.trial["device"]), trainer.place().device
    checked = compared(epoch, evaluation)
    elsewhere = recorded_on != here
    names = [name for name in ("val_bpd", metric) if name in checked] if elsewhere else [metric]
    for name in names if metric in checked else checked:
        recorded, measured = checked[name]
        if not (nearly_same(name, recorded, measured) if elsewhere else same(recorded, measured)):
            return (
                f"{name} was recorded as {recorded:.6f} on {recorded_on}, the exported weights give {measured:.6f} on "
                f"{here}"
            )
    if not elsewhere:
        return None
    other = _other_prediction(entry, as_int(epoch["epoch"]), evaluation)
    return None if other is None else f"{other}: on {recorded_on} as it was recorded, and on {here}"


def same_predictions(before: Sequence[tuple[str, str]], again: Sequence[tuple[str, str]], logits: Tensor) -> bool:
    """Whether (image, class) are the same images in the same order, and the same classes but for close calls.

    `logits` (N, Y) are log p(image, class) of those `again`.
    """
    if [name for name, _ in before] != [name for name, _ in again]:
        return False
    leads = [lead(row.sort(descending=True).values) for row in logits]
    return all(was == now or by <= _CLOSE for (_, was), (_, now), by in zip(before, again, leads, strict=True))


def _other_prediction(entry: Entry, epoch: int, evaluation: Evaluation) -> str | None:
    """An image that was predicted otherwise, without a close call, in words; None where there is none.

    Predictions that were not kept are not compared.
    """
    try:
        kept = rows_of(entry.store.predictions_table(entry.trial_id, epoch))
    except NotThereError:
        return None
    recorded: Mapping[str, Row] = {str(row["image"]): row for row in kept}
    for name, again in zip(evaluation.names, evaluation.log_likelihood, strict=True):
        if (row := recorded.get(name)) is None:
            return f"the image {name} was not among those that were recorded"
        before = torch.tensor([[row[f"log_p_{label}"] for label in range(len(again))]], dtype=torch.float64)
        was, now = (_ranked(each, evaluation.log_prior) for each in (before, again[None]))
        if was[1][0] != now[1][0] and min(lead(was[0]), lead(now[0])) > _CLOSE:
            return f"the image {name} is predicted as class {int(was[1][0])} and as class {int(now[1][0])}"
    return None


def _ranked(log_likelihood: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(y | x), but for a constant, and the classes, likeliest first."""
    values, classes = log_joint(log_likelihood, log_prior)[0].sort(descending=True)
    return values, classes


def lead(values: Tensor) -> float:
    """By how many nats the first is ahead of the second; of one class alone, for ever."""
    return (values[0] - values[1]).item() if len(values) > 1 else math.inf
