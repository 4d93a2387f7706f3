"""The discretized mixture of logistics: a distribution over the 8-bit grid, exact where small, sampled as such."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor
from torch.testing import assert_close

from cpcnn_core import likelihood
from cpcnn_core.likelihood import _in_units, bin_log_mass, bits_per_dim, log_prob, nr_params, to_grid

GRID = torch.arange(256) / 127.5 - 1


SHIFT = st.floats(-1e30, 1e30)
HUGE = st.floats(-1e30, 1e30) | st.floats(-8, 8)


def parameters(channels: int, n_mix: int, spread: float, shift: float, seed: int) -> Tensor:
    """(P,) of a mixture, its logits shifted as those of a network that diverged are."""
    params = spread * torch.randn(nr_params(channels, n_mix), generator=torch.Generator().manual_seed(seed))
    params[:n_mix] += shift
    return params


def log_mass_of_each_value(params: Tensor, n_mix: int) -> Tensor:
    """(256,) nats, of one channel."""
    return log_prob(GRID.view(256, 1, 1, 1), params.view(1, -1, 1, 1).expand(256, -1, -1, -1), n_mix=n_mix)


def assert_a_distribution(log_p: Tensor) -> None:
    assert log_p.max() < 1e-6
    assert_close(log_p.double().exp().sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-4, rtol=0)


@given(st.integers(1, 6), st.floats(0.1, 8.0), st.just(0.0) | SHIFT, st.integers(0, 1000))
@settings(max_examples=80)
def test_all_256_values_of_one_channel_sum_to_one(n_mix: int, spread: float, shift: float, seed: int) -> None:
    assert_a_distribution(log_mass_of_each_value(parameters(1, n_mix, spread, shift, seed), n_mix))


@given(st.integers(1, 3).flatmap(lambda n_mix: st.lists(HUGE, min_size=3 * n_mix, max_size=3 * n_mix)))
@settings(max_examples=80)
def test_whatever_the_parameters_are_the_masses_are_a_distribution(values: list[float]) -> None:
    assert_a_distribution(log_mass_of_each_value(torch.tensor(values), len(values) // 3))


@given(st.integers(1, 6), st.floats(0.1, 3.0), st.just(0.0) | SHIFT, st.integers(0, 1000))
@settings(max_examples=60)
def test_the_last_channels_values_sum_to_the_mass_of_the_first_two(
    n_mix: int, spread: float, shift: float, seed: int
) -> None:
    params = parameters(3, n_mix, spread, shift, seed)
    noise = torch.rand(n_mix + 3, generator=torch.Generator().manual_seed(seed)).clamp(1e-5, 1 - 1e-5)
    x = likelihood.sample(params, noise, channels=3, n_mix=n_mix).expand(256, 3).clone()
    x[:, 2] = GRID
    log_p = log_prob(x[:, :, None, None], params.view(1, -1, 1, 1).expand(256, -1, -1, -1), n_mix=n_mix)
    assert log_p.max() < 1e-6
    mixture = likelihood.Mixture.unpack(params, 3, n_mix)
    first_two = mixture.logits.log_softmax(dim=0).double()
    for channel in (0, 1):
        mean = mixture.coupled_mean(channel, x[0])
        first_two = first_two + bin_log_mass(x[0, channel], mean, mixture.log_scales[channel]).double()
    found, expected = torch.logsumexp(log_p.double(), dim=0), torch.logsumexp(first_two, dim=0)
    assert_close(found, expected, atol=1e-4, rtol=1e-6)


@given(st.integers(1, 6), SHIFT, st.integers(0, 1000))
@settings(max_examples=30)
def test_what_is_added_to_all_logits_changes_nothing_that_float32_keeps(n_mix: int, shift: float, seed: int) -> None:
    params = parameters(1, n_mix, 1.0, 0.0, seed)
    shifted = params.clone()
    shifted[:n_mix] += shift
    kept = params.clone()
    kept[:n_mix] = shifted[:n_mix] - shift
    found, expected = (log_mass_of_each_value(given, n_mix) for given in (shifted, kept))
    assert_close(found, expected, atol=1e-4, rtol=1e-5)


@given(st.integers(1, 3), st.lists(HUGE, min_size=30, max_size=30), st.sampled_from([0.0, 0.9, 1.0]), st.booleans())
@settings(max_examples=60)
def test_whatever_the_parameters_are_a_sample_is_a_pixel(
    n_mix: int, values: list[float], temperature: float, grey: bool
) -> None:
    channels = 1 if grey else 3
    params = torch.tensor(values[: nr_params(channels, n_mix)])
    noise = torch.rand(20, n_mix + channels, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)
    noise[0] = 0.5  # a logistic of exactly 0
    drawn = likelihood.sample(params.expand(20, -1), noise, channels=channels, n_mix=n_mix, temperature=temperature)
    levels = (drawn + 1) * 127.5
    assert ((levels >= 0) & (levels <= 255)).all()
    assert_close(levels, levels.round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("value", [0, 1, 100, 254, 255])
@pytest.mark.parametrize("scale", [0.05, 0.5, 3.0])
def test_a_bins_mass_is_the_integral_of_the_logistic_density(value: int, scale: float) -> None:
    mean, x = 0.1, value / 127.5 - 1
    low = -math.inf if value == 0 else x - 1 / 255
    high = math.inf if value == 255 else x + 1 / 255
    expected, _ = integrate.quad(lambda t: stats.logistic.pdf(t, mean, scale), low, high, epsabs=1e-14)
    found = bin_log_mass(torch.tensor(x), torch.tensor(mean), torch.tensor(math.log(scale)))
    assert found.item() == pytest.approx(math.log(expected), abs=1e-4)


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 3.0])
@pytest.mark.parametrize("mean", [-1.0, 0.1, 2.0])
def test_the_gradient_of_a_mass_is_that_of_its_definition(log_scale: float, mean: float) -> None:
    x = GRID.double()  # with black and white, whose bins have one edge
    given = [torch.full_like(x, value, requires_grad=True) for value in (mean, log_scale)]
    defined = [value.detach().clone().requires_grad_() for value in given]
    seeds = torch.linspace(-1, 2, len(x), dtype=torch.float64)
    bin_log_mass(x, *given).backward(seeds)
    _in_units(x, *defined)[0].backward(seeds)
    for found, wanted in zip(given, defined, strict=True):
        assert_close(found.grad, wanted.grad, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("log_scale", [-30.0, -7.0, -3.0, 10.0, 80.0, 1000.0])
@pytest.mark.parametrize("mean", [-1e4, -1.0, 0.0, 1.0, 1e4])
def test_finite_with_finite_gradients_in_float32(log_scale: float, mean: float) -> None:
    params = torch.tensor([1e30, mean, log_scale]).view(1, 3, 1, 1).expand(256, -1, -1, -1).clone().requires_grad_()
    log_p = log_prob(GRID.view(256, 1, 1, 1), params, n_mix=1)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert params.grad is not None
    assert params.grad.isfinite().all()


def test_small_probabilities_are_exact_where_the_difference_of_two_sigmoids_is_zero() -> None:
    x, mean, log_scale = torch.tensor(0.2), torch.tensor(-0.6), torch.tensor(-5.0)
    scale = math.exp(-5.0)
    upper, lower = (0.8 + 1 / 255) / scale, (0.8 - 1 / 255) / scale
    assert torch.sigmoid(torch.tensor(upper)) - torch.sigmoid(torch.tensor(lower)) == 0  # float32 loses it
    exact = -lower + math.log1p(-math.exp(lower - upper))  # 1 - sigmoid(z) = exp(-z) to within exp(-2z)
    assert bin_log_mass(x, mean, log_scale).item() == pytest.approx(exact, rel=1e-5)


def test_scales_are_clamped_at_minus_seven() -> None:
    params = torch.tensor([0.0, 0.0, -7.0]).view(1, 3, 1, 1)
    sharper = torch.tensor([0.0, 0.0, -12.0]).view(1, 3, 1, 1)
    x = GRID[128].view(1, 1, 1, 1)
    assert log_prob(x, params, n_mix=1) == log_prob(x, sharper, n_mix=1)


def test_images_are_summed_over_pixels_and_kept_apart() -> None:
    torch.manual_seed(0)
    params, x = torch.randn(3, 20, 4, 4), to_grid(2 * torch.rand(3, 3, 4, 4) - 1)
    whole = log_prob(x, params, n_mix=2)
    assert whole.shape == (3,)
    pixels = [
        log_prob(x[:, :, i : i + 1, j : j + 1], params[:, :, i : i + 1, j : j + 1], n_mix=2)
        for i in range(4)
        for j in range(4)
    ]
    assert_close(whole, torch.stack(pixels).sum(dim=0), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_have_the_probabilities_that_log_prob_says(channels: int) -> None:
    torch.manual_seed(1)
    n, n_mix = 40_000, 2
    params = torch.randn(nr_params(channels, n_mix))
    noise = torch.rand(n, n_mix + channels).clamp(1e-5, 1 - 1e-5)
    drawn = likelihood.sample(params.expand(n, -1), noise, channels=channels, n_mix=n_mix)
    assert_close(to_grid(drawn), drawn)
    levels = ((drawn + 1) * 127.5).round().long()
    # A pixel's first and last channel: empirical masses against exact ones, in bins of 16 values.
    x = torch.zeros(256, channels, 1, 1)
    x[:, 0, 0, 0] = GRID
    mixture = likelihood.Mixture.unpack(params, channels, n_mix)
    first = _marginal_of_first(mixture)
    _assert_frequencies(levels[:, 0], first)
    if channels == 3:
        exact = log_prob(drawn[:, :, None, None], params.view(1, -1, 1, 1).expand(n, -1, -1, -1), n_mix=n_mix)
        # E[-log p] of the model's own samples is its entropy; a wrong coupling would show as a larger value.
        again = likelihood.sample(params.expand(n, -1), noise.flip(0), channels=3, n_mix=n_mix)
        other = log_prob(again[:, :, None, None], params.view(1, -1, 1, 1).expand(n, -1, -1, -1), n_mix=n_mix)
        assert abs(exact.mean() - other.mean()) < 0.05
        shuffled = torch.cat([drawn[:, :2], drawn[torch.randperm(n), 2:]], dim=1)
        broken = log_prob(shuffled[:, :, None, None], params.view(1, -1, 1, 1).expand(n, -1, -1, -1), n_mix=n_mix)
        assert broken.mean() < exact.mean()


def test_temperature_zero_draws_the_likeliest_components_mean() -> None:
    params = torch.tensor([0.0, 3.0, -0.5, 0.25, 0.0, 0.0])  # logits, means, log-scales
    noise = torch.rand(50, 3).clamp(1e-5, 1 - 1e-5)
    drawn = likelihood.sample(params.expand(50, -1), noise, channels=1, n_mix=2, temperature=0.0)
    assert_close(drawn, to_grid(torch.tensor(0.25)).expand(50, 1))


def test_bits_per_dim_of_a_uniform_pixel_is_eight() -> None:
    assert bits_per_dim(torch.tensor([-3 * 4 * math.log(256.0)]), (3, 2, 2)).item() == pytest.approx(8.0)


def test_other_channel_counts_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="defined for 1 and 3"):
        nr_params(2, 5)
    with pytest.raises(ValueError, match="12 parameters per pixel, expected 20"):
        log_prob(torch.zeros(1, 3, 1, 1), torch.zeros(1, 12, 1, 1), n_mix=2)


def _marginal_of_first(mixture: likelihood.Mixture) -> Tensor:
    log_mass = bin_log_mass(GRID[:, None], mixture.means[0], mixture.log_scales[0])
    return (log_mass + mixture.logits.log_softmax(dim=0)).logsumexp(dim=1).exp()


def _assert_frequencies(levels: Tensor, probabilities: Tensor) -> None:
    observed = torch.bincount(levels, minlength=256).view(16, 16).sum(dim=1)
    expected = probabilities.double().view(16, 16).sum(dim=1)
    _, p_value = stats.chisquare(observed.numpy(), (expected / expected.sum() * len(levels)).numpy())
    assert p_value > 1e-4
