"""What the benchmark of the class loss calls bias and spread."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import class_loss

SMALL = {"model.nr_filters": 4, "model.nr_logistic_mix": 1, "train.batch_size": 8}


def test_all_classes_drawn_is_the_full_gradient_and_one_is_not(tmp_path: Path) -> None:
    run = class_loss.learnt(tmp_path, SMALL)
    class_loss.step(run, 0)
    every = class_loss.gradients(9, 10.0, 2, run)
    one = class_loss.gradients(1, 10.0, 4, run)
    assert every.bias == pytest.approx(0, abs=1e-3)
    assert every.spread == pytest.approx(0, abs=1e-3)
    assert one.spread > 0.1


def test_a_bias_that_so_many_draws_do_not_show_is_not_called_one() -> None:
    assert class_loss.Gradients(1, 1.0, 100, 0.05, 1.0).bias_in_words == "below 10%"
    assert class_loss.Gradients(1, 1.0, 100, 0.25, 1.0).bias_in_words == "25%"
