"""Metrics follow from the log-likelihoods, over every image."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score
from torch import Tensor
from torch.testing import assert_close

from cpcnn_core import classify
from cpcnn_core import evaluate as evaluate_module
from cpcnn_core.classify import class_log_likelihoods, log_posterior, predict, with_close_calls_settled
from cpcnn_core.data import Split
from cpcnn_core.errors import LikelihoodError
from cpcnn_core.evaluate import evaluate, log_likelihoods, log_prior, scored
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.graphs import call_by_call
from cpcnn_core.layers import Convolve
from cpcnn_core.likelihood import log_prob
from cpcnn_core.loss import Loss
from tests.contract.networks import NR_CLASSES, images, network

UNIFORM = torch.full((NR_CLASSES,), -math.log(NR_CLASSES), dtype=torch.float64)


def evaluation(table: Tensor, labels: Tensor, prior: Tensor | None = None) -> Evaluation:
    N, Y = table.shape
    uniform = torch.full((Y,), -math.log(Y), dtype=torch.float64)
    names = tuple(str(i) for i in range(N))
    return Evaluation(names, labels, table.double(), uniform if prior is None else prior, (1, 4, 4))


@st.composite
def tables(draw: st.DrawFn) -> Evaluation:
    seed, n, spread = draw(st.integers(0, 10_000)), draw(st.integers(5, 60)), draw(st.floats(0.1, 50))
    generator = torch.Generator().manual_seed(seed)
    table = spread * torch.randn(n, NR_CLASSES, generator=generator) - 500
    return evaluation(table, torch.randint(0, NR_CLASSES, (n,), generator=generator))


@given(tables())
@settings(max_examples=30)
def test_metrics_are_sklearns(found: Evaluation) -> None:
    labels, predicted = found.labels.numpy(), found.predictions.numpy()
    classes = list(range(NR_CLASSES))
    assert found.confusion.tolist() == confusion_matrix(labels, predicted, labels=classes).tolist()
    expected = f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(expected)
    assert found.accuracy == pytest.approx((labels == predicted).mean())
    assert 0 <= found.ece() <= 1


@given(tables())
@settings(max_examples=20)
def test_the_temperature_minimises_the_class_nll_and_changes_no_prediction(found: Evaluation) -> None:
    best = found.class_nll(found.temperature)
    for factor in (0.8, 1.25):
        assert best <= found.class_nll(min(1e4, max(1e-2, found.temperature * factor))) + 1e-6
    assert torch.equal(found.posterior(found.temperature).argmax(1), found.predictions)


def test_calibration_error_of_known_posteriors() -> None:
    # Ten images said to be class 0 with probability 0.9, of which six are.
    table = torch.tensor([0.9, 0.1]).log().expand(10, -1)
    found = evaluation(table, torch.tensor([0] * 6 + [1] * 4))
    assert found.ece() == pytest.approx(0.3)


def test_the_prior_is_part_of_bayes_rule() -> None:
    table = torch.tensor([[-10.0, -10.5]])
    prior = torch.tensor([0.1, 0.9]).log()
    assert predict(table, torch.zeros(2)).item() == 0
    assert predict(table, prior).item() == 1
    expected = math.exp(-10.5) * 0.9 / (math.exp(-10) * 0.1 + math.exp(-10.5) * 0.9)
    assert log_posterior(table, prior)[0, 1].exp().item() == pytest.approx(expected, rel=1e-5)


def test_posteriors_of_very_unlikely_images_are_still_distributions() -> None:
    posterior = log_posterior(torch.tensor([[-1e5, -1.001e5]], dtype=torch.float64), torch.zeros(2)).exp()
    assert posterior[0].tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("shift", [0.0, -1e6, -1e17, -1e30])
def test_a_prior_decides_between_equals_however_unlikely_both_are(shift: float) -> None:
    table = torch.full((1, 2), shift, dtype=torch.float64)
    prior = torch.tensor([0.1, 0.9], dtype=torch.float64).log()
    assert predict(table, prior).item() == 1
    assert_close(log_posterior(table, prior)[0], prior)
    assert_close(log_posterior(table, prior, temperature=7.0)[0], prior)


@pytest.mark.parametrize("class_temperature", [1.0, 50.0])
def test_the_posterior_that_is_trained_keeps_the_prior_of_very_unlikely_images(class_temperature: float) -> None:
    model = network("none")
    with torch.no_grad():
        model.nin_out.conv.bias[2:].view(3, 3, 2)[:, 0].fill_(3e6)  # the means: far off
    prior, weight = torch.tensor([0.98, 0.01, 0.01]).log(), 1e6
    objective = Loss(model.eval(), prior, class_weight=weight, class_temperature=class_temperature)
    labels = torch.tensor([0, 2])
    total, _, bpd = objective(images(2), labels, torch.zeros(2, dtype=torch.bool), torch.ones(2), None)
    assert bpd > 1e6
    posterior_loss = (total.double() - bpd.double()).item() / weight
    assert posterior_loss == pytest.approx(-prior[labels].sum().item(), rel=1e-4)


def test_priors() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    assert_close(log_prior("uniform", labels, 3).exp(), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert_close(log_prior("empirical", labels, 3).exp(), torch.tensor([4, 2, 1], dtype=torch.float64) / 7)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_every_image_counts_once_whatever_the_batch_size(batch_size: int) -> None:
    model = network("block_film")
    x = images(5)
    pixels = ((x + 1) * 127.5).round().to(torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1])
    split = Split(pixels, labels, tuple("abcde"))
    found = evaluate(model, split, log_prior("uniform", labels, NR_CLASSES), batch_size=batch_size)
    for y in range(NR_CLASSES):
        expected = log_prob(x, model(x, torch.full((5,), y)), n_mix=2).double()
        assert_close(found.log_likelihood[:, y], expected, atol=1e-3, rtol=1e-6)
    true = found.log_likelihood.gather(1, labels[:, None])
    assert found.bpd == pytest.approx(-true.mean().item() / (3 * 64 * math.log(2)))
    assert found.names == tuple("abcde")


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_image_under_more_classes_than_fit_into_a_pass_takes_several_captured_or_not(batch_size: int) -> None:
    model, pixels = network("block_film"), random_pixels(9)
    most: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, arguments: most.append(len(arguments[1])))
    found = class_log_likelihoods(model, pixels, batch_size=batch_size)
    assert max(most) <= batch_size
    assert_close(class_log_likelihoods(model, pixels, batch_size=batch_size, capture=call_by_call), found)
    hook.remove()
    assert_close(class_log_likelihoods(model, pixels, batch_size=9 * NR_CLASSES), found, atol=1e-3, rtol=1e-6)


def split_of(counts: list[int]) -> Split:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return Split(torch.zeros(len(labels), 1, 4, 4), labels, tuple(f"{i:04d}" for i in range(len(labels))))


@pytest.mark.parametrize("counts", [[10], [40, 40, 40], [100, 30, 5, 1], [1] * 7, [97, 2, 1]])
def test_what_is_scored_is_a_fixed_share_of_each_class(counts: list[int]) -> None:
    split = split_of(counts)
    larger: set[str] = set(split.names)
    assert scored(split, None) is scored(split, len(split)) is scored(split, 10 * len(split)) is split
    for most in range(len(split) - 1, 0, -1):
        some = scored(split, most)
        assert len(some) == most
        assert list(some.names) == sorted(some.names)  # in the split's order
        assert set(some.names) <= larger  # fewer are among more
        larger = set(some.names)
        per_class = torch.bincount(some.labels, minlength=len(counts)).tolist()
        assert min(per_class) >= 1 or sum(count > 0 for count in per_class) == most
        if min(per_class) > 1:
            assert all(abs(n - most * of / len(split)) <= 1.5 for n, of in zip(per_class, counts, strict=True))


def test_what_is_scored_follows_from_what_the_digest_holds_and_not_from_names_or_pixels() -> None:
    split = split_of([30, 20, 10])
    chosen = set(scored(split, 12).names)
    renamed = Split(split.images + 1, split.labels, tuple(f"x{name}" for name in split.names))
    assert {name.removeprefix("x") for name in scored(renamed, 12).names} == chosen
    assert chosen != set(split.names[:12])
    assert sorted(chosen) != sorted(split.names[:6] + split.names[30:34] + split.names[50:52])  # not the first of each


def random_pixels(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_bf16_rounds_the_network_and_neither_its_ends_nor_the_likelihood() -> None:
    model = network("block_film")
    seen: dict[str, torch.dtype] = {}

    def note(name: str, _module: torch.nn.Module, _inputs: object, out: Tensor) -> None:
        seen[name] = out.dtype

    for name, module in model.named_modules():
        if isinstance(module, Convolve):
            module.register_forward_hook(partial(note, name))
    exact = class_log_likelihoods(model, random_pixels(6), batch_size=9)
    rounded = class_log_likelihoods(model, random_pixels(6), batch_size=9, bf16=True)
    assert not torch.equal(rounded, exact)
    assert_close(rounded, exact, rtol=0.02, atol=0)  # 8 bits of mantissa are 0.4 %
    ends = {"u_init.convolve", "ul_init.0.convolve", "ul_init.1.convolve", "nin_out.convolve"}
    assert {name for name, dtype in seen.items() if dtype == torch.float32} == ends
    assert len(seen) > 40


def test_bf16_predicts_what_float32_predicts() -> None:
    model, pixels = network("bottleneck_film"), random_pixels(300)
    exact = log_likelihoods(model, pixels, UNIFORM, batch_size=24)
    heard: list[tuple[int, int]] = []
    settled = log_likelihoods(
        model, pixels, UNIFORM, batch_size=24, bf16=True, on_images=lambda *done: heard.append(done)
    )
    rounded = class_log_likelihoods(model, pixels, batch_size=24, bf16=True)
    assert torch.equal(exact, class_log_likelihoods(model, pixels, batch_size=24))
    assert not torch.equal(exact.argmax(dim=1), rounded.argmax(dim=1))
    assert torch.equal(exact.argmax(dim=1), settled.argmax(dim=1))
    again = 300 - int((settled == rounded).all(dim=1).sum())
    assert 20 < again < 280
    # each time some are computed again is heard of, since a trial that is silent for long is taken for hung
    assert heard[: 300 // 8] == [(done, 300) for done in range(8, 300, 8)]
    assert len(heard[heard.index((300, 300)) + 1 :]) == math.ceil(again / classify.CLOSE_CALLS)


class OneOfSeveral:
    """What `log_likelihoods` asks of an Accelerator, as one of several threads that stand for processes."""

    device = torch.device("cpu")

    def __init__(self, rank: int, rows: list[Tensor], barrier: threading.Barrier) -> None:
        self.process_index, self.num_processes = rank, len(rows)
        self._rows, self._barrier = rows, barrier

    def gather(self, local: Tensor) -> Tensor:
        self._rows[self.process_index] = local
        self._barrier.wait(60)
        gathered = torch.cat(self._rows)
        self._barrier.wait(60)
        return gathered


def test_the_same_close_calls_are_settled_however_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = network("bottleneck_film"), random_pixels(101)
    tables = {
        bf16: class_log_likelihoods(model, pixels, batch_size=24, bf16=bf16) for bf16 in (False, True)
    }  # a network is no thread's own

    def looked_up(_model: object, images: Tensor, *, bf16: bool, **_rest: object) -> Tensor:
        numbers = [next(i for i, known in enumerate(pixels) if torch.equal(known, image)) for image in images]
        return tables[bf16][numbers].clone()

    monkeypatch.setattr(evaluate_module, "class_log_likelihoods", looked_up)
    alone = log_likelihoods(model, pixels, UNIFORM, batch_size=24, bf16=True)
    assert not torch.equal(alone, tables[True])
    for world in (2, 3):
        rows, barrier = [torch.empty(0)] * world, threading.Barrier(world)

        def run(rank: int, rows: list[Tensor] = rows, barrier: threading.Barrier = barrier) -> Tensor:
            accelerator = OneOfSeveral(rank, rows, barrier)
            return log_likelihoods(model, pixels, UNIFORM, batch_size=7, bf16=True, accelerator=accelerator)

        with ThreadPoolExecutor(world) as pool:
            for table in pool.map(run, range(world)):
                assert torch.equal(table, alone)


@given(st.integers(0, 10_000), st.integers(0, 200), st.sampled_from([0.1, 3.0, 30.0]), st.booleans())
@settings(max_examples=60)
def test_close_calls_are_computed_again(seed: int, count: int, error: float, with_prior: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    exact = 20 * torch.randn(count, NR_CLASSES, generator=generator).double() - 500
    coarse = exact + error * torch.randn(count, NR_CLASSES, generator=generator)
    prior = torch.tensor([0.98, 0.01, 0.01]).log().double() if with_prior else UNIFORM
    again: list[int] = []

    def asked(numbers: Tensor) -> Tensor:
        again.extend(numbers.tolist())
        return exact[numbers]

    before = coarse.clone()
    table = with_close_calls_settled(coarse, prior, asked)
    assert torch.equal(coarse, before)
    assert torch.equal(predict(table, prior), predict(exact, prior))
    assert torch.equal(table[again], exact[again])
    others = [i for i in range(count) if i not in again]
    assert torch.equal(table[others], coarse[others])
    assert len(again) >= min(count, classify.CLOSE_CALLS)
    leads = (coarse + prior).topk(2, dim=1).values
    closest_first = (leads[:, 0] - leads[:, 1])[again]
    assert torch.equal(closest_first, closest_first.sort().values)


def test_what_bf16_could_not_compute_is_computed_again() -> None:
    exact = torch.tensor([[0.0, 100.0, 300.0]]).repeat(100, 1).double()
    coarse = exact.clone()
    coarse[70] = math.nan
    coarse[80, 0] = -math.inf  # the other two tell classes apart
    table = with_close_calls_settled(coarse, UNIFORM, lambda numbers: exact[numbers])
    assert torch.equal(table, exact)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("fusion", ["none", "bottleneck_film"])
def test_a_value_that_is_not_finite_is_an_error_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, value: float, bf16: bool, fusion: str
) -> None:
    model, pixels = network(fusion), random_pixels(200)
    table = log_likelihoods(model, pixels, UNIFORM, batch_size=24, bf16=bf16)
    broken = {tuple(image.flatten().tolist()) for image in pixels[[17, 170]]}

    def diverged(_model: object, images: Tensor, *, bf16: bool, **_rest: object) -> Tensor:
        rows = [next(i for i, known in enumerate(pixels) if torch.equal(known, image)) for image in images]
        found = table[rows]
        found[[i for i, image in enumerate(images) if tuple(image.flatten().tolist()) in broken], 1] = value
        return found

    monkeypatch.setattr(evaluate_module, "class_log_likelihoods", diverged)
    with pytest.raises(LikelihoodError, match=rf"2 of 200 images; it is {value} for image 18 under class 1"):
        log_likelihoods(model, pixels, UNIFORM, batch_size=24, bf16=bf16)


@pytest.mark.parametrize(("bits", "sound"), [(0.0, False), (-1e-7, False), (1e-7, False), (1e-4, True)])
def test_images_that_cost_no_bits_are_an_error(monkeypatch: pytest.MonkeyPatch, bits: float, sound: bool) -> None:
    nats = torch.full((5, NR_CLASSES), -bits * 3 * 64 * math.log(2), dtype=torch.float64)
    monkeypatch.setattr(evaluate_module, "class_log_likelihoods", lambda *_, **__: nats)
    split = Split(random_pixels(5), torch.arange(5) % NR_CLASSES, tuple("abcde"))
    if sound:
        assert evaluate(network("none"), split, UNIFORM, batch_size=9).bpd == pytest.approx(bits)
    else:
        with pytest.raises(LikelihoodError, match="as if every pixel of every image were certain"):
            evaluate(network("none"), split, UNIFORM, batch_size=9)


def test_without_another_class_or_any_image_there_are_no_close_calls() -> None:
    def never(_numbers: Tensor) -> Tensor:
        raise AssertionError

    for shape in ((5, 1), (0, NR_CLASSES)):
        table = torch.zeros(shape)
        assert with_close_calls_settled(table, torch.zeros(shape[1]), never) is table


def test_a_network_without_a_label_has_no_close_calls_beyond_the_fewest() -> None:
    """All classes are equally likely in either precision."""
    model = network("none")
    settled = log_likelihoods(model, random_pixels(90), UNIFORM, batch_size=9, bf16=True)
    rounded = class_log_likelihoods(model, random_pixels(90), batch_size=9, bf16=True)
    assert (settled != rounded).any(dim=1).sum() <= classify.CLOSE_CALLS


def test_evaluation_leaves_the_mode_of_the_network_as_it_was() -> None:
    model = network("none")
    for mode in (True, False):
        class_log_likelihoods(model.train(mode), images(1), batch_size=1)
        assert model.training == mode
