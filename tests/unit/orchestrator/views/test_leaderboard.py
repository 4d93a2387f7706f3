"""What a sweep shows at its end, under every kind of objective."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from cpcnn_core.config import Scalar, TrialConfig
from orchestrator import sweep
from orchestrator.objectives.objective import Objective, ParetoObjective
from orchestrator.records import ranking
from orchestrator.records.store import Attempt, Store
from orchestrator.search.space import SearchSpace
from orchestrator.tune.plan import Plan
from orchestrator.views import leaderboard
from search_spaces import COURSE_GRADING, constrained, ints, pareto
from tests.support.fakes import metrics
from tests.support.times import at


def test_the_leaderboard_shows_the_score_limits_and_the_front(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.create()
    ids = {}
    for filters, accuracy, fid in ((8, 0.9, 50.0), (9, 0.6, 20.0), (10, 0.5, 25.0), (11, 0.4, 15.0)):
        config = TrialConfig.from_flat({"model.nr_filters": filters})
        store.add_epoch(config.trial_id, 1, metrics(1, val_acc=accuracy, fid=fid))
        attempt = Attempt(
            trial_id=config.trial_id, attempt=1, number=None, state="COMPLETE", started=at(f"2025-01-{filters:02}")
        )
        store.write_attempt(attempt, config)
        ids[config.trial_id] = filters
    entries, _ = ranking.read([store])

    def shown(table: Any) -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(table)
        return console.export_text()

    def order(objective: Objective) -> list[int]:
        return [ids[entry.trial_id] for entry in ranking.ranked(entries, objective)]

    grading, within = Objective.of(COURSE_GRADING), Objective.of(constrained("val_acc", fid=24))
    assert order(within) == [9, 11, 10, 8]  # those that keep the limit, then the least broken
    text = shown(leaderboard.table(ranking.ranked(entries, within), within))
    assert [line.split()[-3] for line in text.splitlines() if "COMPLETE" in line] == [
        "kept",
        "kept",
        "broken",
        "broken",
    ]
    text = shown(leaderboard.table(ranking.ranked(entries, grading), grading))
    assert "by score" in text
    assert text.index("0.8367") < text.index("0.7071")  # (0.6 - 0.25) / 0.5 and 1, their geometric mean
    front = Objective.of(pareto("val_acc", "fid"))
    assert isinstance(front, ParetoObjective)
    assert [ids[entry.trial_id] for entry, _ in ranking.front(entries, front)] == [8, 9, 11]
    space = SearchSpace("a test", "", {"model.nr_filters": ints(8, 11)}, {}, 4, front)
    console = Console(width=200, record=True, file=io.StringIO())
    sweep.show(console, Plan("one", space, tmp_path, trials=4))
    said = console.export_text()
    assert "the Pareto front of val_acc and fid: 3 epochs of 3 trials" in said
    assert "orchestrator.best --metric val_acc --sweep one" in said


def test_a_setting_that_is_not_known_of_an_import_is_no_difference(tmp_path: Path) -> None:
    """Beside an import each field of training was a column, and the metric had no room."""
    trained = [TrialConfig.from_flat({"model.nr_filters": filters}) for filters in (8, 9)]
    imported = trained[0].with_settings({"source": "5" * 64, "train.epochs": 1})
    entries = [ranking.Entry(Store(tmp_path), {"trial_id": "t", **held.flat()}, ()) for held in (*trained, imported)]
    settings = [entry.settings() for entry in entries]
    assert ranking.differing(settings) == ["model.nr_filters", "source"]
    assert ranking.differing([{"train.lr": 1}, {"train.lr": 2}, {}]) == ["train.lr"]
    cut: list[dict[str, Scalar]] = [{"data.validation_share": None}, {"data.validation_share": 0.1}]
    assert ranking.differing(cut) == ["data.validation_share"]
    assert ranking.differing([{"data.digest": "a" * 32, **each} for each in cut]) == []  # both gave the same
    option = "model.fusion_options.block_film.hidden"
    assert ranking.differing([{option: 8}, {}]) == [option]  # the other one has its default


def test_however_many_settings_differ_the_metric_stays_whole(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.create()
    every = {
        name: value * 1.37
        for name, value in TrialConfig().flat().items()
        if isinstance(value, float) and 0 < value < 0.5
    }
    for number, value in enumerate((0.8367, 0.7071)):
        changed = {name: held * (1 - number / 3) for name, held in every.items()} | {"train.optimizer": "adamw"}
        config = TrialConfig.from_flat({**changed, "model.label_encoding": ("embedding", "one_hot")[number]})
        store.add_epoch(config.trial_id, 1, metrics(1, val_acc=value))
        attempt = Attempt(trial_id=config.trial_id, attempt=1, number=None, state="COMPLETE", started=at())
        store.write_attempt(attempt, config)
    entries, _ = ranking.read([store])
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(leaderboard.table(entries, Objective("val_acc", "max")), soft_wrap=True)
    said = console.export_text()
    for whole in ("val_acc", "0.8367", "0.7071", *(entry.trial_id[:6] for entry in entries)):
        assert whole in said
