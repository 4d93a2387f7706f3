"""A mistake that is found before the first trial leaves nothing that could be taken for a sweep."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from rich.console import Console

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import DataError
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.starter import export_starter
from orchestrator import best, status, sweep, trial
from orchestrator.choosing import confirming
from orchestrator.objectives.objective import Objective
from orchestrator.records import kinds
from orchestrator.records.location import Folder
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store, StoreError, sweeps
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search.space import SearchSpace
from orchestrator.training import by_hand, importing, replaying, trainer
from orchestrator.tune import driver
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import Plan, SweepError
from orchestrator.views import tracking
from orchestrator.views.progress import Progress
from search_spaces import ints
from tests.end_to_end.test_commands import call_here
from tests.support import remote
from tests.support.fakes import metrics

SPACE = SearchSpace(
    "a test", "", {"model.nr_filters": ints(8, 40)}, {"train.epochs": 3, "seed": 0}, 4, Objective("val_acc", "max")
)
LARGE = """
from search_spaces import ints
space = {"model.nr_filters": ints(16, 40)}
settings = {"train.epochs": 1, "train.batch_size": 64, "data.train_fraction": 0.05}
"""


def run(plan: Plan, beside: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
    with Progress(Console(quiet=True), plan.space.objective, plan.space.searched, total=plan.trials) as view:
        driver.run(plan, view, beside=beside)


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (sweep.app, ("search_spaces/cpen455.py", "--set", "data.root=/nowhere")),
        (sweep.app, ("search_spaces/cpen455.py", "--set", "data.root=/nowhere", "--tensorboard")),
        (sweep.app, ("SPACE",)),  # asks for more images in a batch than there are
        (sweep.app, ("search_spaces/digits.py", "--warm-start", "nothing")),
        (trial.app, ("search_spaces/cpen455.py", "--set", "data.root=/nowhere")),
        (trial.app, ("SPACE",)),
        (trial.app, ("import", "nothing.pth", "--fusion", "none", "--set", "data.root=/nowhere")),
        (trial.app, ("import", "nothing.pth", "--fusion", "none", "--set", "data.name=digits")),
        (trial.app, ("replay", "0123456789ab")),
    ],
)
def test_no_command_leaves_a_folder_behind(tmp_path: Path, app: typer.Typer, arguments: tuple[str, ...]) -> None:
    (tmp_path / "space.py").write_text(LARGE)
    given = [str(tmp_path / "space.py") if each == "SPACE" else each for each in arguments]
    code, said = call_here(app, *given, "--results", tmp_path / "results" / "of" / "mine")
    assert code == 2, said
    assert "error: " in said
    assert [file.name for file in tmp_path.iterdir()] == ["space.py"]


def wrong_data(plan: Plan) -> None:
    raise DataError("there is none")


def too_large(*_: object, **__: object) -> None:
    raise SweepError("a trial asks for 64 cores")


@pytest.mark.parametrize("where", ["on disk", "in a bucket"])
@pytest.mark.parametrize(
    ("step", "error"), [("_check_data", wrong_data), ("_tune", too_large), ("_record_run", too_large)]
)
def test_whatever_step_fails_the_name_is_free_and_the_next_attempt_begins_anew(
    where: str, step: str, error: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
    results: Folder = tmp_path / "results" if where == "on disk" else remote.folder().parent
    plan = Plan("one", SPACE, results, trials=1, trainer="tests.support.fakes:train")
    with monkeypatch.context() as patch:
        patch.setattr(driver, step, error)
        with pytest.raises((DataError, SweepError)):
            run(plan)
    assert not plan.store.is_begun
    assert sweeps(results) == []
    assert not list(plan.store.folder.iterdir() if plan.store.is_remote else (tmp_path / "results").parent.glob("r*"))
    assert not list((tmp_path / "cache" / "results").glob("*"))

    monkeypatch.setattr(driver, "_tune", lambda *_: None)
    run(Plan("one", SPACE.with_settings({"train.epochs": 2}), results, trials=1, trainer="tests.support.fakes:train"))
    assert plan.store.is_begun


def test_a_sweep_in_which_a_trial_ran_stays_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.support.fakes:train")

    def tune(_: Plan, store: Store, *__: Any) -> None:
        Recording(store, TrialConfig(), 0)
        raise SweepError("the money is spent")

    monkeypatch.setattr(driver, "_tune", tune)
    with pytest.raises(SweepError):
        run(plan)
    assert plan.store.read_sweep() is not None
    assert len(plan.store.trials().rows()) == 1


def test_one_that_was_begun_earlier_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.support.fakes:train")
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_tune", lambda *_: None)  # stopped before its first trial
        run(plan)
    monkeypatch.setattr(driver, "_tune", too_large)
    with pytest.raises(SweepError):
        run(plan)
    assert plan.store.read_sweep() is not None


def test_what_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_tune", too_large)
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.support.fakes:train")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "notes.txt").write_text("about what I want to ask")
    with pytest.raises(SweepError):
        run(plan)
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["notes.txt"]


def test_one_that_was_killed_before_it_had_begun_is_not_listed(tmp_path: Path) -> None:
    Store(tmp_path / "one").create()
    with holding(Store(tmp_path / "one")):
        pass
    code, said = call_here(status.app, "--results", tmp_path)
    assert (code, "holds no sweep" in said) == (2, True)


def test_a_second_driver_takes_nothing_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.support.fakes:train")
    plan.store.create()
    with holding(plan.store):  # which has not begun yet
        before = sorted(file.name for file in plan.store.folder.iterdir())
        with pytest.raises(SweepError, match="another driver runs this sweep"):
            run(plan)
        assert sorted(file.name for file in plan.store.folder.iterdir()) == before


def test_a_confirmation_whose_data_is_gone_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "one")
    store.create()
    objective = Objective("val_acc", "max")
    store.write_sweep(
        SweepRecord.model_validate({"name": "one", "runs": [], "asked": {"objective": objective.describe()}})
    )
    settings = {"train.epochs": 1, "data.name": "cpen455", "data.root": "/nowhere"}
    for filters in (8, 9):
        recording = Recording(store, TrialConfig.from_flat({**settings, "model.nr_filters": filters}), filters)
        recording.add(metrics(1, val_acc=filters / 10), Place("here", "cpu", 1))
        recording.finish("COMPLETE")
    arguments = ("--metric", "val_acc", "--rule", "max", "--confirm", "2", "--results", tmp_path, "--no-export")
    code, said = call_here(best.app, *arguments)
    assert code == 2, said
    assert "/nowhere" in said
    assert [each.folder.name for each in sweeps(tmp_path)] == ["one"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["one"]

    # With data the question stands in sweep.json before the first trial.
    def tune(plan: Plan, held: Store, *_: Any) -> None:
        question = confirming.recorded(held)
        assert question is not None
        assert len(question.finalists) == 2
        raise StoreError("enough")

    monkeypatch.setattr(driver, "_check_data", lambda _: None)
    monkeypatch.setattr(trainer, "content", lambda _: trainer.Content("0" * 64))
    monkeypatch.setattr(driver, "_tune", tune)
    code, said = call_here(best.app, *arguments)
    assert (code, "enough" in said) == (2, True)


def test_trackers_begin_once_the_folder_is_bound_to_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def beside() -> AbstractContextManager[None]:
        asked.append((plan.store.read_sweep() or SweepRecord()).objective)
        return nullcontext()

    monkeypatch.setattr(driver, "_tune", lambda *_: None)
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.support.fakes:train")
    run(plan, beside)
    assert asked == [SPACE.objective.describe()]


def failing(*_: object, **__: object) -> None:
    raise StoreError("out of reach")


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    """A trial of a sweep, to be replayed."""
    store = Store(tmp_path / "results" / "one")
    store.create()
    store.write_sweep(SweepRecord.model_validate({"name": "one", "kind": "sweep", "runs": []}))
    config = trainer.identified(TrialConfig.from_flat({"train.epochs": 1}))
    recording = Recording(store, config, 0)
    recording.add(metrics(1), Place("here", "cpu", 1))
    return config.trial_id


@pytest.mark.parametrize(
    ("module", "step"),
    [(replaying, "recorded_objective"), (replaying, "forget"), (kinds, "introduce"), (trainer, "run")],
)
def test_a_replay_that_fails_before_its_first_row_leaves_no_folder(
    tmp_path: Path, recorded: str, module: ModuleType, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, step, failing)
    code, said = call_here(trial.app, "replay", recorded, "--results", tmp_path / "results")
    assert (code, "out of reach" in said) == (2, True), said
    assert [folder.name for folder in (tmp_path / "results").iterdir()] == ["one"]


@pytest.mark.parametrize(
    ("module", "step"), [(kinds, "introduce"), (tracking, "following"), (trainer, "run"), (by_hand, "Recording")]
)
def test_a_trial_that_fails_before_its_first_row_leaves_no_folder(
    tmp_path: Path, module: ModuleType, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, step, failing)
    arguments = ("search_spaces/digits.py", "--epochs", "1", "--results", tmp_path / "results" / "of" / "mine")
    code, said = call_here(trial.app, *arguments)
    assert (code, "out of reach" in said) == (2, True), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "step"), [(kinds, "introduce"), (importing, "Recording")])
def test_an_import_that_fails_before_its_row_leaves_no_folder(
    tmp_path: Path, module: ModuleType, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TrialConfig.from_flat({"model.nr_filters": 4, "model.nr_logistic_mix": 1}).model
    export_starter(tmp_path / "s.pth", ConditionalPixelCNN(model, (1, 8, 8), 10))
    monkeypatch.setattr(module, step, failing)
    small = ("--set", "data.name=digits", "--set", "eval.train_images=0")
    arguments = ("import", tmp_path / "s.pth", "--fusion", "none", *small, "--results", tmp_path / "results")
    code, said = call_here(trial.app, *arguments)
    assert (code, "out of reach" in said) == (2, True), said
    assert [file.name for file in tmp_path.iterdir()] == ["s.pth"]


def test_a_folder_that_had_a_trial_keeps_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "run", failing)
    store = Store(tmp_path / "digits-trials")
    store.create()
    config = trainer.identified(TrialConfig.from_flat({"train.epochs": 1}))
    Recording(store, config, 0)
    store.log_file(config.trial_id).write_text("so far")
    code, _ = call_here(trial.app, "search_spaces/digits.py", "--epochs", "1", "--results", tmp_path)
    assert code == 2
    assert store.log_file(config.trial_id).read_text() == "so far"
    assert len(store.trials().rows()) == 1


def test_a_confirmation_on_other_data_says_so_and_not_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "one")
    store.create()
    store.write_sweep(
        SweepRecord.model_validate(
            {"name": "one", "runs": [], "asked": {"objective": Objective("val_acc", "max").describe()}}
        )
    )
    config = TrialConfig.from_flat({"train.epochs": 1, "data.digest": "0" * 32})
    recording = Recording(store, config, 0)
    recording.add(metrics(1, val_acc=0.5), Place("here", "cpu", 1))
    recording.finish("COMPLETE")
    arguments = ("--metric", "val_acc", "--rule", "max", "--confirm", "1", "--seeds", "1", "--no-export")
    code, said = call_here(best.app, *arguments, "--results", tmp_path)
    assert code == 2
    assert "the data is another than the one asked for" in said
    assert "--set data.root=PATH" in said
    assert "--name" not in said
    assert "1 runs in" not in said
    assert [folder.name for folder in tmp_path.iterdir()] == ["one"]

    monkeypatch.setattr(driver, "_check_data", lambda _: None)
    monkeypatch.setattr(trainer, "content", lambda _: trainer.Content("0" * 32))

    def begins(_: object, held: Store, *__: object) -> None:
        Recording(held, config, 0)

    monkeypatch.setattr(driver, "_tune", begins)
    code, said = call_here(best.app, *arguments, "--results", tmp_path)
    assert "1 runs in" in said
    monkeypatch.undo()
    code, said = call_here(best.app, *arguments, "--results", tmp_path)  # begun, and gone on with elsewhere
    assert code == 2
    assert "trials of other data" in said
    assert "--name" not in said
    assert "1 runs in" not in said
