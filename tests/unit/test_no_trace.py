"""A mistake that is found before the first trial leaves nothing that could be taken for a sweep."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import DataError
from orchestrator import best, confirming, driver, status, sweep, training, trial
from orchestrator.driver import Plan, SweepError
from orchestrator.objective import Objective
from orchestrator.progress import Progress
from orchestrator.recording import Place, Recording
from orchestrator.space import SearchSpace
from orchestrator.storage import Folder
from orchestrator.store import Store, StoreError, sweeps
from search_spaces import ints
from tests import remote
from tests.end_to_end.test_commands import call_here
from tests.fakes import metrics

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
    plan = Plan("one", SPACE, results, trials=1, trainer="tests.fakes:train")
    with monkeypatch.context() as patch:
        patch.setattr(driver, step, error)
        with pytest.raises((DataError, SweepError)):
            run(plan)
    assert not plan.store.is_begun
    assert sweeps(results) == []
    assert not list(plan.store.folder.iterdir() if plan.store.is_remote else (tmp_path / "results").parent.glob("r*"))
    assert not list((tmp_path / "cache" / "results").glob("*"))

    monkeypatch.setattr(driver, "_tune", lambda *_: None)
    run(Plan("one", SPACE.with_settings({"train.epochs": 2}), results, trials=1, trainer="tests.fakes:train"))
    assert plan.store.is_begun


def test_a_sweep_in_which_a_trial_ran_stays_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.fakes:train")

    def tune(_: Plan, store: Store, *__: Any) -> None:
        Recording(store, TrialConfig(), 0)
        raise SweepError("the money is spent")

    monkeypatch.setattr(driver, "_tune", tune)
    with pytest.raises(SweepError):
        run(plan)
    assert plan.store.read_sweep() is not None
    assert len(plan.store.trials().rows()) == 1


def test_one_that_was_begun_earlier_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.fakes:train")
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_tune", lambda *_: None)  # stopped before its first trial
        run(plan)
    monkeypatch.setattr(driver, "_tune", too_large)
    with pytest.raises(SweepError):
        run(plan)
    assert plan.store.read_sweep() is not None


def test_what_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_tune", too_large)
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.fakes:train")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "notes.txt").write_text("about what I want to ask")
    with pytest.raises(SweepError):
        run(plan)
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["notes.txt"]


def test_one_that_was_killed_before_it_had_begun_is_not_listed(tmp_path: Path) -> None:
    Store(tmp_path / "one").create()
    with driver.holding(Store(tmp_path / "one")):
        pass
    code, said = call_here(status.app, "--results", tmp_path)
    assert (code, "holds no sweep" in said) == (2, True)


def test_a_second_driver_takes_nothing_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.fakes:train")
    plan.store.create()
    with driver.holding(plan.store):  # which has not begun yet
        before = sorted(file.name for file in plan.store.folder.iterdir())
        with pytest.raises(SweepError, match="another driver runs this sweep"):
            run(plan)
        assert sorted(file.name for file in plan.store.folder.iterdir()) == before


def test_a_confirmation_whose_data_is_gone_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "one")
    store.create()
    objective = Objective("val_acc", "max")
    store.write_sweep({"name": "one", "runs": [], "asked": {"objective": objective.describe()}})
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
    monkeypatch.setattr(training, "digest", lambda _: "0" * 64)
    monkeypatch.setattr(driver, "_tune", tune)
    code, said = call_here(best.app, *arguments)
    assert (code, "enough" in said) == (2, True)


def test_trackers_begin_once_the_folder_is_bound_to_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def beside() -> AbstractContextManager[None]:
        asked.append((plan.store.read_sweep() or {})["asked"]["objective"])
        return nullcontext()

    monkeypatch.setattr(driver, "_tune", lambda *_: None)
    plan = Plan("one", SPACE, tmp_path, trials=1, trainer="tests.fakes:train")
    run(plan, beside)
    assert asked == [SPACE.objective.describe()]
