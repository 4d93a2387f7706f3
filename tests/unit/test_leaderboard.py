"""What a sweep shows at its end, under every kind of objective."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from cpcnn_core.config import TrialConfig
from orchestrator import leaderboard, sweep
from orchestrator.driver import Plan
from orchestrator.objective import Objective, ParetoObjective
from orchestrator.space import SearchSpace
from orchestrator.store import Attempt, Store
from search_spaces import COURSE_GRADING, constrained, ints, pareto
from tests.fakes import metrics


def test_the_leaderboard_shows_the_score_limits_and_the_front(tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    store.create()
    ids = {}
    for filters, accuracy, fid in ((8, 0.9, 50.0), (9, 0.6, 20.0), (10, 0.5, 25.0), (11, 0.4, 15.0)):
        config = TrialConfig.from_flat({"model.nr_filters": filters})
        store.add_epoch(config.trial_id, 1, metrics(1, val_acc=accuracy, fid=fid))
        attempt = Attempt(trial_id=config.trial_id, attempt=1, number=None, state="COMPLETE", started=f"{filters}")
        store.write_attempt(attempt, config)
        ids[config.trial_id] = filters
    entries, _ = leaderboard.read([store])

    def shown(table: Any) -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(table)
        return console.export_text()

    def order(objective: Objective) -> list[int]:
        return [ids[entry.trial_id] for entry in leaderboard.ranked(entries, objective)]

    grading, within = Objective.of(COURSE_GRADING), Objective.of(constrained("val_acc", fid=24))
    assert order(within) == [9, 11, 10, 8]  # those that keep the limit, then the least broken
    text = shown(leaderboard.table(leaderboard.ranked(entries, within), within))
    assert [line.split()[-3] for line in text.splitlines() if "COMPLETE" in line] == [
        "kept",
        "kept",
        "broken",
        "broken",
    ]
    text = shown(leaderboard.table(leaderboard.ranked(entries, grading), grading))
    assert "by score" in text
    assert text.index("0.8367") < text.index("0.7071")  # (0.6 - 0.25) / 0.5 and 1, their geometric mean
    front = Objective.of(pareto("val_acc", "fid"))
    assert isinstance(front, ParetoObjective)
    assert [ids[entry.trial_id] for entry, _ in leaderboard.front(entries, front)] == [8, 9, 11]
    space = SearchSpace("a test", "", {"model.nr_filters": ints(8, 11)}, {}, 4, front)
    console = Console(width=200, record=True, file=io.StringIO())
    sweep.show(console, Plan("one", space, tmp_path, trials=4))
    said = console.export_text()
    assert "the Pareto front of val_acc and fid: 3 epochs of 3 trials" in said
    assert "orchestrator.best --metric val_acc --sweep one" in said
