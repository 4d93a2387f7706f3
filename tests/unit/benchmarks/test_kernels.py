"""`python -m benchmarks.kernels` counts what computes, and a step on a GPU's path calls few of it."""

from __future__ import annotations

import torch

from benchmarks import kernels


def test_views_and_allocations_do_not_count_and_the_backward_belongs_to_the_forward() -> None:
    x = torch.ones(4, 4, requires_grad=True)
    calls = kernels.Calls()
    with calls:
        y = (x.view(16)[:8] * 2).sum()  # two calls, and two views
        torch.autograd.backward(y)
    assert sum(calls.forward.values()) == 2 + 1  # the gradient of the sum begins with a one
    assert set(calls.backward) <= set(calls.forward)
    assert sum(calls.backward.values()) >= 2


def test_a_step_of_a_small_network_calls_less_than_a_third_of_the_plain_one() -> None:
    ours, plain, there = kernels.measure((1, 4, 5), 2, "fp32")
    around = sum(ours[kernels.AROUND])
    assert ours["weight norm"][0] < 30  # of 57 layers
    assert kernels.total(ours) - around < 650
    assert kernels.total(ours) < kernels.total(plain) / 3
    assert there is None or there > 0
