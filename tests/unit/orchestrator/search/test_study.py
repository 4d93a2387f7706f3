from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, text

from cpcnn_core.config import TrialConfig
from orchestrator.objectives.objective import Objective
from orchestrator.records.states import State
from orchestrator.records.store import Attempt, Store
from orchestrator.search import study_file
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study, StudyError, Suggestion
from search_spaces import Distribution, choice, floats, ints
from tests.support.fakes import metrics
from tests.support.times import at

FIELDS: dict[str, Distribution] = {
    "model.fusion": choice({"none": {}, "input_concat": {"model.fusion_options.input_concat.dim": ints(8, 64)}}),
    "train.lr": floats(1e-4, 1e-2, log=True),
    "model.nr_filters": ints(8, 40),
}
SPACE = SearchSpace("a test", "", FIELDS, {"train.epochs": 2, "seed": 0}, 6, Objective("val_acc", "max"))
SMALL = SearchSpace(
    "a test", "", {"model.nr_filters": ints(8, 10), "model.nr_resnet": ints(1, 2)}, {}, 99, Objective("val_bpd", "min")
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "one")
    made.create()
    return made


@contextmanager
def studying(store: Store, space: SearchSpace = SPACE, *, trials: int = 6, seed: int = 0) -> Iterator[Study]:
    study = Study(space, store, seed=seed, trials=trials)
    try:
        yield study
    finally:
        study.close()


@contextmanager
def refused(store: Store, says: str) -> Iterator[None]:
    """Expect StudyError, and that nothing holds the file any more, though the error is still looked at."""
    with pytest.raises(StudyError, match=says):
        yield
    held = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert [name for name in held if name.startswith(str(store.study_file))] == []


def write_rows(store: Store, config: TrialConfig, state: State, epochs: int = 2) -> None:
    for epoch in range(1, epochs + 1):
        store.add_epoch(config.trial_id, 1, metrics(epoch, val_acc=config.train.lr * 50 + epoch / 100))
    row = Attempt(trial_id=config.trial_id, attempt=1, number=None, state=state, started=at())
    store.write_attempt(row, config)


def run_all(study: Study, store: Store) -> list[Suggestion]:
    """Run what is left, one at a time, as a sweep of simulated trials."""
    done = []
    while (suggestion := study.next()) is not None:
        write_rows(store, suggestion.config, "COMPLETE")
        for row in store.epochs_of(suggestion.config.trial_id):
            study.report(suggestion.number, row)
        best = SPACE.objective.best(store.epochs_of(suggestion.config.trial_id))
        study.end(suggestion.number, "COMPLETE", best)
        done.append(suggestion)
    return done


def states(store: Store) -> list[str]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{store.study_file}")
    found = [trial.state.name for trial in optuna.load_study(study_name=None, storage=storage).trials]
    storage.scoped_session.remove()
    storage.engine.dispose()
    return found


def test_a_sweep_runs_as_many_configurations_as_asked_and_then_none(store: Store) -> None:
    with studying(store) as study:
        assert len({s.config.trial_id for s in run_all(study, store)}) == 6
        assert study.finished == 6
        assert study.is_over
    with studying(store) as study:
        assert study.next() is None
    with studying(store, trials=8) as study:
        assert len(run_all(study, store)) == 2
    assert states(store) == ["COMPLETE"] * 8


def test_one_seed_gives_one_sequence_even_across_restarts(store: Store, tmp_path: Path) -> None:
    with studying(store, trials=14) as study:
        whole = [s.config.trial_id for s in run_all(study, store)]
    other = Store(tmp_path / "other")
    other.create()
    parts = []
    for trials in (3, 12, 14):
        with studying(other, trials=trials) as study:
            parts += [s.config.trial_id for s in run_all(study, other)]
    assert parts == whole
    third = Store(tmp_path / "third")
    third.create()
    with studying(third, seed=1) as study:
        first = study.next()
        assert first is not None
        assert first.config.trial_id != whole[0]


def test_running_trials_are_adopted_under_their_number(store: Store) -> None:
    with studying(store) as study:
        left = [study.next() for _ in range(2)]
    with studying(store) as study:
        assert study.left_behind == 2
        assert [study.next(), study.next()] == left
        assert study.left_behind == 0
        third = study.next()
        assert third is not None
        assert third.number == 2


def test_a_trial_killed_between_its_last_row_and_the_study_is_told_without_running(store: Store) -> None:
    with studying(store) as study:
        suggestion = study.next()
        assert suggestion is not None
        write_rows(store, suggestion.config, "COMPLETE")
    with studying(store) as study:
        assert study.left_behind == 0
        assert study.finished == 1
    assert states(store) == ["COMPLETE"]


def test_a_trial_killed_while_its_parameters_were_written_is_completed(store: Store) -> None:
    with studying(store) as study:
        study._study.ask()
    with studying(store) as study:
        assert study.left_behind == 1
        assert len(run_all(study, store)) == 6


def test_small_spaces_are_exhausted_without_running_anything_twice(store: Store) -> None:
    with studying(store, SMALL, trials=99) as study:
        done = run_all(study, store)
        assert len({s.config.trial_id for s in done}) == len(done) == 6
        assert study.is_over
    with studying(store, SMALL, trials=99) as study:
        assert study.is_over  # without asking, so that a driver has no reason to start Ray
    with studying(store, SMALL, trials=99) as study:
        assert study.next() is None


def test_a_space_that_forbids_some_of_its_configurations_is_over_once_the_others_ran(store: Store) -> None:
    # 6 does not divide the batch of 32
    space = SearchSpace("a test", "", {"train.accumulate": ints(2, 6, step=2)}, {}, 3, SMALL.objective)
    with studying(store, space, trials=3) as study:
        while (suggestion := study.next()) is not None:
            write_rows(store, suggestion.config, "COMPLETE")
            study.end(suggestion.number, "COMPLETE", {"epoch": 1, "val_bpd": 3.0})
        ran, asked = study.finished, len(states(store))
        assert ran == 2
    with studying(store, space, trials=3) as study:
        assert study.is_over
        assert (study.finished, len(states(store))) == (ran, asked)


def test_a_failed_trial_counts_and_is_not_run_again(store: Store) -> None:
    with studying(store, SMALL, trials=2) as study:
        for state in ("FAILED", "PRUNED"):
            suggestion = study.next()
            assert suggestion is not None
            study.end(suggestion.number, state, None)
        assert study.is_over
    assert states(store) == ["FAIL", "FAIL"]


def test_a_pruned_trial_is_told_as_such(store: Store) -> None:
    with studying(store) as study:
        suggestion = study.next()
        assert suggestion is not None
        row = {"epoch": 1, "val_acc": 0.5}
        study.report(suggestion.number, row)
        study.end(suggestion.number, "PRUNED", row)
    assert states(store) == ["PRUNED"]


@pytest.mark.parametrize("state", ["PRUNED", "FAILED", "STOPPED"])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_trial_reached_is_told_of_its_double_by_every_driver(
    store: Store, state: State, restarted: bool
) -> None:
    with studying(store, SMALL, trials=2) as study:
        suggestion = study.next()
        assert suggestion is not None
        write_rows(store, suggestion.config, state, epochs=1)
        study.end(suggestion.number, state, SMALL.objective.best(store.epochs_of(suggestion.config.trial_id)))
        if not restarted:
            assert study._run(suggestion.config) is None
    if restarted:
        with studying(store, SMALL, trials=2) as study:
            assert study._run(suggestion.config) is None
    assert states(store)[1] == "COMPLETE"


def test_a_double_whose_driver_was_killed_before_it_was_told_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with studying(store, SMALL, trials=2) as study:
        suggestion = study.next()
        assert suggestion is not None
        write_rows(store, suggestion.config, "COMPLETE")
        study.end(suggestion.number, "COMPLETE", {"epoch": 1, "val_bpd": 3.2})
        monkeypatch.setattr(study, "_tell", lambda *_: None)
        assert study._run(suggestion.config) is None
    assert states(store) == ["COMPLETE", "RUNNING"]
    with studying(store, SMALL, trials=2) as study:
        assert (study.finished, study.left_behind) == (1, 0)
    assert states(store) == ["COMPLETE", "COMPLETE"]


def test_a_null_metric_is_no_score(store: Store) -> None:
    with studying(store) as study:
        suggestion = study.next()
        assert suggestion is not None
        study.report(suggestion.number, {"epoch": 1, "val_acc": None})
        study.report(suggestion.number, {"epoch": 2, "val_acc": float("nan")})
        study.end(suggestion.number, "COMPLETE", None)
    assert states(store) == ["FAIL"]


def test_a_lost_study_is_rebuilt_from_the_rows(store: Store) -> None:
    with studying(store) as study:
        run_all(study, store)
    for file in store.folder.glob("study.db*"):
        file.unlink()
    with studying(store) as study:
        assert study.finished == 6
        assert study.next() is None
    assert states(store) == ["COMPLETE"] * 6


def test_what_only_the_rows_know_of_is_taken_up_once_however_often_the_driver_is_killed(store: Store) -> None:
    configs = [SMALL.default().with_settings({"model.nr_filters": filters}) for filters in (8, 9, 10)]
    ended: tuple[State, ...] = ("RUNNING", "INTERRUPTED", "PREEMPTED")
    for config, state in zip(configs, ended, strict=True):
        write_rows(store, config, state, epochs=1)
    for _ in range(3):
        with studying(store, SMALL, trials=3) as study:
            assert {suggestion.config.trial_id for suggestion in study.waiting} == {c.trial_id for c in configs}
            assert not study.is_over
    assert states(store) == ["RUNNING"] * 3


def test_a_trial_run_by_hand_counts_if_the_space_admits_it(store: Store) -> None:
    inside = TrialConfig.from_flat({"train.epochs": 2, "train.lr": 1e-3, "model.nr_filters": 9})
    write_rows(store, inside, "COMPLETE")
    write_rows(store, inside.with_settings({"train.epochs": 3}), "COMPLETE")
    write_rows(store, inside.with_settings({"model.nr_filters": 41}), "COMPLETE")
    with studying(store) as study:
        assert study.finished == 1
        assert len(run_all(study, store)) == 5


def test_a_study_file_that_is_none_is_named(store: Store) -> None:
    store.study_file.write_text("not a database, but long enough to look at" * 100)
    with refused(store, r"study\.db: not a readable study.*Move it away"):
        Study(SPACE, store, seed=0, trials=3)


def test_a_full_disk_is_said_in_the_words_that_the_system_has_for_it(store: Store) -> None:
    says = r"study\.db: cannot be written: .* full, SQLITE_FULL: No space left on device$"
    with create_engine("sqlite://").connect() as connection:
        connection.execute(text("pragma max_page_count = 1"))
        with pytest.raises(StudyError, match=says), study_file.writing(store.study_file):
            connection.execute(text("create table songs (title text)"))


def changed(store: Store, *statements: str) -> bytes:
    """The study as another program, or another release of Optuna, would have left it; its content."""
    with closing(sqlite3.connect(store.study_file)) as held, held:
        for statement in statements:
            held.execute(statement)
    return store.study_file.read_bytes()


@pytest.mark.parametrize(
    ("revision", "release"), [("v2.4.0.a", "2.10.1"), ("v0.9.0.a", "0.9.0"), ("v9.0.0.a", "9.1.0")]
)
def test_a_study_of_another_optuna_is_named_with_both_releases_and_left_alone(
    store: Store, revision: str, release: str
) -> None:
    with studying(store):
        pass
    held = changed(
        store,
        f"update alembic_version set version_num = '{revision}'",
        f"update version_info set library_version = '{release}'",
        "drop table trial_heartbeats",  # older ones had fewer
    )
    says = (
        rf"study\.db: was begun by Optuna {release}, with tables of revision {revision}, which Optuna "
        rf"{optuna.__version__} does not read\. Move it away and run the command again: the study is rebuilt"
    )
    with refused(store, says):
        Study(SPACE, store, seed=0, trials=3)
    assert store.study_file.read_bytes() == held


def test_the_database_of_another_program_is_named_and_left_alone(store: Store) -> None:
    held = changed(store, "create table songs (title text)")
    with refused(store, r"study\.db: is a database of another program, with the tables songs\. Move"):
        Study(SPACE, store, seed=0, trials=3)
    assert store.study_file.read_bytes() == held


@pytest.mark.parametrize(
    "statement",
    [
        'update trial_params set distribution_json = \'{"name": "FutureDistribution", "attributes": {}}\'',
        "update trial_user_attributes set value_json = '{'",
        "drop table trial_params",
    ],
)
def test_a_study_with_what_this_optuna_does_not_know_is_one_sentence(store: Store, statement: str) -> None:
    with studying(store) as study:
        assert study.next() is not None
    changed(store, statement)
    with refused(store, r"study\.db: not a readable study \(.*\)\. Move it away"):
        Study(SPACE, store, seed=0, trials=3)


def test_a_study_that_asks_for_something_else_is_named(store: Store) -> None:
    with studying(store):
        pass
    with refused(store, r"study\.db: its study asks to maximize, the sweep to minimize\. Move it away"):
        Study(SMALL, store, seed=0, trials=3)


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_study_file_that_was_begun_and_no_more_is_begun_again_or_named(store: Store, content: bytes) -> None:
    store.study_file.write_bytes(content)
    if content:
        with pytest.raises(StudyError, match="Move it away"):
            Study(SPACE, store, seed=0, trials=3)
    else:
        with studying(store) as study:
            assert len(run_all(study, store)) == 6


def test_a_space_without_any_allowed_configuration_says_why(store: Store) -> None:
    space = SearchSpace("a test", "", {"train.accumulate": ints(3, 5, step=2)}, {}, 3, Objective("val_acc", "max"))
    with studying(store, space) as study, pytest.raises(StudyError, match=r"does not divide train\.batch_size"):
        study.next()


def test_the_sampler_learns(store: Store) -> None:
    with studying(store, trials=40) as study:
        done = run_all(study, store)
    early, late = (sum(s.config.train.lr for s in part) / len(part) for part in (done[:10], done[-10:]))
    assert late > 2 * early


def test_a_file_whose_making_was_cut_short_is_made_anew(store: Store) -> None:
    """Without the index of names, that a full disk may leave out, Optuna makes a second study of one name."""
    with studying(store) as study:
        first = study.next()
    with closing(sqlite3.connect(store.study_file)) as held, held:
        held.execute("drop index ix_studies_study_name")
        held.execute("delete from alembic_version")
    store.study_file.with_name("study.db-shm").touch()
    for _ in range(2):
        with studying(store) as study:
            again = study.next()
        assert first is not None
        assert again is not None
        assert again.config == first.config
    with closing(sqlite3.connect(store.study_file)) as held:
        assert held.execute("select count(*) from studies").fetchone() == (1,)
    assert [path.name for path in store.folder.glob("study.db*")] == ["study.db"]


def test_an_empty_file_is_begun(store: Store) -> None:
    store.study_file.touch()
    with studying(store) as study:
        assert study.next() is not None
