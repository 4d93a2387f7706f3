"""What every scheduler of the table keeps: it decides by curves alone, so that one rebuilt from rows decides alike."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.search.scheduler import Scheduler, Stopped
from orchestrator.search.scheduling import SCHEDULERS, Schedule

EPOCHS = 10


def show(scheduler: Scheduler, trial: str, *losses: float | None) -> str | None:
    """Show a curve from epoch 1 on; return why the trial stops after the last of its epochs."""
    for epoch, loss in enumerate(losses, start=1):
        scheduler.observe(trial, epoch, None if loss is None else ((loss,),))
    return scheduler.stops(trial, len(losses))


@pytest.mark.parametrize("name", SCHEDULERS)
class TestScheduler:
    def test_rungs_ascend_from_the_grace_epochs_to_below_the_last(self, name: str) -> None:
        for grace, factor, epochs in itertools.product((1, 3), (2, 4), (1, 3, 4, 20)):
            rungs = Schedule(name=name, grace_epochs=grace, reduction_factor=factor).scheduler(epochs).rungs
            assert list(rungs) == sorted(set(rungs))
            assert all(grace <= rung < epochs for rung in rungs)

    @settings(max_examples=30)
    @given(seed=st.integers(0, 2**32))
    def test_one_rebuilt_from_the_curves_decides_as_the_one_that_was_lost(self, name: str, seed: int) -> None:
        rng = random.Random(seed)
        whole = Schedule(name=name, grace_epochs=1).scheduler(EPOCHS)
        curves: dict[str, list[float | None]] = {}
        going = [f"t{i}" for i in range(12)]
        for _ in range(60):
            if not going:
                break
            trial = rng.choice(going)
            curve = curves.setdefault(trial, [])
            curve.append(rng.choice([None, rng.random(), round(rng.random(), 1)]))
            whole.observe(trial, len(curve), None if curve[-1] is None else ((curve[-1],),))
            rebuilt = Schedule(name=name, grace_epochs=1).scheduler(EPOCHS)
            for known in rng.sample(sorted(curves), len(curves)):  # files come in any order
                show(rebuilt, known, *curves[known])
            assert rebuilt.stops(trial, len(curve)) == whole.stops(trial, len(curve))
            if whole.stops(trial, len(curve)) or len(curve) == EPOCHS:
                going.remove(trial)
        stopped = {trial: Stopped(len(curve)) for trial, curve in curves.items() if trial not in going}
        for nothing_new in (False, True):
            chosen = whole.resumes(stopped, nothing_new=nothing_new)
            assert chosen is None or chosen in stopped
            assert (rebuilt.resumes(stopped, nothing_new=nothing_new) is None) == (chosen is None)

    def test_a_trial_without_a_value_is_never_stopped(self, name: str) -> None:
        scheduler = Schedule(name=name, grace_epochs=1).scheduler(EPOCHS)
        for trial in "abcdefgh":
            show(scheduler, trial, 0.1, 0.1, 0.1)
        assert [show(scheduler, "unknown", *[None] * count) for count in (1, 2, 3)] == [None] * 3

    def test_the_worst_of_many_never_goes_on_while_a_better_one_stops(self, name: str) -> None:
        scheduler = Schedule(name=name, grace_epochs=1).scheduler(EPOCHS)
        losses = random.Random(0).sample(range(20), 20)
        for loss in losses:
            scheduler.observe(str(loss), 1, ((loss,),))
        stopped = [loss for loss in range(20) if scheduler.stops(str(loss), 1) is not None]
        assert stopped == list(range(20 - len(stopped), 20))

    def test_a_trial_that_failed_takes_no_place(self, name: str) -> None:
        with_failed, without = (Schedule(name=name, grace_epochs=1).scheduler(EPOCHS) for _ in range(2))
        show(with_failed, "failed", 0.0)
        with_failed.forget("failed")
        for index, trial in enumerate("abcdefgh"):
            assert show(with_failed, trial, float(index)) == show(without, trial, float(index))
