"""What is measured again is what was recorded: to the last digits here, as far as rounding allows on another device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cpcnn_core.evaluation import Evaluation
from cpcnn_core.metrics import of_evaluation
from orchestrator.exporting import agreement
from orchestrator.records.store import Store
from orchestrator.training import trainer

NAMES = tuple("abcdef")
TABLE = -100.0 - torch.tensor([[0.0, 9.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0], [0.0, 9.0], [0.1, 0.0]]).double()
PRIOR = torch.full((2,), 0.5).double().log()


def evaluated(table: torch.Tensor) -> Evaluation:
    return Evaluation(NAMES, torch.tensor([0, 1, 0, 1, 0, 1]), table, PRIOR, (1, 4, 4))


@pytest.fixture
def entry(tmp_path: Path) -> Any:
    store = Store(tmp_path / "one")
    store.create()
    store.write_predictions("t", 1, images=NAMES, labels=[0] * 6, log_likelihood=TABLE.tolist())
    return SimpleNamespace(store=store, trial_id="t", trial={"device": "cpu"})


def found(entry: Any, metric: str, table: torch.Tensor, **recorded: float) -> str | None:
    epoch = {"epoch": 1, **of_evaluation(evaluated(TABLE)), **recorded}
    return agreement.disagreement(entry, epoch, metric, evaluated(table))


def test_on_the_same_device_the_metric_is_the_same_to_the_last_digits(entry: Any) -> None:
    assert found(entry, "val_temperature", TABLE) is None
    recorded = of_evaluation(evaluated(TABLE))["val_temperature"]
    said = found(entry, "val_temperature", TABLE, val_temperature=recorded + 2e-4)
    assert f"val_temperature was recorded as {recorded + 2e-4:.6f} on cpu" in str(said)


def test_on_another_device_bpd_and_predictions_are_compared_and_the_rest_relatively(entry: Any) -> None:
    entry.trial = {"device": "cuda: NVIDIA H100"}
    recorded = of_evaluation(evaluated(TABLE))
    assert found(entry, "val_temperature", TABLE, val_temperature=recorded["val_temperature"] * 1.01) is None
    assert found(entry, "val_ece", TABLE, val_ece=recorded["val_ece"] + 1e-3) is None
    assert "val_temperature was" in str(found(entry, "val_temperature", TABLE, val_temperature=99.0))
    assert "val_bpd was" in str(found(entry, "val_acc", TABLE, val_bpd=recorded["val_bpd"] + 2e-4))


def test_a_close_call_may_be_another_elsewhere_and_nothing_else_may(entry: Any) -> None:
    entry.trial = {"device": "cuda: NVIDIA H100"}
    nudge = torch.zeros_like(TABLE)
    nudge[5, 0] = 0.2
    assert evaluated(TABLE + nudge).predictions.tolist() != evaluated(TABLE).predictions.tolist()
    assert found(entry, "train_bpd", TABLE + nudge, **of_evaluation(evaluated(TABLE + nudge))) is None
    swapped = TABLE.clone()
    swapped[[0, 1]] = swapped[[1, 0]]  # which no metric of the two together need show
    said = found(entry, "train_bpd", swapped, **of_evaluation(evaluated(swapped)))
    assert "the image a is predicted as class 0 and as class 1: on cuda: NVIDIA H100" in str(said)
    assert said.endswith(f"and on {trainer.place().device}")
    entry.trial_id = "another, whose predictions were not kept"
    assert found(entry, "train_bpd", swapped, **of_evaluation(evaluated(swapped))) is None


def test_predictions_of_a_file_are_the_same_but_for_close_calls() -> None:
    before = [("a", 0), ("b", 1)]
    logits = torch.tensor([[0.0, -9.0], [0.1, 0.0]])
    assert agreement.same_predictions(before, before, logits)
    assert agreement.same_predictions(before, [("a", 0), ("b", 0)], logits)
    assert not agreement.same_predictions(before, [("a", 1), ("b", 1)], logits)
    assert not agreement.same_predictions(before, [("b", 0), ("a", 1)], logits)
    assert agreement.same_predictions([("a", 0)], [("a", 0)], torch.zeros(1, 1))
