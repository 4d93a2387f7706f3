"""Every reader of the tables, on a sweep that has a trial in each state: each says of it what the one table says."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cpcnn_core.config import TrialConfig
from orchestrator import report
from orchestrator import sweep as sweep_command
from orchestrator.choosing import candidates, confirming
from orchestrator.choosing import decision as decisions
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.choosing.where import parse
from orchestrator.objectives.objective import Objective, ParetoObjective
from orchestrator.records import ranking
from orchestrator.records.layout import COMPACTED
from orchestrator.records.recording import KILLED, Recording
from orchestrator.records.states import ENDED, FAILURES, MEANINGS, State, meaning_of, reason_of
from orchestrator.records.store import Attempt, Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search import warm_start
from orchestrator.search.budget import spent
from orchestrator.search.ledger import Ledger
from orchestrator.search.scheduling import SCHEDULERS
from orchestrator.search.space import SearchSpace
from orchestrator.search.study import Study
from orchestrator.training import replaying
from orchestrator.tune import driver
from orchestrator.tune.holding import holding
from orchestrator.tune.plan import Plan
from orchestrator.views import overview
from orchestrator.views.progress import Progress
from orchestrator.views.tracking import Follower
from search_spaces import ints, pareto
from tests.support.fakes import metrics
from tests.support.paths import ROOT
from tests.support.times import at

STATES = get_args(State)
SPACE = SearchSpace(
    "a test", "", {"model.nr_filters": ints(8, 14)}, {"train.epochs": 3, "seed": 0}, 7, Objective("val_acc", "max")
)
# What each state means, written down a second time.
RUNS = {"RUNNING"}
FAILED = {"FAILED"}
OVER = {"COMPLETE", "PRUNED", "FAILED", "STOPPED"}
GO_ON = {"INTERRUPTED", "PREEMPTED"}


def config_of(state: State) -> TrialConfig:
    return SPACE.default().with_settings({"model.nr_filters": 8 + STATES.index(state)})


ID: Mapping[str, State] = {config_of(state).trial_id: state for state in STATES}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A trial in each state. The one that FAILED has the best epochs, the one that was STOPPED the next best."""
    made = Store(tmp_path / "results" / "every")
    made.create()
    made.write_sweep(
        SweepRecord.model_validate(
            {"name": "every", "asked": {"objective": SPACE.objective.describe()}, "runs": [{"trials": 7}]}
        )
    )
    for number, state in enumerate(STATES):
        config = config_of(state)
        accuracy = 0.9 if state in FAILED else 0.1 * number
        epochs = 3 if state == "COMPLETE" else 2
        for epoch in range(1, epochs + 1):
            made.add_epoch(config.trial_id, 1, metrics(epoch, val_acc=accuracy + epoch / 100, kept_epochs=(1, 2, 3)))
        ended = None if state in RUNS else at(f"2025-01-01T{number:02d}:30")
        row = Attempt(
            trial_id=config.trial_id, attempt=1, number=number, state=state, epochs=epochs, gpus=1.0,
            started=at(f"2025-01-01T{number:02d}:00"), ended=ended, seconds=None if state in RUNS else 1800.0,
            error=f"why {state}" if state in FAILED else None,
            stopped=None if state in {"COMPLETE", "FAILED", "RUNNING"} else f"why {state}",
        )  # fmt: skip
        made.write_attempt(row, config)
    return made


def states_of(trials: Any) -> list[State]:
    return [ID[str(trial_id)] for trial_id in trials]


def test_the_table_says_of_each_state_what_it_means() -> None:
    assert set(MEANINGS) == set(STATES) == RUNS | OVER | GO_ON
    for state in STATES:
        meaning = meaning_of(state)
        assert (meaning.runs, meaning.ended, meaning.failed, meaning.waits) == (
            state in RUNS,
            state in OVER,
            state in FAILED,
            state in GO_ON,
        )
    assert (set(ENDED), set(FAILURES)) == (OVER, FAILED)
    other = meaning_of("DONE")  # nobody's of ours
    assert (other.ended, other.failed) == (True, False)
    assert reason_of({"error": None, "stopped": "it was slow"}) == "it was slow"


def test_the_schema_s_page_has_the_table() -> None:
    page = (ROOT / "docs" / "results-schema.md").read_text()
    rows = re.findall(r"^\| `([A-Z]+)` \| (yes|no) \| (yes|no) \| (.*) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == list(MEANINGS)
    for state, ended, failed, text in rows:
        meaning = meaning_of(state)
        assert (ended == "yes", failed == "yes", text) == (meaning.ended, meaning.failed, meaning.text)


def test_status(store: Store) -> None:
    def shown() -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(overview.render(store))
        return console.export_text()

    said = shown()
    counts = ", ".join(f"1 {state}" for state in sorted(STATES))
    assert f"every: {len(OVER)} of 7 trials have ended ({counts})" in said
    leader = config_of("STOPPED").trial_id
    assert f"best so far: val_acc {0.1 * STATES.index('STOPPED') + 0.02:.4f} in epoch 2 of {leader}" in said
    with holding(store):
        held = shown()
    assert f"{config_of('RUNNING').trial_id} runs: epoch 2/3" in held
    for text in (said, held):
        shown_states = {ID[found[0]]: found[2] for found in re.findall(r"  ([0-9a-f]{12}) ([A-Z]+): (.*?) *\n", text)}
        assert shown_states == {state: f"why {state}" for state in FAILED | GO_ON}
    rows = store.latest_attempts().rows()
    assert overview.per_hour(rows) == pytest.approx(len(OVER) / (0.5 * len(OVER)))


def test_what_was_spent_counts_whatever_became_of_it(store: Store) -> None:
    of_the_running_one = 2 * 0.01
    expected = 0.5 * 6 + of_the_running_one / 3600
    found = spent(store.trials().rows(), store.epochs().rows())
    assert (found.hours, found.gpu_hours) == pytest.approx((expected, expected))


@pytest.mark.parametrize("kept", [False, True])
def test_the_leaderboard_and_the_best_so_far(store: Store, kept: bool) -> None:
    entries, _ = ranking.read([store])
    order = states_of(entry.trial_id for entry in ranking.ranked(entries, SPACE.objective, kept=kept))
    assert order == [*(state for state in reversed(STATES) if state not in FAILED), *FAILED]
    found = driver._best_so_far(Plan("every", SPACE, store.folder.parent, trials=7), entries)
    assert found is not None
    assert ID[found[1].trial_id] == "STOPPED"
    alone = [entry for entry in entries if entry.trial["state"] in FAILED]
    assert ranking.leader(alone, SPACE.objective) is None
    assert "no epoch has been measured yet" in overview._best(alone, SPACE.objective, ())


def test_the_pareto_front(store: Store) -> None:
    entries, _ = ranking.read([store])
    objective = Objective.of(pareto("val_acc", "val_bpd"))
    assert isinstance(objective, ParetoObjective)
    front = states_of(entry.trial_id for entry, _ in ranking.front(entries, objective))
    assert not FAILED & set(front)
    assert set(front) == {"STOPPED", "COMPLETE"}  # the most accurate, and the one that came to epoch 3


def test_the_end_of_a_sweep_names_no_winner_that_failed(store: Store) -> None:
    recorded: list[Console] = []

    def shown() -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        recorded.append(console)
        sweep_command.show(console, Plan("every", SPACE, store.folder.parent, trials=7))
        return console.export_text()

    said = shown()
    assert all(state in said for state in STATES)
    assert "orchestrator.best --metric val_acc" in said
    assert "1 of 7 trials FAILED" in said
    assert "--retry-failed" in said
    for state in set(STATES) - FAILED:
        (store.trials_folder / f"{config_of(state).trial_id}.parquet").unlink()
    with pytest.raises(typer.Exit) as ended:  # nothing has completed
        shown()
    assert ended.value.exit_code == 1
    assert "orchestrator.best" not in recorded[-1].export_text()


def test_best(store: Store) -> None:
    decision = decisions.choose(candidates.read([store], "val_acc"))
    assert ID[decision.trial_id] == "STOPPED"
    assert set(states_of(one.trial_id for one in decision.standings())) == set(STATES) - FAILED
    for state in STATES:  # asked for by name, each of them
        condition = parse(f"trial_id == '{config_of(state).trial_id}'")
        assert ID[decisions.choose(candidates.read([store], "val_acc", conditions=condition)).trial_id] == state
    for unnamed in ("state == 'FAILED'", "val_acc > 0.8", "trial_id != 'nobody' and val_acc > 0.8"):
        with pytest.raises(ChoiceError, match=f"FAILED: .*--where \"trial_id == '{config_of('FAILED').trial_id}'\""):
            candidates.read([store], "val_acc", conditions=parse(unnamed))


def test_an_ensemble_and_a_confirmation_start_from_what_best_chooses_from(store: Store) -> None:
    epochs = candidates.read([store], "val_acc")
    assert not FAILED & set(states_of(epochs.trials[trial][1]["trial_id"] for trial in epochs.trial))
    decision = decisions.choose(epochs)
    asked = confirming.ask(decision.epochs, decision.standings(), finalists=len(STATES) - 1, seeds=1)
    assert not FAILED & set(states_of(finalist.trial_id for finalist in asked.finalists))
    with pytest.raises(ChoiceError, match="there are 6 different configurations"):
        confirming.ask(decision.epochs, decision.standings(), finalists=len(STATES), seeds=1)


def test_a_confirmation_says_why_a_run_has_no_value(store: Store) -> None:
    why = {ID[row["trial_id"]]: confirming._why(row, "val_acc") for row in store.latest_attempts().rows()}
    assert why == {state: f"why {state}" for state in STATES} | {
        "RUNNING": "RUNNING",
        "COMPLETE": "its val_acc is null after the last epoch",
    }


def test_the_report(store: Store) -> None:
    done = CliRunner().invoke(report.app, ["--results", str(store.folder.parent)])
    assert done.exit_code == 0, done.output
    page = (store.folder.parent / "report.html").read_text()
    section = dict(re.findall(r"<h2[^>]*>([^<]*)</h2>(.*?)</section>", page, re.DOTALL))
    assert states_of(re.findall(r"<code>([0-9a-f]{12})</code>", section["Failures"])) == [*FAILED]
    rows = [
        re.findall(r"<t[hd][^>]*>(?:<code>)?([^<]*)", row)
        for row in re.findall(r"<tr id=.*?</tr>", section["All trials"], re.DOTALL)
    ]
    assert {ID[row[0]]: (row[1], row[-1]) for row in rows} == {
        state: (state, "" if state in {"RUNNING", "COMPLETE"} else f"why {state}") for state in STATES
    }
    [figure] = re.findall(r'<script type="application/json" data-for="best-so-far">(.*?)</script>', page, re.DOTALL)
    [line] = [trace["x"] for trace in json.loads(figure)["data"] if trace["name"] == "best so far"]
    assert len(line) == len(STATES) - len(FAILED)


def test_trackers_close_the_run_of_whatever_does_not_run(store: Store) -> None:
    ended: list[tuple[State, bool]] = []

    class Remembers:
        def epoch(self, trial: ranking.Entry, row: Mapping[str, Any], samples: object) -> None: ...
        def close(self) -> None: ...
        def end(self, trial: ranking.Entry, best: Mapping[str, Any] | None) -> None:
            ended.append((ID[trial.trial_id], trial.meaning.failed))

    for _ in range(2):
        Follower(store, {"one": Remembers()}).close()
    assert sorted(ended) == sorted((state, state in FAILED) for state in STATES if state not in RUNS)


@pytest.mark.parametrize("state", STATES)
def test_a_new_attempt_closes_what_nobody_ended_and_leaves_the_rest(store: Store, state: State) -> None:
    before = store.attempts_of(config_of(state).trial_id)
    Recording(store, config_of(state), 0)
    first, second = store.attempts_of(config_of(state).trial_id)
    assert (second["state"], second["attempt"], second["epochs"]) == ("RUNNING", 2, before[0]["epochs"])
    changed = {"state": "INTERRUPTED", "stopped": KILLED, "peak_memory_bytes": 2**20} if state in RUNS else {}
    assert first == before[0] | changed


def test_compaction_takes_what_has_ended(store: Store) -> None:
    before = store.trials().rows(), store.epochs().rows()
    assert store.compact(at_least=1) == 2 * len(OVER)
    own = {file.stem for file in store.trials_folder.iterdir() if file.name != COMPACTED}
    assert set(states_of(own)) == set(STATES) - OVER
    again = store.trials().rows(), store.epochs().rows()
    for table, other in zip(before, again, strict=True):
        assert sorted(map(str, table)) == sorted(map(str, other))


@pytest.mark.parametrize("state", STATES)
def test_a_replay_goes_as_far_as_the_trial_went_in_whatever_state_it_is(store: Store, state: State) -> None:
    trial_id = config_of(state).trial_id
    assert replaying.holder(store.folder.parent, trial_id, None).folder == store.folder
    assert replaying.recorded_config(store, trial_id, []) == config_of(state)
    assert len(store.epochs_of(trial_id)) == (3 if state == "COMPLETE" else 2)


def test_a_warm_start_uses_what_was_measured_unless_it_failed_or_is_still_being_measured(store: Store) -> None:
    space = dataclasses.replace(SPACE, settings={**SPACE.settings, "seed": 7})
    [source] = warm_start.gather(space, [store])
    assert {recorded.state for _, recorded in source.used} == set(STATES) - FAILED - RUNS
    assert set(source.refused) == {"it failed", "it has not ended"}
    new = Store(store.folder.parent / "new")
    new.create()
    study = Study(space, new, seed=0, trials=7)
    study.learn(source.used)
    told: dict[str, str] = {ID[trial.user_attrs["trial_id"]]: trial.state.name for trial in study._study.trials}
    study.close()
    assert told == {recorded.state: "PRUNED" for _, recorded in source.used} | {"COMPLETE": "COMPLETE"}


def driven(store: Store, schedule: str = "asha", trials: int = 7) -> tuple[Study, Ledger]:
    study = Study(SPACE, store, seed=0, trials=trials)
    scheduler = SCHEDULERS[schedule](3, 1, 3)  # all of them are past its only rung
    ledger = Ledger(
        study, store, SPACE.objective, Progress(Console(quiet=True), SPACE.objective, (), total=7), scheduler
    )
    ledger.recall(ranking.read([store])[0])
    return study, ledger


@pytest.mark.parametrize("known", [False, True])
def test_a_driver_takes_up_what_has_not_ended_and_tells_the_study_of_the_rest(store: Store, known: bool) -> None:
    if known:  # the driver that ran them was killed after their rows were written, before it told the study
        with ExitStack() as stack:
            empty = Store(store.folder.parent / "empty")
            empty.create()
            study = Study(SPACE, empty, seed=0, trials=7)
            stack.callback(study.close)
            for _ in STATES:
                assert study.next() is not None
        empty.study_file.replace(store.study_file)
    study, ledger = driven(store, "asha")
    assert study.finished == len(OVER)
    taken = []
    while (suggestion := ledger.suggest()) is not None:
        taken.append(ID[suggestion.config.trial_id])
    assert set(taken) == set(STATES) - OVER
    assert len(taken) == len(set(taken))
    trials = [trial for trial in study._study.trials if "duplicate_of" not in trial.user_attrs]
    told: dict[str, str] = {ID[trial.user_attrs["trial_id"]]: trial.state.name for trial in trials}
    assert {state: told[state] for state in OVER} == {
        "COMPLETE": "COMPLETE",
        "PRUNED": "PRUNED",
        "STOPPED": "PRUNED",
        "FAILED": "FAIL",
    }
    assert {told[state] for state in set(STATES) - OVER} == {"RUNNING"}
    study.close()


def test_without_a_scheduler_what_was_pruned_goes_on_and_what_the_user_stopped_does_not(store: Store) -> None:
    study, ledger = driven(store, "none")
    taken = []
    while (suggestion := ledger.suggest()) is not None:
        taken.append(ID[suggestion.config.trial_id])
    study.close()
    assert set(taken) == (set(STATES) - OVER) | {"PRUNED"}


def test_a_trial_that_failed_takes_no_place_at_a_rung(store: Store) -> None:
    seen: list[str] = []

    class Remembers(SCHEDULERS["none"]):  # type: ignore[valid-type, name-defined]
        def observe(self, trial: str, epoch: int, value: object) -> None:
            seen.append(trial)

    study = Study(SPACE, store, seed=0, trials=7)
    Ledger(
        study, store, SPACE.objective, Progress(Console(quiet=True), SPACE.objective, (), total=7), Remembers(3, 2, 3)
    ).recall(ranking.read([store])[0])
    study.close()
    assert set(states_of(seen)) == set(STATES) - FAILED


@pytest.mark.parametrize("state", ["INTERRUPTED", "PREEMPTED", "STOPPED", "PRUNED"])
def test_what_was_told_as_ended_and_waits_is_taken_up_under_a_new_number(store: Store, state: State) -> None:
    study, ledger = driven(store, "none")
    while ledger.suggest() is not None:
        pass
    study.close()
    config = config_of("COMPLETE")
    recording = Recording(store, config, None)  # somebody took it up by hand
    recording.finish(state, stopped="by hand")
    study = Study(SPACE, store, seed=0, trials=7)
    waiting = {ID[suggestion.config.trial_id] for suggestion in study.waiting}
    numbers = [trial.number for trial in study._study.trials if trial.user_attrs["trial_id"] == config.trial_id]
    study.close()
    assert ("COMPLETE" in waiting) == (state in GO_ON)
    assert len(numbers) == (2 if state in GO_ON else 1)


@pytest.mark.parametrize("state", STATES)
def test_the_live_view_counts_what_ended_and_forgets_the_best_of_what_failed(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = config_of("COMPLETE"), config_of("PRUNED")
    with Progress(Console(width=200), SPACE.objective, SPACE.searched, total=4) as view:
        view.resumed(1, (0.3, two, 1))
        view.started(1, one)
        view.epoch(1, one, metrics(1, val_acc=0.25), 0.25)
        view.epoch(1, one, metrics(2, val_acc=0.75), 0.75)
        view.ended(1, one, state, 0.75, "for a reason")
        found = view._best()
    assert found == ((0.3, two, 1) if state in FAILED else (0.75, one, 2))
    assert view._done == (state in OVER)
    assert f"trial {one.trial_id} {state}: " in capsys.readouterr().out
