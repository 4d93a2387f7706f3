"""Each space that ships, and each of its presets, as a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.search import space
from orchestrator.training import trainer
from orchestrator.tune import dry_run, forecast
from orchestrator.tune.plan import Plan
from tests.support import probes
from tests.support.pictures import write_course
from tests.unit.orchestrator.search.test_space import ASKED

BATCH_OF = "train.batch_size=4"  # of data that has eight images in a split


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_course(tmp_path_factory.mktemp("course"), 0)


@pytest.mark.parametrize(("path", "preset"), ASKED, ids=[f"{path.stem}-{preset}" for path, preset in ASKED])
def test_each_is_planned(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, path: Path, preset: str | None
) -> None:
    of_digits = path.stem in {"digits", "_template"}
    given = ["data.name=digits"] if of_digits else [f"data.root={root}", BATCH_OF, "data.train_fraction=1"]
    plan = Plan("one", space.read(path, given, preset=preset), tmp_path, trials=3)
    monkeypatch.setattr(dry_run, "rehearse", probes.rehearse)
    monkeypatch.setattr(dry_run, "_ray_seconds", lambda: 5.0)
    monkeypatch.setattr(forecast, "_DRAWN", 3)
    monkeypatch.setattr(space, "_SOME_CORNERS", 32)  # each is a network that is built to be counted
    monkeypatch.setattr(trainer, "check", lambda config: None)  # which makes what FID is measured with
    console = Console(record=True, width=250)
    dry_run.show(console, plan)
    said = console.export_text()
    named = f"{path}, preset {preset}" if preset else str(path)
    assert said.startswith(f"{named}: ")
    assert "3 trials into" in said
