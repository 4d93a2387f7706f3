"""What every sampler of the table keeps: its suggestions follow from the seed and the study, whatever was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.search import samplers
from orchestrator.search.samplers import SAMPLERS
from search_spaces import pareto
from tests.support.studies import in_one_go_and_killed, row_of, run_all, space_of, studying

TRIALS = 4


@pytest.fixture(autouse=True)
def small_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "NSGA2_POPULATION", 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_kill_changes_no_suggestion(tmp_path: Path, sampler: str) -> None:
    space = space_of(sampler)
    whole, parts = in_one_go_and_killed(tmp_path, space, trials=TRIALS)
    assert len(set(whole)) == TRIALS
    assert parts == whole


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_gives_other_suggestions(tmp_path: Path, sampler: str) -> None:
    runs = []
    for seed in (0, 1):
        with studying(tmp_path / str(seed), space_of(sampler), trials=TRIALS, seed=seed) as study:
            runs.append(run_all(study, tmp_path / str(seed)))
    assert runs[0] != runs[1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_several_objectives_and_trials_at_the_same_time(tmp_path: Path, sampler: str) -> None:
    with studying(tmp_path, space_of(sampler, pareto("val_acc", "fid")), trials=TRIALS) as study:
        running = [study.next(), study.next()]
        for suggestion in running:
            assert suggestion is not None
            study.report(suggestion.number, row_of(suggestion))
            study.end(suggestion.number, "COMPLETE", row_of(suggestion))
        run_all(study, tmp_path)
        assert [trial.values is not None for trial in study._study.trials] == [True] * TRIALS


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_suggestion_is_within_the_space(tmp_path: Path, sampler: str) -> None:
    space = space_of(sampler)
    with studying(tmp_path, space, trials=TRIALS) as study:
        for _ in range(TRIALS):
            suggestion = study.next()
            assert suggestion is not None
            assert space.params_of(suggestion.config) is not None
