"""Retraining the finalists on new seeds, and deciding on those runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core.config import TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.choosing import candidates, confirming
from orchestrator.choosing import decision as decisions
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.choosing.confirming import Finalist, Question, ask, compare, decide
from orchestrator.objectives.objective import Objective
from orchestrator.records.store import Attempt, Store
from tests.support.times import at

NO_ERRORS = np.zeros((50, 2))


def finalist(**settings: Any) -> Finalist:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    flat = TrialConfig.from_flat(dotted).flat()
    del flat["seed"]
    return Finalist("a", f"{len(settings)}", 0.9, flat)


def question(*finalists: Finalist, seeds: tuple[int, ...] = (3, 4)) -> Question:
    return Question("val_acc", "max", Objective("val_acc", "max"), None, finalists, seeds)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "model__nr_filters": st.sampled_from([8, 16, 24]),
                "train__lr": st.sampled_from([0.001, 0.0037]),
                "train__ema_decay": st.sampled_from([None, 0.99]),
                "fusion": st.sampled_from([("none", None), ("block_film", 16), ("block_film", 32), ("stem_add", None)]),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_grid_is_exactly_the_finalists_on_each_seed(drawn: list[dict[str, Any]]) -> None:
    finalists = []
    for settings in drawn:
        name, hidden = settings.pop("fusion")
        options = {} if hidden is None else {"model__fusion_options__block_film__hidden": hidden}
        finalists.append(finalist(model__fusion=name, **settings, **options))
    asked = question(*finalists)
    expected = {held.run(seed).trial_id for held in finalists for seed in (3, 4)}
    assert {config.trial_id for config in asked.space().all()} == expected
    assert Question.from_description(asked.describe()) == asked


def test_intervals_and_probabilities_by_hand() -> None:
    runs = [np.array([0.80, 0.82]), np.array([0.70, 0.74])]
    means, halves, probabilities = compare(runs, [NO_ERRORS, NO_ERRORS])
    assert means == pytest.approx([0.81, 0.72])
    # the variance within, (0.0002 + 0.0008) / 2, of the mean half of it; t of 2 degrees of freedom is 4.3027
    assert halves == pytest.approx([4.3027 * np.sqrt(0.00025)] * 2, rel=1e-4)
    assert probabilities[0] > 0.9
    assert probabilities.sum() == pytest.approx(1)


def test_what_the_images_leave_open_adds_up_and_cancels_where_finalists_are_compared() -> None:
    rng = np.random.default_rng(0)
    common = 0.02 * rng.standard_normal((4000, 1)) * np.ones((1, 2))
    runs = [np.array([0.80, 0.80]), np.array([0.79, 0.79])]
    _, halves, probabilities = compare(runs, [common, common])
    assert halves == pytest.approx([1.96 * 0.02] * 2, rel=0.05)
    assert probabilities[0] == 1.0


def test_one_run_each_says_nothing_of_the_seeds() -> None:
    runs = [np.array([0.80]), np.array([0.79])]
    assert compare(runs, [NO_ERRORS[:, :1]] * 2)[1] == [None, None]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        images = 0.01 * rng.standard_normal()
        runs = [0.8 + images + 0.01 * rng.standard_normal(3) for _ in range(2)]
        errors = 0.01 * rng.standard_normal((400, 1)) * np.ones((1, 3))
        means, halves, _ = compare(runs, [errors, errors])
        held += [abs(mean - 0.8) <= half for mean, half in zip(means, halves, strict=True) if half is not None]
    assert 0.92 <= np.mean(held) <= 0.99


def write(store: Store, config: TrialConfig, values: list[float]) -> None:
    ended = len(values) == config.train.epochs
    store.write_attempt(
        Attempt(
            trial_id=config.trial_id,
            attempt=1,
            number=None,
            state="COMPLETE" if ended else "FAILED",
            error=None if ended else "out of memory",
            started=at(),
            epochs=len(values),
        ),
        config,
    )
    for epoch, value in enumerate(values, start=1):
        known = {"epoch": epoch, "step": epoch, "kept_epochs": [epoch], "extra": {}, "val_acc": value}
        store.add_epoch(
            config.trial_id, 1, EpochMetrics.from_record(known | {"checkpoint": f"weights-{epoch:04d}.safetensors"})
        )


def test_the_last_epochs_of_the_new_runs_decide_and_nothing_else(tmp_path: Path) -> None:
    store = Store(tmp_path / "confirm")
    store.create()
    lucky, steady, broken = (finalist(train__epochs=2, model__nr_filters=n) for n in (8, 16, 24))
    asked = question(replace(lucky, value=0.99), replace(steady, value=0.5), broken)
    for held, seed, values in (
        (lucky, 3, [0.9, 0.6]),
        (lucky, 4, [0.9, 0.62]),
        (steady, 3, [0.1, 0.7]),
        (steady, 4, [0.1, 0.8]),
        (broken, 3, [0.95]),
    ):
        write(store, held.run(seed), values)
    decision = decide(store, asked)
    first, second, third = decision.standings
    assert (first.finalist.settings["model.nr_filters"], first.runs) == (16, ((3, 0.7), (4, 0.8)))
    assert first.mean == pytest.approx(0.75)
    assert second.mean == pytest.approx(0.61)
    assert (third.mean, third.runs) == (None, ())
    assert third.missing == ("seed 3: out of memory", "seed 4: was not run")
    entry, epoch = decision.epochs.entry(decision.row)
    assert (entry.trial_id, epoch["epoch"]) == (steady.run(4).trial_id, 2)
    assert "The intervals are of the seeds alone" in decision.notes
    described: Any = decision.describe()
    assert described["confirmed"]["finalists"][0]["mean"] == pytest.approx(0.75)


def test_finalists_are_different_configurations_on_seeds_that_nobody_had(tmp_path: Path) -> None:
    store = Store(tmp_path / "a")
    store.create()
    for filters, seed, value in ((8, 0, 0.9), (8, 7, 0.8), (16, 0, 0.7)):
        config = TrialConfig.from_flat({"model.nr_filters": filters, "seed": seed, "train.epochs": 1})
        write(store, config, [value])
    decision = decisions.choose(candidates.read([store], "val_acc"))
    asked = ask(decision.epochs, decision.standings(), finalists=2, seeds=3)
    assert [held.settings["model.nr_filters"] for held in asked.finalists] == [8, 16]
    assert asked.seeds == (8, 9, 10)
    with pytest.raises(ChoiceError, match="--confirm 3: there are 2 different configurations"):
        ask(decision.epochs, decision.standings(), finalists=3, seeds=1)


def test_the_name_follows_from_what_was_asked() -> None:
    name = confirming.name_of(["digits"], metric="val_acc", finalists=2)
    assert name.startswith("digits-confirm-")
    assert name == confirming.name_of(["digits"], finalists=2, metric="val_acc")
    assert name != confirming.name_of(["digits"], metric="val_acc", finalists=3)
    assert confirming.name_of(["b", "a"], metric="fid") == confirming.name_of(["a", "b"], metric="fid")
