"""What the processes that probe at once answer, and what each measures; end-to-end tests have a whole dry run."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest

from cpcnn_core.config import TrialConfig
from orchestrator.machines.resources import Share
from orchestrator.training import trainer
from orchestrator.tune import probing, rehearsal

CONFIG = TrialConfig.from_flat(
    {
        "data.name": "digits",
        "model.nr_resnet": 1,
        "model.nr_filters": 4,
        "model.nr_logistic_mix": 2,
        "eval.fid_every": 2,
        "eval.fid_extractor": "classifier",
        "train.epochs": 3,
    }
)


def answering(*answers: object, seconds: float = 5.0) -> rehearsal.Rehearsal:
    """Processes that have answered already; None has died, and Ellipsis goes on measuring."""
    channels: list[Connection[Any, Any]] = []
    for answer in answers:
        ours, theirs = multiprocessing.Pipe()
        if answer is None:
            theirs.close()
        elif answer is not ...:
            theirs.send(answer)
        OPEN.append(theirs)
        channels.append(ours)
    return rehearsal.Rehearsal([], channels, time.monotonic() + seconds)


OPEN: list[Connection[Any, Any]] = []  # else a channel that is forgotten closes


def probed(seconds: float, steps: int) -> probing.Probe:
    return probing.Probe(CONFIG, 1, 1, seconds, 1, seconds / 2, steps)


def test_what_all_measured_is_one_probe() -> None:
    mean = answering(probed(1.0, 3), probed(3.0, 5)).probe(CONFIG)
    assert mean is not None
    assert (mean.epoch_seconds, mean.begin_seconds, mean.steps) == (2.0, 1.0, 8)


def test_time_that_is_over_is_no_error() -> None:
    assert answering(probed(1.0, 3), ..., seconds=0.05)._answers() is None


@pytest.mark.parametrize(("answer", "says"), [(None, "died; is there enough memory"), ("ValueError: no", "ValueError")])
def test_what_went_wrong_in_a_process_is_said(answer: object, says: str) -> None:
    with pytest.raises(rehearsal.RehearsalError, match=says):
        answering(probed(1.0, 3), answer)._answers()


@pytest.mark.parametrize(
    ("known", "gpus", "there", "seen"),
    [
        ("", 0.0, 0.0, [None, None, None, None]),
        ("", 0.0, 2.0, ["", "", "", ""]),
        ("", 0.5, 2.0, ["0", "0", "1", "1"]),
        ("", 1.0, 4.0, ["0", "1", "2", "3"]),
        ("5,7", 0.5, 2.0, ["5", "5", "7", "7"]),
    ],
)
def test_each_sees_the_gpu_that_a_trial_would(
    monkeypatch: pytest.MonkeyPatch, known: str, gpus: float, there: float, seen: list[str | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", known)
    share = Share(1, gpus, 4)
    assert [rehearsal._gpu(number, share, 1, {"GPU": there}) for number in range(4)] == seen


@pytest.mark.parametrize("part", [0.0, 0.1])
def test_a_probe_measures_images_too(monkeypatch: pytest.MonkeyPatch, part: float) -> None:
    monkeypatch.setattr(probing, "_PART_SECONDS", part)
    monkeypatch.setattr(probing, "_seconds", lambda run, work: (work(), 0.02)[1])  # whatever else the machine does
    dataset = trainer.dataset(CONFIG.data)
    waited: list[bool] = []
    found = probing.probe(CONFIG, dataset, lambda: waited.append(True))
    assert waited == [True]
    assert found.steps == 1 if not part else found.steps > 1
    with probing.prepared(CONFIG, dataset) as run:
        assert probing._images_seconds(run, drawing=0.0) > 0
    without = CONFIG.with_settings({"eval.fid_every": 0})
    with probing.prepared(without, dataset) as run:
        assert probing._images_seconds(run, drawing=1.0) == 0
    for config in (CONFIG, without):  # the report's pictures are drawn in either case
        assert probing.probe(config, dataset).pictures_seconds > 0
