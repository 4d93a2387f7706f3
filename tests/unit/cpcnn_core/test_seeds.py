"""Random streams: as many different ones as there are purposes, epochs and seeds."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core import evaluate, seeds, train
from cpcnn_core.config import TrialConfig
from cpcnn_core.seeds import Purpose
from tests.support.training import SETTINGS, tiny_dataset

EPOCHS = 50


def run(folder: Path, seed: int = 0) -> train.Run:
    return train.Run(TrialConfig.from_flat(SETTINGS | {"seed": seed}), tiny_dataset(), folder, Accelerator())


def test_no_two_of_fifty_epochs_have_the_same_order(tmp_path: Path) -> None:
    training = run(tmp_path)
    orders = []
    for training.epoch in range(EPOCHS):
        orders.append(training._order())
        assert torch.equal(orders[-1].sort().values, torch.arange(50))
    agreeing = [int((one == other).sum()) for one, other in itertools.combinations(orders, 2)]
    assert max(agreeing) < 12  # of 50 places; one on average where orders have nothing to do with one another
    assert 0.8 < sum(agreeing) / len(agreeing) < 1.2


def test_the_images_of_train_acc_are_not_the_first_ones_of_any_epoch(tmp_path: Path) -> None:
    training = run(tmp_path)
    subset = {int(name.partition("/")[2]) for name in evaluate.fixed_subset(training.dataset.train, 10, 0).names}
    shared = []
    for training.epoch in range(EPOCHS):
        shared.append(len(subset & set(training._order()[:10].tolist())))
    assert max(shared) < 10
    assert 1.0 < sum(shared) / EPOCHS < 3.0  # two of ten by chance


def test_every_purpose_epoch_and_seed_has_a_stream_of_its_own() -> None:
    """Also in the 32 bits that torch's generator on a CPU keeps of a seed."""
    moments = (*range(EPOCHS), 2**20, 2**40)
    found = [seeds.seed(seed, purpose, at) for seed in range(8) for purpose in Purpose for at in moments]
    assert len(set(found)) == len(found)
    assert max(Counter(value % 2**32 for value in found).values()) == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from(Purpose), st.integers(0, 2**40), st.integers(0, 39))
def test_a_bit_of_where_it_is_used_changes_half_of_the_low_bits(seed: int, purpose: Purpose, at: int, bit: int) -> None:
    changed = (seeds.seed(seed, purpose, at) ^ seeds.seed(seed, purpose, at ^ (1 << bit))) % 2**32
    assert 3 <= changed.bit_count() <= 29


@pytest.mark.parametrize("one", Purpose)
def test_streams_of_different_purposes_have_nothing_in_common(one: Purpose) -> None:
    mine = torch.rand(2000, generator=seeds.generator(0, one))
    for other in Purpose:
        if other != one:
            correlation = torch.corrcoef(torch.stack([mine, torch.rand(2000, generator=seeds.generator(0, other))]))
            assert abs(float(correlation[0, 1])) < 0.1  # 4.5 standard errors


def test_the_numbers_of_purposes_stay() -> None:
    """They are hashed: another number would change every result."""
    assert [purpose.value for purpose in Purpose] == list(range(7))
    assert seeds.seed(0, Purpose.ORDER, 1) == 10236345654442229010
