"""The statistics of a choice, against what is known by hand or by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.choosing import smoothing
from orchestrator.choosing.judge import (
    LEVEL,
    Contenders,
    Images,
    Judge,
    Normals,
    indistinguishable,
    probability_of_best,
    standing,
)
from orchestrator.choosing.rules import RULES


def images(correct: NDArray[np.float64]) -> Images:
    """Accuracy over (N, M)."""
    return Images(correct[..., None], lambda mean: mean[..., 0])


def curve(accuracies: list[float], rng: np.random.Generator, n: int = 400, trial: int = 0) -> Contenders:
    """One trial whose epochs are independent on the images: all luck, nothing in common."""
    correct = (rng.random((n, len(accuracies))) < accuracies).astype(float)
    number = np.arange(1, len(accuracies) + 1)
    return Contenders(images(correct), np.full(len(number), trial), number)


def apart(accuracies: list[float], rng: np.random.Generator, n: int = 400) -> Contenders:
    """Trials of one epoch each."""
    correct = (rng.random((n, len(accuracies))) < accuracies).astype(float)
    return Contenders(images(correct), np.arange(len(accuracies)), np.ones(len(accuracies), int))


def test_two_parts_of_the_images_add_up_to_all_of_them() -> None:
    sample = images(np.random.default_rng(0).integers(0, 2, (100, 7)).astype(float))
    first, second = sample.divided(5, 0.25, np.random.default_rng(1))
    np.testing.assert_allclose(0.25 * first + 0.75 * second, np.tile(sample.values, (5, 1)))


def test_parts_of_a_normal_value_have_the_variances_of_parts_and_are_independent() -> None:
    truth = np.random.default_rng(0).standard_normal(40_000)  # measurements with standard error 1 of a truth that is 0
    first, second = Normals(truth, np.ones_like(truth)).divided(1, 0.25, np.random.default_rng(1))
    assert first.var() == pytest.approx(4, rel=0.05)
    assert second.var() == pytest.approx(4 / 3, rel=0.05)
    assert np.corrcoef(first[0], second[0])[0, 1] == pytest.approx(0, abs=0.02)


def test_the_interval_of_an_accuracy_is_the_binomial_s() -> None:
    verdict = Judge(apart([0.8, 0.7], np.random.default_rng(0), n=500)).verdict()
    half = 1.96 * np.sqrt(verdict.values * (1 - verdict.values) / 500)
    np.testing.assert_allclose(verdict.high - verdict.low, 2 * half, rtol=0.08)


def test_what_is_common_to_all_images_cancels_in_comparisons() -> None:
    rng = np.random.default_rng(0)
    easy = (rng.random(400) < 0.7).astype(float)
    correct = np.stack([easy, easy], axis=1)
    correct[np.flatnonzero(easy == 0)[:8], 1] = 1  # eight images more, all others the same
    verdict = Judge(Contenders(images(correct), np.array([0, 1]), np.array([1, 1]))).verdict()
    assert verdict.low[1] < verdict.high[0]  # the intervals overlap by far
    assert not verdict.indistinguishable[0]
    assert verdict.probability[1] > 0.99


def test_luck_is_taken_off_where_it_decides_and_not_where_it_does_not() -> None:
    errors, naive = [], []
    for seed in range(20):
        verdict = Judge(apart([0.7] * 40, np.random.default_rng(seed)), redraws=200, splits=100).verdict("max")
        errors.append(verdict.corrected - 0.7)
        naive.append(verdict.values[verdict.chosen] - 0.7)
    assert np.mean(naive) > 0.04
    assert abs(np.mean(errors)) < 0.012
    clear = Judge(apart([0.9, 0.5, 0.4], np.random.default_rng(0))).verdict("max")
    assert clear.corrected == pytest.approx(clear.values[clear.chosen], abs=1e-3)


def test_the_set_holds_the_truly_best_nearly_always_and_is_no_larger_than_it_must() -> None:
    held = [
        Judge(apart([0.7, 0.69, 0.68, 0.4], np.random.default_rng(seed)), redraws=300, splits=2)
        .verdict()
        .indistinguishable
        for seed in range(30)
    ]
    shares = np.mean(held, axis=0)
    assert shares[0] >= 0.93
    assert shares[3] == 0


def test_neighbouring_epochs_outvote_a_lucky_one() -> None:
    rng = np.random.default_rng(3)
    n = 600
    common = rng.random(n)
    truth = np.concatenate([np.full(10, 0.70), np.full(10, 0.74)])  # two trials, both flat
    noise = 0.1 * rng.standard_normal((n, 20))
    correct = (common[:, None] + noise < truth).astype(float)
    wrong = np.flatnonzero(correct[:, 4] == 0)
    correct[wrong[: int(n * (correct[:, 15].mean() - correct[:, 4].mean()) + 9)], 4] = 1  # one epoch of the worse
    epochs = np.tile(np.arange(1, 11), 2)
    judge = Judge(Contenders(images(correct), np.repeat([0, 1], 10), epochs))
    assert judge.choose("max") == 4
    assert judge.choose("smoothed") >= 10


def test_expectations_are_nearer_to_the_truth_than_what_was_measured() -> None:
    rng = np.random.default_rng(0)
    n, T, E = 500, 8, 12
    heights = 0.7 + 0.03 * rng.standard_normal(T)
    truth = (heights[:, None] - 0.05 * np.linspace(1, 0, E) ** 2).ravel()
    shared = rng.random((n, 1))
    of_epochs = 0.15 * rng.standard_normal((n, T * E))
    correct = (shared + of_epochs < truth).astype(float)
    trial, epoch = np.repeat(np.arange(T), E), np.tile(np.arange(1, E + 1), T)
    values = correct.mean(axis=0)
    W = smoothing.expectation(values, (correct - values) / np.sqrt(n), trial, epoch)
    np.testing.assert_allclose(W.sum(axis=1), 1)

    def error(found: NDArray[np.float64]) -> float:
        """What all share (how hard the images are) apart, since it decides nothing."""
        return float((found - truth).std())

    assert error(W @ values) < 0.6 * error(values)


def test_without_noise_nothing_is_smoothed() -> None:
    values = np.array([0.1, 0.9, 0.2])
    W = smoothing.expectation(values, np.zeros((5, 3)), np.zeros(3, int), np.arange(3))
    np.testing.assert_array_equal(W, np.eye(3))


def test_curves_that_truly_jump_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    jumping = np.where(np.arange(20) % 2, 0.5, 0.9)
    verdict = Judge(curve(jumping.tolist(), rng, n=1500)).verdict()
    np.testing.assert_allclose(verdict.smoothed, verdict.values, atol=0.03)


def test_the_smallest_of_those_that_cannot_be_told_apart() -> None:
    rng = np.random.default_rng(0)
    made = apart([0.8, 0.8, 0.5], rng)
    candidates = Contenders(made.sample, made.trial, made.epoch, np.array([30.0, 20.0, 10.0]))
    assert Judge(candidates).choose("smallest") == 1
    with pytest.raises(ValueError, match="needs the models' sizes"):
        Judge(made).choose("smallest")


@given(data=st.data())
@settings(max_examples=25)
def test_a_verdict_is_whole_whatever_the_candidates(data: st.DataObject) -> None:
    M, n = data.draw(st.integers(1, 6)), data.draw(st.integers(4, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=M, max_size=M)))
    allowed[data.draw(st.integers(0, M - 1))] = True
    correct = (rng.random((n, M)) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))).astype(float)
    trial = np.sort(rng.integers(0, 3, M))
    candidates = Contenders(images(correct), trial, np.arange(M), rng.random(M), allowed)
    judge = Judge(candidates, redraws=50, splits=10)
    for rule in RULES:
        verdict = judge.verdict(rule)
        assert allowed[verdict.chosen]
        assert verdict.probability.sum() == pytest.approx(1)
        assert verdict.indistinguishable[verdict.values.argmax()]
        assert (verdict.low <= verdict.values).all()
        assert (verdict.values <= verdict.high).all()
        assert verdict.corrected_low <= verdict.corrected <= verdict.corrected_high


def test_equals_share_the_probability() -> None:
    redrawn = np.array([[1.0, 1.0, 0.0], [1.0, 0.5, 0.0]])
    assert probability_of_best(redrawn).tolist() == [0.75, 0.25, 0.0]
    assert indistinguishable(np.array([1.0, 1.0]), np.ones((5, 2))).all()


@pytest.mark.parametrize("accuracy", [1.0, 0.8, 0.0])
@pytest.mark.parametrize("n", [7, 300, 519])
def test_equal_copies_cannot_be_told_apart(accuracy: float, n: int) -> None:
    column = (np.random.default_rng(n).random((n, 1)) < accuracy).astype(float)
    for copies in (1, 2, 5, 40):
        candidates = Contenders(
            images(np.tile(column, (1, copies))), np.arange(copies), np.ones(copies, int), np.ones(copies)
        )
        judge = Judge(candidates, redraws=200, splits=10)
        for rule in RULES:
            verdict = judge.verdict(rule)
            assert verdict.indistinguishable.all()
            np.testing.assert_allclose(verdict.probability, 1 / copies)
            assert verdict.chosen == 0  # of equals the first


def drawn(data: st.DataObject) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Values, redraws and trials of a few candidates, some of them equal, near to or far from one another."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    M, n = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([5, 40, 300]))
    accuracies = data.draw(st.lists(st.sampled_from([0.2, 0.7, 0.75, 0.9, 1.0]), min_size=M, max_size=M))
    easy = rng.random((n, 1))
    correct = (data.draw(st.sampled_from([0.0, 0.5, 1.0])) * (easy - 0.5) + rng.random((n, M)) < accuracies).astype(
        float
    )
    correct = correct[:, [data.draw(st.integers(0, M - 1)) for _ in range(M)]]  # some twice
    sample = images(correct)
    trial = np.array(data.draw(st.lists(st.integers(0, 4), min_size=M, max_size=M)))
    return sample.values, sample.redrawn(200, rng), trial


@given(data=st.data())
@settings(max_examples=100)
def test_the_set_and_the_probabilities_agree(data: st.DataObject) -> None:
    values, redrawn, trial = drawn(data)
    together, shares = standing(values, redrawn, trial)
    assert shares.sum() == pytest.approx(1)
    assert shares[together].sum() >= LEVEL - 1e-9
    of_trial = {one: shares[trial == one].sum() for one in trial.tolist()}
    assert all(together[trial == one].all() or not together[trial == one].any() for one in of_trial)
    leaders = set(trial[values >= values.max() - 1e-9].tolist())
    for one, share in of_trial.items():
        inside = bool(together[trial == one].all())
        assert inside or share <= 1 - LEVEL + 1e-9
        assert inside or one not in leaders
        if share >= LEVEL:
            assert set(trial[together].tolist()) == {one}


@given(data=st.data())
@settings(max_examples=100)
def test_neither_order_nor_scale_nor_another_copy_changes_what_is_said(data: st.DataObject) -> None:
    values, redrawn, trial = drawn(data)
    together, shares = standing(values, redrawn, trial)

    # Epochs of a trial in their order, of which the first of equals stands for it.
    trials = data.draw(st.permutations(sorted(set(trial.tolist()))))
    order = np.concatenate([np.flatnonzero(trial == one) for one in trials])
    other, other_shares = standing(values[order], redrawn[:, order], trial[order])
    assert (other == together[order]).all()
    np.testing.assert_allclose(other_shares, shares[order])

    scale = data.draw(st.floats(1e-6, 1e6))
    other, other_shares = standing(scale * values, scale * redrawn, trial)
    assert (other == together).all()
    np.testing.assert_allclose(other_shares, shares)

    # A copy of a trial, as far as the rounding of sums goes, is where the trial is, and has as much of what they share.
    copied = int(data.draw(st.sampled_from(trial.tolist())))
    rows = np.flatnonzero(trial == copied)
    noise = 1 + 1e-15 * np.random.default_rng(0).standard_normal((len(redrawn), len(rows)))
    twice = np.concatenate([values, values[rows] * noise[0]]), np.concatenate([redrawn, redrawn[:, rows] * noise], 1)
    both = np.concatenate([trial, np.full(len(rows), 9)])
    other, other_shares = standing(*twice, both)
    assert (other[both == 9] == other[both == copied][0]).all()
    assert other_shares[both == 9].sum() == pytest.approx(other_shares[both == copied].sum())


@pytest.mark.parametrize(
    ("accuracies", "lengths"),
    [
        ([0.75, 0.735, 0.73, 0.5], [1, 20, 20, 20]),
        ([0.75, 0.74], [1, 20]),
        ([0.75, 0.745, 0.74], [3, 3, 3]),
    ],
)
def test_the_set_holds_the_best_trial_though_others_have_more_epochs_to_be_lucky_with(
    accuracies: list[float], lengths: list[int]
) -> None:
    held, surely = [], []
    trial = np.repeat(np.arange(len(lengths)), lengths)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sample = curve(np.array(accuracies)[trial].tolist(), rng).sample
        together, shares = standing(sample.values, sample.redrawn(300, rng), trial)
        held.append(together[0])
        surely += [one for one in range(1, len(lengths)) if shares[trial == one].sum() >= LEVEL]
        assert accuracies[-1] > 0.5 or not together[-1]
    assert np.mean(held) >= 0.93
    assert len(surely) <= 7  # of a hundred
