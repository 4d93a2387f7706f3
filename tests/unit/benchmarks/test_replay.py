"""Recorded curves, and searches replayed on a simulated clock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks import record_curves, search
from benchmarks.record_curves import SPACE, Epoch, append, key_of, missing, read
from benchmarks.search import METHODS, START_SECONDS, Method, regrets, replay
from orchestrator.search.scheduler import Scheduler, Stopped
from orchestrator.search.scheduling import SCHEDULERS

EVERY = list(SPACE.all())
# More filters and the first fusion are better; each epoch costs a second and adds a little.
CURVES = {
    key_of(config): tuple(
        Epoch(
            epoch, 0.02 * config.model.nr_filters + 0.3 * (config.model.fusion == "block_film") + epoch / 1000, 3.0, 1.0
        )
        for epoch in range(1, 10)
    )
    for config in EVERY
}
BEST = max(curve[-1].val_acc for curve in CURVES.values())


def test_a_table_is_completed_whatever_stopped_it(tmp_path: Path) -> None:
    table = tmp_path / "curves.csv"
    assert len(missing(table)) == len(EVERY) == SPACE.size
    first, second = missing(table)[:2]
    append(first, list(CURVES[key_of(first)]), table)
    append(second, list(CURVES[key_of(second)]), table)
    held = read(table)
    assert set(held) == {key_of(first), key_of(second)}
    for key, curve in held.items():
        assert [epoch.val_acc for epoch in curve] == pytest.approx([epoch.val_acc for epoch in CURVES[key]], abs=1e-6)
    table.write_bytes(table.read_bytes()[:-40])  # killed in the middle of a write
    assert set(read(table)) == {key_of(first)}
    assert missing(table)[0] == second
    append(second, list(CURVES[key_of(second)]), table)
    assert len(read(table)) == 2


def test_the_order_of_recording_is_fixed(tmp_path: Path) -> None:
    ids = [config.trial_id for config in missing(tmp_path / "none.csv")]
    assert ids == [config.trial_id for config in missing(tmp_path / "none.csv")]
    assert ids != [config.trial_id for config in EVERY]


@pytest.mark.parametrize("name", METHODS)
def test_a_replay_is_repeatable_and_the_best_so_far_only_rises(name: str) -> None:
    runs = [replay(METHODS[name], CURVES, seed=seed, workers=3, budget=60.0) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    for trace in runs:
        assert [value for _, value in trace] == sorted({value for _, value in trace})
        assert [moment for moment, _ in trace] == sorted(moment for moment, _ in trace)
        assert trace[0][0] == START_SECONDS + 1.0
        assert trace[-1][0] <= 60.0
    assert runs[0] != runs[2]


def test_a_grid_with_time_for_all_finds_the_best() -> None:
    few = dict(list(CURVES.items())[:12])
    [*_, last] = replay(Method("grid"), few, seed=0, workers=2, budget=1e9)
    assert last[1] == max(curve[-1].val_acc for curve in few.values())
    # two workers, six trials each
    assert last[0] <= 6 * (START_SECONDS + 9)


class Impatient(Scheduler):
    """Stops every trial after its second epoch, and lets none go on while there are new ones."""

    made: ClassVar[list[Impatient]] = []

    def __init__(self, epochs: int, grace: int, factor: int) -> None:
        super().__init__(epochs, grace, factor)
        assert epochs == 9
        self.seen: list[tuple[str, int]] = []
        self.made.append(self)

    def observe(self, trial: str, epoch: int, value: object) -> None:
        self.seen.append((trial, epoch))

    def stops(self, trial: str, epoch: int) -> str | None:
        return "too slow" if epoch == 2 else None

    def resumes(self, stopped: Mapping[str, Stopped], *, nothing_new: bool) -> str | None:
        return min(stopped) if nothing_new and stopped else None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[Impatient]:
    monkeypatch.setitem(SCHEDULERS, "median", Impatient)
    Impatient.made.clear()
    return Impatient.made


def test_what_is_stopped_early_leaves_time_for_more(impatient: list[Impatient]) -> None:
    replay(Method("random", "median"), CURVES, seed=0, workers=1, budget=25.0)
    trials = [trial for trial, _ in impatient[0].seen]
    assert len(impatient[0].seen) == 20
    assert len(set(trials)) == 10  # of 2.5 s each; without stopping, of 9.5 s each, there would be two


def test_what_was_stopped_goes_on_where_it_stood(impatient: list[Impatient]) -> None:
    few = dict(list(CURVES.items())[:3])
    replay(Method("grid", "median"), few, seed=0, workers=1, budget=1e9)
    trials = sorted({trial for trial, _ in impatient[0].seen})
    assert len(trials) == 3
    for trial in trials:
        assert [epoch for of, epoch in impatient[0].seen if of == trial] == list(range(1, 10))
    assert [epoch for _, epoch in impatient[0].seen[:6]] == [1, 2] * 3


def test_the_regret_is_what_is_missing_to_the_best() -> None:
    assert regrets([(1.0, 0.5), (3.0, 0.8)], 0.9, [0.5, 1.0, 2.9, 3.0]) == pytest.approx([0.9, 0.4, 0.4, 0.1])
    assert search.time_to([0.4, 0.2, 0.1], [1.0, 2.0, 3.0], 0.2) == 2.0
    assert search.time_to([0.4], [1.0], 0.2) is None
    mean, half = search.mean_interval([0.0, 1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((1.5, 1.96 * 1.2909944 / 2))


def test_a_recorded_curve_is_what_training_measured(tmp_path: Path) -> None:
    config = EVERY[0].with_settings({"model.nr_filters": 2, "train.epochs": 2, "data.train_fraction": 0.03})
    curve = record_curves.record(config)
    assert [epoch.epoch for epoch in curve] == [1, 2]
    assert all(0 <= epoch.val_acc <= 1 and epoch.cpu_seconds > 0 for epoch in curve)
