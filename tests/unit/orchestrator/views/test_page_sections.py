"""What the page's sections say: the answer with its certainty, names of trials, what a setting explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cpcnn_core.config import Scalar
from orchestrator.choosing import selection
from orchestrator.choosing.decision import choose, read
from orchestrator.records.space_record import RecordedSpace
from orchestrator.records.store import Attempt, Store
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.search import growth
from orchestrator.views.page import answer, naming, subject
from orchestrator.views.page.figures import Axis
from orchestrator.views.page.search import explained
from search_spaces import choice
from tests.support.times import at
from tests.unit.orchestrator.test_best import CONFIG, add, judged


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def of_fusions(results: Path, hits: dict[str, int]) -> None:
    """A trial of each fusion that classifies so many of 200 images rightly."""
    for fusion, count in hits.items():
        config = CONFIG.with_settings({"model.fusion": fusion})
        store = add(results, [count / 200], config=config)
        log_p = [[-1.0, -2.0] if image < count else [-2.0, -1.0] for image in range(200)]
        names = [str(image) for image in range(200)]
        store.write_predictions(config.trial_id, 1, images=names, labels=[0] * 200, log_likelihood=log_p)


def answered(results: Path) -> str:
    selected = selection.select(results, ())
    decision = choose(read(selected, "val_acc"))
    return answer.answer(subject.read(selected, decision.epochs.objective, decision))


def test_a_fusion_that_is_shown_to_be_best_is_said_to_be(results: Path) -> None:
    of_fusions(results, {"block_film": 190, "stem_add": 120, "none": 90})
    text = answered(results)
    assert text.startswith(
        "By val_acc, the fusion block_film has the best trial, with 95% confidence. The best trial with block_film "
    )
    assert "P(the best trial uses block_film) = " in text


def test_a_fusion_that_is_not_shown_to_be_best_is_said_to_be_ahead_of_those_that_may_be(results: Path) -> None:
    of_fusions(results, {"block_film": 181, "stem_add": 180, "none": 90})
    text = answered(results)
    assert text.startswith("By val_acc, the fusion block_film is ahead, but stem_add may be as good. The best trial ")
    assert "none" not in text
    assert "(95%: 0." in text


def test_fusions_that_were_hardly_tried_are_named(results: Path) -> None:
    of_fusions(results, {"block_film": 181, "stem_add": 180})
    store = selection.select(results, ()).stores[0]
    offered = growth.recorded({"model.fusion": choice("block_film", "stem_add", "none", "input_map")})
    store.write_sweep(replaced(store, offered))
    selected = selection.select(results, ())
    decision = choose(read(selected, "val_acc"))
    seen = subject.read(selected, decision.epochs.objective, decision)
    assert answer.hardly_tried(seen) == "Not tried: none, input_map. One trial only: block_film, stem_add."
    store.write_sweep(replaced(store, growth.recorded({"model.fusion": choice("block_film")})))
    assert answer.hardly_tried(subject.read(selected, decision.epochs.objective, decision)) is None


def replaced(store: Store, offered: RecordedSpace) -> SweepRecord:
    return (store.read_sweep() or SweepRecord()).model_copy(update={"fields": offered})


def test_of_one_fusion_the_answer_is_a_trial(results: Path) -> None:
    judged(results, {1: [150], 2: [149], 3: [80]})
    assert answered(results).startswith("Ahead is the trial with seed 1: val_acc 0.7")
    assert "2 trials may be as good" in answered(results)


def test_where_nothing_tells_how_sure_it_is_the_answer_says_so(results: Path) -> None:
    add(results, [0.5])
    add(results, [0.6], config=CONFIG.with_settings({"model.fusion": "none"}))
    assert "By val_acc, the fusion none has the best trial; how sure that is cannot be said." in answered(results)


def test_while_trials_run_the_answer_is_so_far(results: Path) -> None:
    judged(results, {1: [150], 2: [149]})
    running = CONFIG.with_settings({"seed": 9})
    attempt = Attempt(trial_id=running.trial_id, attempt=1, number=1, state="RUNNING", started=at())
    add(results, []).write_attempt(attempt, running)
    assert answered(results).startswith("So far: ahead is the trial with seed 1")


def test_before_anything_is_measured_there_is_no_answer(results: Path) -> None:
    store = add(results, [])
    selected = selection.Selection((store,))
    objective = read(selection.Selection((add(results / "other", [0.5]),)), "val_acc").objective
    empty = subject.read(selected, objective, None)
    assert answer.answer(empty).startswith("There is no answer yet")


def test_trials_are_named_by_as_few_settings_as_tell_them_apart() -> None:
    settings: list[dict[str, Scalar]] = [
        {"model.fusion": "none", "model.nr_filters": 8, "train.lr": 0.1, "seed": 1},
        {"model.fusion": "none", "model.nr_filters": 16, "train.lr": 0.1, "seed": 1},
        {"model.fusion": "stem_add", "model.nr_filters": 8, "train.lr": 0.1, "seed": 1},
    ]
    assert naming.names(settings, ["a", "b", "c"]) == [
        "none, nr_filters 8",
        "none, nr_filters 16",
        "stem_add, nr_filters 8",
    ]
    assert naming.names([settings[0], settings[2]], ["a", "c"]) == ["none", "stem_add"]
    assert naming.names([settings[0], settings[0]], ["a", "b"]) == ["a", "b"]


def test_a_setting_explains_what_goes_with_it_and_a_random_one_nothing() -> None:
    values = np.array([0.1, 0.11, 0.9, 0.91, 0.5, 0.51])
    assert explained(["a", "a", "b", "b", "c", "c"], values) == pytest.approx(1.0, abs=0.01)
    assert explained(["a", "b", "a", "b", "a", "b"], values) == 0.0
    assert explained([1, 2, 3], np.array([1.0, 2.0, 3.0])) is None


@pytest.mark.parametrize(("last", "step"), [(1, 1), (6, 1), (12, 2), (30, 5), (70, 10), (3000, 500)])
def test_ticks_of_whole_numbers_are_whole_and_few(last: int, step: int) -> None:
    made = Axis("epoch", whole=True).layout([0.0, float(last)])
    assert made["dtick"] == step
