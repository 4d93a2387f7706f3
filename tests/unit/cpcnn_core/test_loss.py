"""The loss, augmentation, schedules, averages and initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.testing import assert_close

from cpcnn_core import augment
from cpcnn_core.config import TrainConfig
from cpcnn_core.initialise import data_dependent_init
from cpcnn_core.labels import ENCODINGS, NULL_LABEL
from cpcnn_core.layers import Convolve
from cpcnn_core.likelihood import bits_per_dim, log_prob
from cpcnn_core.loss import Loss, drawn_others
from cpcnn_core.optim import Average, build_optimizer, lr_factor
from tests.contract.networks import NR_CLASSES, images, network

UNIFORM = torch.full((NR_CLASSES,), -math.log(NR_CLASSES))


def batch(size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels = ((images(size) + 1) * 127.5).round().to(torch.uint8)
    return pixels, torch.arange(size) % NR_CLASSES, torch.zeros(size, dtype=torch.bool), torch.ones(size)


def test_without_a_class_weight_it_is_the_sum_of_bits_per_dim() -> None:
    model = network("block_mild")
    pixels, labels, withheld, weights = batch()
    total, loss, bpd = Loss(model, UNIFORM)(pixels, labels, withheld, weights, None)
    expected = bits_per_dim(log_prob(images(4), model(images(4), labels), n_mix=2), (3, 8, 8)).sum()
    assert_close(total, expected)
    assert loss == bpd == total.detach()


def test_the_class_loss_is_the_cross_entropy_of_the_bayes_posterior_at_its_temperature() -> None:
    model = network("block_mild")
    pixels, labels, withheld, weights = batch()
    loss = Loss(model, UNIFORM, class_weight=0.5, class_temperature=7.0)
    total, _, bpd = loss(pixels, labels, withheld, weights, None)
    table = torch.stack(
        [log_prob(images(4), model(images(4), torch.full((4,), y)), n_mix=2) for y in range(NR_CLASSES)], dim=1
    )
    true = table.gather(1, labels[:, None])[:, 0]
    expected = bits_per_dim(true, (3, 8, 8)).sum() + 0.5 * F.cross_entropy(table / 7.0, labels, reduction="sum")
    assert_close(total, expected, atol=1e-3, rtol=1e-4)
    assert_close(bpd, bits_per_dim(true, (3, 8, 8)).sum())


PRIOR = torch.tensor([0.5, 0.3, 0.2]).log()


def by_others(loss: Loss, others: torch.Tensor | None) -> torch.Tensor:
    """P(y, x) / p(x) of each image, as the class loss sees it with these others: exp(-its part of the loss)."""
    pixels, labels, withheld, weights = batch(3)
    return torch.stack(
        [
            loss(
                pixels[i : i + 1],
                labels[i : i + 1],
                withheld[i : i + 1],
                weights[i : i + 1],
                None,
                None if others is None else others[i : i + 1],
            )[0]
            - loss(pixels[i : i + 1], labels[i : i + 1], withheld[i : i + 1], weights[i : i + 1], None)[2]
            for i in range(3)
        ]
    )


def test_the_sum_over_drawn_classes_is_unbiased() -> None:
    """1 / posterior is p(x) / p(x, y); over every possible draw of one other class its mean is that of all classes."""
    loss = Loss(network("block_mild"), PRIOR, class_weight=1.0, class_temperature=2000.0)
    all_classes = by_others(loss, None).exp()
    draws = [torch.tensor([[(y + step) % 3] for y in range(3)]) for step in (1, 2)]
    means = torch.stack([by_others(loss, others).exp() for others in draws]).mean(dim=0)
    assert all_classes.max() > 1.2
    assert_close(means, all_classes, rtol=1e-4, atol=0)


def test_the_gradient_of_that_sum_is_unbiased() -> None:
    model = network("block_mild")
    loss = Loss(model, PRIOR, class_weight=1.0, class_temperature=2000.0)

    def gradient(others: torch.Tensor | None) -> torch.Tensor:
        model.zero_grad()
        by_others(loss, others).exp().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradient(None)
    draws = [torch.tensor([[(y + step) % 3] for y in range(3)]) for step in (1, 2)]
    each = torch.stack([gradient(others) for others in draws])
    assert (each[0] - each[1]).norm() > 0.1 * whole.norm()  # one draw is not like the other
    assert_close(each.mean(dim=0), whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


def test_all_others_drawn_is_all_classes() -> None:
    loss = Loss(network("block_mild"), PRIOR, class_weight=1.0, class_temperature=2000.0)
    assert_close(by_others(loss, torch.tensor([[1, 2], [2, 0], [0, 1]])), by_others(loss, None))


@given(st.integers(2, 12), st.data())
def test_others_are_different_classes_and_never_the_own(nr_classes: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, nr_classes - 1))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, nr_classes - 1), min_size=1, max_size=5)))
    others = drawn_others(labels, nr_classes, count, torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    assert others.shape == (len(labels), count)
    for label, row in zip(labels.tolist(), others.tolist(), strict=True):
        assert len({*row, label}) == count + 1
        assert all(0 <= other < nr_classes for other in row)


def test_every_other_class_is_as_likely_as_any() -> None:
    others = drawn_others(torch.full((30_000,), 2), 5, 2, torch.Generator().manual_seed(0))
    shares = torch.bincount(others.flatten(), minlength=5) / len(others)
    assert_close(shares, torch.tensor([0.5, 0.5, 0, 0.5, 0.5]), atol=0.015, rtol=0)


@pytest.mark.parametrize("class_weight", [0.0, 1.0])
def test_a_withheld_label_neither_conditions_nor_classifies(class_weight: float) -> None:
    model = network("block_mild")
    pixels, labels, _, weights = batch()
    withheld = torch.ones(4, dtype=torch.bool)
    total, _, _ = Loss(model, UNIFORM, class_weight=class_weight)(pixels, labels, withheld, weights, None)
    nats = log_prob(images(4), model(images(4), torch.full((4,), NULL_LABEL)), n_mix=2)
    assert_close(total, bits_per_dim(nats, (3, 8, 8)).sum())


def test_padding_weighs_nothing() -> None:
    model = network("block_mild")
    loss = Loss(model, UNIFORM)
    pixels, labels, withheld, _ = batch()
    padded = loss(pixels, labels, withheld, torch.tensor([1.0, 1, 1, 0]), None)[0]
    assert_close(padded, loss(pixels[:3], labels[:3], withheld[:3], torch.ones(3), None)[0])


def test_bf16_computes_the_likelihood_in_float32_and_stays_close() -> None:
    model = network("block_mild", settled=False)
    exact = Loss(model, UNIFORM)(*batch(), None)[0]
    coarse = Loss(model, UNIFORM, bf16=True)(*batch(), None)[0]
    assert coarse.dtype == torch.float32
    assert_close(coarse, exact, rtol=0.02, atol=0)
    assert coarse != exact


@pytest.mark.parametrize("kind", ["channel", "element"])
def test_dropout_masks_have_the_rate_and_keep_the_mean(kind: str) -> None:
    model = network("none", dropout=0.25, dropout_kind=kind)
    masks = model.dropout_masks(200, torch.Generator().manual_seed(0))
    assert masks is not None
    assert len(masks) == sum(site.kind == "gate" for site in model.sites) == 16
    for mask in masks:
        assert mask.shape[:2] == (200, 8)
        assert (mask.shape[2] == 1) == (kind == "channel")
        assert_close(mask.unique(), torch.tensor([0.0, 1 / 0.75]))
    kept = torch.cat([mask.flatten() for mask in masks]).gt(0).double().mean()
    assert kept.item() == pytest.approx(0.75, abs=0.02)
    assert network("none", dropout=0.0).dropout_masks(2, torch.Generator()) is None


def test_each_mask_is_used_in_its_own_block() -> None:
    model = network("none", dropout=0.5)
    x, y = images(2), torch.tensor([0, 1])
    masks = model.dropout_masks(2, torch.Generator().manual_seed(3))
    assert masks is not None
    plain = model(x, y, masks)
    for index in range(len(masks)):
        changed = [mask.clone() for mask in masks]
        changed[index] = 2 - changed[index]
        assert not torch.equal(model(x, y, changed), plain), f"mask {index} does nothing"


def test_flip_mirrors_the_chosen() -> None:
    x = torch.arange(2 * 1 * 2 * 3).view(2, 1, 2, 3)
    flipped = augment.flip(x, torch.tensor([True, False]))
    assert flipped[0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert torch.equal(flipped[1], x[1])


def test_shift_moves_by_whole_pixels_and_repeats_the_border() -> None:
    x = torch.arange(9).view(1, 1, 3, 3).expand(2, 1, 3, 3)
    moved = augment.shift(x, torch.tensor([[0, 0], [1, -1]]))
    assert torch.equal(moved[0], x[0])
    assert moved[1, 0].tolist() == [[1, 2, 2], [1, 2, 2], [4, 5, 5]]


def test_schedules() -> None:
    constant = TrainConfig(epochs=10)
    assert [lr_factor(constant, step, 5) for step in (0, 49)] == [1.0, 1.0]
    exponential = TrainConfig(epochs=10, schedule="exponential", lr_gamma=0.9)
    assert lr_factor(exponential, 3, 5) == pytest.approx(0.9**3)
    linear = TrainConfig(epochs=10, schedule="linear", warmup_epochs=1, lr_floor=0.1)
    factors = [lr_factor(linear, step, 5) for step in range(51)]
    assert factors[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert factors[5:] == pytest.approx([1 - 0.9 * done / 45 for done in range(46)])
    cosine = TrainConfig(epochs=10, schedule="cosine", warmup_epochs=1, lr_floor=0.1)
    factors = [lr_factor(cosine, step, 5) for step in range(51)]
    assert factors[:5] == sorted(factors[:5])
    assert 0 < factors[0] < 0.5
    assert factors[5] == pytest.approx(1.0)
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[50] == pytest.approx(0.1)
    assert lr_factor(cosine, 5 + 45 // 2, 5) == pytest.approx(0.55, abs=0.03)


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_adam_weighs_its_eps_as_for_a_sum_of_nats(eps: float) -> None:
    """The first update of the starter code's loss, which is a sum over the batch, in nats."""
    pixels, labels, withheld, weights = batch()
    settings = TrainConfig(batch_size=4, lr=0.01, adam_eps=eps)
    model, starter = network("block_mild"), network("block_mild")
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    optimizer = build_optimizer(settings, model, model.image_shape)
    total, _, _ = Loss(model, UNIFORM)(pixels, labels, withheld, weights, None)
    (total / 4).backward()
    optimizer.step()
    of_sum = torch.optim.Adam(starter.parameters(), lr=0.01, eps=eps)
    (-log_prob(images(4), starter(images(4), labels), n_mix=2).sum()).backward()
    of_sum.step()
    ours, theirs = (torch.nn.utils.parameters_to_vector(each.parameters()) - before for each in (model, starter))
    assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_weight_decay_spares_biases_and_gains() -> None:
    model = network("block_mild")
    optimizer = build_optimizer(TrainConfig(optimizer="adamw", weight_decay=0.1), model, model.image_shape)
    decayed, spared = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    spared_ids = {id(p) for p in spared["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in spared_ids) == (name.endswith(("bias", "original0"))), name


def test_all_weights_are_updated_in_one_call_where_they_lie() -> None:
    for device in ("cpu", "cuda"):
        with FakeTensorMode(), torch.device(device):
            model = torch.nn.Linear(2, 2)
            optimizers = [build_optimizer(TrainConfig(optimizer=name), model, (1, 8, 8)) for name in ("adam", "adamw")]
        assert [group["fused"] for each in optimizers for group in each.param_groups] == [True] * 3


def _weight(ema: Average) -> float:
    assert isinstance(ema.module, torch.nn.Linear)
    return ema.module.weight.item()


def test_ema_follows_slowly_and_faster_at_first() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
        ema = Average(model, 0.99)
        ema.update_parameters(model)  # the first update copies
        model.weight.fill_(1.0)
        ema.update_parameters(model)
        after_one = _weight(ema)
        for _ in range(2000):
            ema.update_parameters(model)
    assert after_one == pytest.approx(1 - 2 / 11)
    assert _weight(ema) == pytest.approx(1.0, abs=1e-4)


def test_data_dependent_init_normalises_every_convolution() -> None:
    model = network("block_mild", settled=False)
    x, y = images(32), torch.arange(32) % NR_CLASSES
    data_dependent_init(model, x, y)
    seen: list[tuple[torch.Tensor, bool]] = []
    for module in model.modules():
        if isinstance(module, Convolve):
            transposed = module.output_padding is not None
            module.register_forward_hook(lambda _, __, out, t=transposed: seen.append((out.detach(), t)))
    model(x, y)
    for out, transposed in seen:
        assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(out.shape[1]), atol=1e-3, rtol=0)
        deviation = out.std(dim=(0, 2, 3), correction=0)
        if transposed:
            assert 0.3 < deviation.mean() < 3
        else:
            assert_close(deviation, torch.ones(out.shape[1]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", sorted(ENCODINGS))
def test_encodings_tell_classes_apart_and_withhold(name: str) -> None:
    encoding = ENCODINGS[name](5, None if name == "one_hot" else 6)
    codes = encoding(torch.tensor([0, 1, 2, 3, 4, NULL_LABEL]))
    assert codes.shape == (6, encoding.dim)
    assert encoding.dim == (5 if name == "one_hot" else 6)
    assert codes[5].eq(0).all()
    distances = torch.cdist(codes[:5], codes[:5]) + torch.eye(5)
    assert distances.min() > 0.1


def test_sinusoidal_is_the_transformers_encoding() -> None:
    table = ENCODINGS["sinusoidal"](3, 4).table()
    expected = [math.sin(2), math.cos(2), math.sin(2 / 100), math.cos(2 / 100)]
    assert_close(table[2], torch.tensor(expected))
