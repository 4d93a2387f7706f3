"""Every sampler in the table, with one objective and several, interrupted and not."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from orchestrator.records.store import Store
from orchestrator.search import samplers
from orchestrator.search.space import SpaceError, read
from orchestrator.search.study import Study
from search_spaces import constrained, floats, ints, pareto
from tests.support.studies import in_one_go_and_killed, row_of, run_all, space_of, studying


@pytest.mark.parametrize(("sampler", "trials"), [("random", 3), ("nsga2", 7), ("gp", 12)])
def test_one_seed_gives_one_sequence_even_across_restarts(
    tmp_path: Path, sampler: str, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "NSGA2_POPULATION", 4)
    space = space_of(sampler)
    whole, parts = in_one_go_and_killed(tmp_path, space, trials=trials)
    assert len(set(whole)) == trials
    assert parts == whole


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
@pytest.mark.parametrize("objective", [pareto("val_acc", "fid"), constrained("val_acc", fid=30)], ids=["two", "limit"])
def test_samplers_that_learn_take_several_objectives_and_limits(
    tmp_path: Path, sampler: str, objective: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "NSGA2_POPULATION", 4)
    space = space_of(sampler, objective, {"model.nr_filters": ints(8, 40)})
    store = Store(tmp_path)
    store.create()
    study = Study(space, store, seed=0, trials=12, storage=optuna.storages.InMemoryStorage())
    assert len(set(run_all(study, tmp_path))) == 12
    trials = study._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    several = len(trials[0].values) == 2
    for trial in trials:
        fid = 2 * trial.params["model.nr_filters"]
        assert trial.constraints == ({} if several else {"fid": pytest.approx((fid - 30) / 30)})
    # every number of filters is on the front; with the limit, the best has 15
    filters = {trial.params["model.nr_filters"] for trial in trials}
    best = {trial.params["model.nr_filters"] for trial in study._study.best_trials}
    assert best == (filters if several else {max(count for count in filters if count <= 15)})


def test_a_pruned_trial_of_several_objectives_keeps_what_it_reached(tmp_path: Path) -> None:
    with studying(tmp_path, space_of("tpe", pareto("val_acc", "fid")), trials=3) as study:
        suggestion = study.next()
        assert suggestion is not None
        study.report(suggestion.number, row_of(suggestion))
        study.end(suggestion.number, "PRUNED", row_of(suggestion))
        assert study._study.trials[0].values == [row_of(suggestion)["val_acc"], row_of(suggestion)["fid"]]


def test_a_trial_killed_after_its_limits_were_told_is_told_once(tmp_path: Path) -> None:
    space = space_of("tpe", constrained("val_acc", fid=30))
    with studying(tmp_path, space, trials=1) as study:
        suggestion = study.next()
        assert suggestion is not None
        study._running[suggestion.number].trial.set_constraint("fid", 0.5)
    with studying(tmp_path, space, trials=1) as study:
        assert len(run_all(study, tmp_path)) == 1


def test_a_grid_is_walked_whole_in_an_order_that_the_seed_draws(tmp_path: Path) -> None:
    space = space_of("grid")
    every = [config.trial_id for config in space.all()]
    assert len(every) == 3 * 3
    with studying(tmp_path / "whole", space, trials=99) as study:
        walked = run_all(study, tmp_path / "whole")
    assert sorted(walked) == sorted(every)
    assert walked != every
    with studying(tmp_path / "cut", space, trials=99) as study:
        config = study._next_of_grid()
        assert config is not None
        params = space.params_of(config)
        assert params is not None
        study._study.enqueue_trial({name: value for name, (value, _) in params.items()})  # killed before it is asked
    with studying(tmp_path / "cut", space, trials=99) as study:
        assert run_all(study, tmp_path / "cut") == walked


@pytest.mark.parametrize(
    ("text", "sampler", "says"),
    [
        ("space = {}\nsampler = 'tp'", None, "sampler: 'tp' is no sampler; did you mean tpe?"),
        ("space = {}", "gird", "--sampler: 'gird' is no sampler; did you mean grid?"),
        (
            "space = {'train.lr': floats(1e-4, 1e-2, log=True)}",
            "grid",
            "space['train.lr'] = floats(0.0001, 0.01, log=True)",
        ),
        ("space = {'model.nr_filters': ints(1, 200_000)}", "grid", "200,000 configurations, more than 100,000"),
        ("space = {}\nobjective = desirability()", None, "fid is not measured while eval.fid_every is 0"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_it_begins(
    tmp_path: Path, text: str, sampler: str | None, says: str
) -> None:
    file = tmp_path / "question.py"
    file.write_text(f"from search_spaces import desirability, floats, ints\n{text}\n")
    with pytest.raises(SpaceError) as raised:
        read(file, sampler=sampler)
    assert says in str(raised.value)


def test_a_step_makes_a_range_finite_and_its_values_as_they_were_typed(tmp_path: Path) -> None:
    file = tmp_path / "question.py"
    file.write_text(
        "from search_spaces import floats\nspace = {'model.dropout': floats(0.1, 0.7, step=0.1)}\nsampler = 'grid'"
    )
    space = read(file)
    assert [config.model.dropout for config in space.all()] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert space.size == 7
    for config in space.all():
        assert space.params_of(config) is not None
    assert space.params_of(space.default().with_settings({"model.dropout": 0.25})) is None
    with pytest.raises(ValueError, match="do not end at"):
        floats(0.0, 1.0, step=0.3)
