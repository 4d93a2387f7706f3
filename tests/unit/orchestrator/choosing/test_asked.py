"""What a sweep asked for, told by its sweep.json alone, is what its space admits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cpcnn_core.config import SINCE_PROTOCOL_2, ConfigError, TrialConfig, field_defaults
from orchestrator import sweep
from orchestrator.choosing.asked import asks_for
from orchestrator.records.recording import Place, Recording
from orchestrator.records.store import Store, config_of
from orchestrator.records.sweep_file import Run, SweepRecord
from orchestrator.search.space import SearchSpace, at_random, read
from orchestrator.tune import driver
from orchestrator.tune.plan import Plan
from orchestrator.views import overview
from tests.support.fakes import metrics
from tests.unit.orchestrator.search.test_space import BRANCHED, HEAD, SPACES

MORE = """
space = {
    "train.lr": floats(0.1, 0.4, step=0.1), "train.grad_clip": choice(None, 1.0), "train.flip": choice(True, False),
    "model.nr_filters": ints(8, 24, step=8),
}
settings = {"data.quantize": None, "train.ema_decay": None}
"""
OTHERWISE: dict[str, Any] = {
    "train.lr": 0.005, "train.epochs": 7, "train.grad_clip": 0.5, "train.flip": True, "model.nr_filters": 12,
    "model.dropout": 0.2, "seed": 3, "data.image_size": 16, "data.quantize": False, "data.digest": "0" * 32,
    "source": "0" * 64, "eval.batch_size": 7, "train.ema_decay": 0.9,
}  # fmt: skip


def recorded(space: SearchSpace, tmp_path: Path) -> SweepRecord:
    plan = Plan("one", space, tmp_path, trials=4)
    plan.store.create()
    driver._agree(plan, plan.store)
    held = plan.store.read_sweep()
    assert held is not None
    return held


def rows(config: TrialConfig, tmp_path: Path) -> list[dict[str, Any]]:
    """As it comes out of the table, alone and beside trials of another fusion."""
    store = Store(tmp_path / config.trial_id)
    store.create()
    Recording(store, config, 0)
    other = {"model.fusion": "input_concat", "model.fusion_options.input_concat.dim": 5}
    alone = store.attempts_of(config.trial_id)
    Recording(store, TrialConfig.from_flat(other), 0)
    return [*alone, *(row for row in store.trials().rows() if row["trial_id"] == config.trial_id)]


@pytest.mark.parametrize("text", [BRANCHED, MORE, *(path.read_text() for path in SPACES)])
def test_it_is_what_the_space_admits(text: str, tmp_path: Path) -> None:
    file = tmp_path / "question.py"
    file.write_text(text if "import" in text else HEAD + text)
    space = read(file, ["data.root=/data"] if '"data.name": "cpen455"' in text else [])
    held = recorded(space, tmp_path)
    rng = random.Random(0)
    for last in (False, False, True):
        config = space.configure(at_random(rng))
        tried = [config]
        for name, value in OTHERWISE.items() if last else []:
            try:
                tried.append(config.with_settings({name: value}))
            except ConfigError:
                continue
        for each in tried:
            admitted = space.params_of(each) is not None
            for row in rows(each, tmp_path):
                assert asks_for(held, row) == admitted, each.flat()
                assert config_of(row) == each
    assert admitted is False  # the last one has a source


def test_a_row_of_before_a_field_counts_with_its_default(tmp_path: Path) -> None:
    file = tmp_path / "question.py"
    file.write_text(HEAD + BRANCHED)
    space = read(file)
    held = recorded(space, tmp_path)
    [row, _] = rows(space.default(), tmp_path)
    assert asks_for(held, {**row, "train.adam_eps": None})
    assert asks_for(held, {name: value for name, value in row.items() if name != "train.compile"})
    assert not asks_for(held, {**row, "train.compile": True})
    assert asks_for(held.model_copy(update={"fields": None}), {**row, "train.compile": True})  # of an earlier release
    assert not asks_for(held.model_copy(update={"fields": None}), {**row, "source": "0" * 64})
    assert asks_for(SweepRecord(), {**row, "source": "0" * 64})  # nothing was asked


def test_the_defaults_are_those_of_a_configuration() -> None:
    assert field_defaults("digits") == TrialConfig().flat()
    course = TrialConfig.from_flat({"data.name": "cpen455", "data.root": "."})
    assert {**field_defaults("cpen455"), "data.root": course.data.root} == course.flat()
    assert set(field_defaults("digits")) >= SINCE_PROTOCOL_2


@pytest.fixture
def mixed(tmp_path: Path) -> Plan:
    """A sweep of two trials, and in its folder a better import and a better trial with settings of its own."""
    file = tmp_path / "question.py"
    file.write_text(HEAD + 'space = {"model.nr_filters": choice(8, 16)}\nsettings = {"train.epochs": 1}\n')
    plan = Plan("c", read(file), tmp_path / "results", trials=2)
    plan.store.create()
    driver._agree(plan, plan.store)
    record = plan.store.read_sweep() or SweepRecord()
    plan.store.write_sweep(record.model_copy(update={"runs": [Run(trials=2)]}))
    small = plan.space.default()
    each = [
        (small, 0.5),
        (small.with_settings({"model.nr_filters": 16}), 0.6),
        (small.with_settings({"source": "5" * 64}), 0.9),
        (small.with_settings({"train.lr": 0.005}), 0.8),
    ]
    for config, accuracy in each:
        recording = Recording(plan.store, config, 0)
        recording.add(metrics(1, val_acc=accuracy), Place("here", "cpu", 1))
        recording.finish("COMPLETE")
    return plan


def test_status_counts_and_ranks_what_the_sweep_asked_for(mixed: Plan) -> None:
    console = Console(width=200, quiet=False)
    with console.capture() as capture:
        console.print(overview.render(mixed.store))
    said = capture.get()
    assert "c: 2 of 2 trials have ended (2 COMPLETE), and 1 imported and 1 run by hand" in said
    assert "best so far: val_acc 0.6000" in said


def test_the_closing_table_is_of_the_sweep_and_so_is_the_next_command(
    mixed: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.show(Console(width=200), mixed)
    said = capsys.readouterr().out
    assert "the best 2 of 2 trials" in said
    assert "0.9000" not in said
    assert "0.8000" not in said
    assert "Not in the table: 1 imported and 1 run by hand" in said
    for row in mixed.store.trials().rows():
        other = row["source"] is not None or row["train.lr"] == 0.005
        assert (f'trial_id != "{row["trial_id"]}"' in said) == other
