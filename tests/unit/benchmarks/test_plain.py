"""The baseline of the benchmarks computes what the package computes; otherwise a ratio would say nothing."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from benchmarks import plain
from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.likelihood import log_prob
from tests.contract.networks import COMPOSITIONS, images, network


@pytest.mark.parametrize("fusion", COMPOSITIONS[:3])
def test_the_plain_network_is_the_network(fusion: str) -> None:
    model = network(fusion, nr_resnet=2, dropout=0.5)
    x, labels = images(3), torch.tensor([0, 1, 2])
    masks = model.dropout_masks(3, torch.Generator().manual_seed(0))
    assert masks is not None
    params = model(x, labels, masks)
    assert_close(plain.forward(model, x, labels, masks), params, rtol=1e-4, atol=1e-5)
    assert_close(plain.log_prob(x, params, n_mix=2), log_prob(x, params, n_mix=2), rtol=1e-4, atol=1e-3)


def test_the_plain_classifier_is_the_classifier() -> None:
    model = network("skip_add+head_add")
    x = images(5)
    pixels = ((x + 1) * 127.5).round().to(torch.uint8)
    ours = class_log_likelihoods(model, pixels, batch_size=6)
    assert_close(ours.float(), plain.class_log_likelihoods(model, x), rtol=1e-4, atol=1e-3)
