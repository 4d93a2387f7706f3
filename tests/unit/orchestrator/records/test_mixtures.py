"""A folder holds trials of one data set and one protocol, whichever command comes second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cpcnn_core.config import PROTOCOL, TrialConfig
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.starter import export_starter
from orchestrator import trial
from orchestrator.objectives.objective import Objective
from orchestrator.records.mixtures import Held, MixtureError, check
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search.space import SearchSpace, read
from orchestrator.tune import driver
from orchestrator.tune.plan import Plan
from orchestrator.views import overview
from orchestrator.views.progress import Progress
from search_spaces import ints
from tests.end_to_end.test_commands import call_here
from tests.support.fakes import NoView, metrics
from tests.support.pictures import write_course
from tests.unit.orchestrator.test_identity import SPACE

CATS, DOGS = "c" * 32, "d" * 32
PLAIN = TrialConfig()


def config(digest: str | None = CATS, protocol: int = PROTOCOL) -> TrialConfig:
    return PLAIN.with_settings({"data.digest": digest, "protocol": protocol})


def record(store: Store, held: TrialConfig) -> None:
    store.create()
    recording = Recording(store, held, None)
    recording.add(metrics(1), Place("here", "cpu", 1))
    recording.finish("COMPLETE")


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("held_in", ["rows", "sweep.json"])
def test_other_data_or_another_protocol_is_refused_naming_both_and_the_way_out(tmp_path: Path, held_in: str) -> None:
    store = Store(tmp_path / "one")
    check(store, config(), way_out="leave it")  # nothing is there yet
    if held_in == "rows":
        record(store, config())
    else:
        store.create()
        store.write_sweep(
            SweepRecord.model_validate({"asked": {"protocol": PROTOCOL, "settings": {"data.digest": CATS}}})
        )
    check(store, config(), way_out="leave it")
    with pytest.raises(MixtureError, match=rf"one: .* digest is {CATS}, that of the data digits is {DOGS}.*leave it"):
        check(store, config(DOGS), way_out="leave it")
    with pytest.raises(MixtureError, match="is not recorded"):
        check(store, config(None), way_out="leave it")


def test_rows_of_another_protocol_name_the_release_that_they_need(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    record(store, config(None, protocol=1))
    commit = store.trials().rows()[0]["git_commit"]
    with pytest.raises(MixtureError) as error:
        check(store, config(), way_out="leave it")
    for text in ("under protocol 1", f"by protocol {PROTOCOL}", f"commit {commit}", "to begin anew, leave it"):
        assert text in str(error.value)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    file = tmp_path / "which.py"
    file.write_text(SPACE)
    return file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    sizes = {"model.fusion": "stem_add", "model.nr_filters": 4, "model.nr_logistic_mix": 1}
    export_starter(tmp_path / "s.pth", ConditionalPixelCNN(TrialConfig.from_flat(sizes).model, (3, 8, 8), 4))
    return tmp_path / "s.pth"


def begun(space: Path, root: Path, results: Path) -> Plan:
    plan = Plan("c", read(space, [f"data.root={root}"]), results, trials=2)
    plan.store.create()
    driver._agree(driver._with_one_data_set(plan, Held.of(plan.store)), plan.store)
    return plan


@pytest.mark.parametrize("first", ["sweep", "trial", "import"])
@pytest.mark.parametrize("second", ["sweep", "trial", "import"])
def test_no_command_brings_other_data_into_a_folder(
    tmp_path: Path, space: Path, checkpoint: Path, first: str, second: str
) -> None:
    torch.manual_seed(0)
    roots = {"cats": write_course(tmp_path / "cats", 0), "dogs": write_course(tmp_path / "dogs", 1)}
    results = tmp_path / "results"

    def run(command: str, data: str, name: str = "c") -> tuple[int, str]:
        into = ["--results", results, "--name", name, "--set", f"data.root={roots[data]}"]
        if command == "import":
            small = ["--set", "data.image_size=8", "--set", "eval.train_images=0"]
            return call_here(trial.app, "import", checkpoint, "--fusion", "stem_add", *small, *into)
        return call_here(trial.app, space, *into)

    if first == "sweep":
        begun(space, roots["cats"], results)
    else:
        assert run(first, "cats")[0] == 0
    before = files(results)
    if second == "sweep":
        plan = Plan("c", read(space, [f"data.root={roots['dogs']}"]), results, trials=2)
        with pytest.raises(MixtureError, match=r"trials of other data.*another --name"):
            driver.run(plan, NoView())
        (results / "c" / "sweep.json").unlink()  # the rows say so too, where there are any
        if first != "sweep":
            with pytest.raises(MixtureError):
                driver.run(replace(plan), NoView())
            assert not (results / "c" / "sweep.json").exists()
        return
    code, said = run(second, "dogs")
    assert code == 2, said
    assert "trials of other data" in said
    assert "give this trial another --name" in said
    assert files(results) == before
    assert run(second, "cats")[0] == 0
    assert run(second, "dogs", "other")[0] == 0


def test_a_driver_sets_a_damaged_table_aside_and_says_whose_rows_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = SearchSpace(
        "a test", "", {"model.nr_filters": ints(8, 40)}, {"train.epochs": 1, "seed": 0}, 4, Objective("val_acc", "max")
    )
    plan = Plan("one", space, tmp_path, trials=1, trainer="tests.support.fakes:train")
    store = plan.store
    store.create()
    imported = space.default().with_settings({"source": "5" * 64})
    for held in (space.default(), imported):
        record(store, held)
    store.compact(at_least=1)
    file = store.trials_folder / "compacted.parquet"
    assert isinstance(file, Path)
    file.write_bytes(file.read_bytes()[:-60])
    monkeypatch.setattr(driver, "_tune", lambda *_: None)
    console = Console(width=400)
    with Progress(console, space.objective, space.searched, total=1) as view:
        driver.run(plan, view)
    said = capsys.readouterr().out
    assert f"{file}: not readable as Parquet" in said
    assert "It was moved to" in said
    assert not file.exists()
    shown = Console(width=400)
    shown.print(overview.render(store))
    said = capsys.readouterr().out
    assert "not readable" not in said
    assert f"has no row of {', '.join(sorted([space.default().trial_id, imported.trial_id]))}" in said
