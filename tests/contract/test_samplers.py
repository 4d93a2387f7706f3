"""What every sampler keeps: the reference's image for the same noise, causality, labels that matter, given rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, ClassVar, Protocol

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cpcnn_core import graphs, layers, likelihood, sampling
from cpcnn_core.cached import CachedNetwork
from cpcnn_core.data import to_model
from cpcnn_core.graphs import Work, call_by_call
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.sampling import draw_noise, sample, sample_cached, sample_reference
from tests.contract.networks import COMPOSITIONS, NAMES, NR_CLASSES, images, network
from tests.support.tape import tape

FUSION = "input_map+block_film+skip_add"
LABELS = torch.tensor([0, 1, 2, -1])
HEIGHT, WIDTH = 8, 4  # three resolutions, and every kind of row at least twice


class Sampler(Protocol):
    def __call__(
        self,
        model: ConditionalPixelCNN,
        labels: Tensor,
        noise: Tensor,
        *,
        temperature: float = 1.0,
        given: Tensor | None = None,
        from_row: int = 0,
        on_row: Callable[[int, int], None] | None = None,
    ) -> Tensor: ...


@cache
def model_of(channels: int = 3) -> ConditionalPixelCNN:
    return network(FUSION, (channels, HEIGHT, WIDTH))


def noise_of(seed: int = 0, channels: int = 3) -> Tensor:
    return draw_noise(model_of(channels), len(LABELS), torch.Generator().manual_seed(seed))


@cache
def reference(seed: int = 0, channels: int = 3, temperature: float = 1.0) -> Tensor:
    return sample_reference(model_of(channels), LABELS, noise_of(seed, channels), temperature=temperature)


def assert_same_images(got: Tensor, want: Tensor) -> None:
    """Equal, but for a value that rounding sends to the neighbouring level, and what follows from it in its image."""
    assert got.dtype == want.dtype == torch.uint8
    assert got.shape == want.shape
    for image, other in zip(got.int(), want.int(), strict=True):
        by_pixel = (image - other).abs().flatten(1).T
        different = by_pixel.sum(dim=1).nonzero().flatten()
        if len(different):
            assert by_pixel[different[0]].sum() == 1, f"pixel {int(different[0])} differs by {by_pixel[different[0]]}"
    assert (got != want).flatten(1).any(dim=1).sum() <= 1


class SamplerContract:
    """A sampler passes if a subclass that names it passes."""

    draw: ClassVar[Sampler]

    def drawn(self, seed: int = 0, channels: int = 3, temperature: float = 1.0) -> Tensor:
        return self.draw(model_of(channels), LABELS, noise_of(seed, channels), temperature=temperature)

    def test_uint8_of_the_models_shape(self) -> None:
        drawn = self.drawn()
        assert drawn.shape == (len(LABELS), 3, HEIGHT, WIDTH)
        assert drawn.dtype == torch.uint8
        assert drawn.unique().numel() > 20

    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_references_image_for_the_same_noise(self, channels: int) -> None:
        assert_same_images(self.drawn(0, channels), reference(0, channels))

    def test_the_same_noise_gives_the_same_image_and_other_noise_another(self) -> None:
        assert torch.equal(self.drawn(), self.draw(model_of(), LABELS, noise_of()))
        assert (self.drawn() != self.drawn(1)).float().mean() > 0.5

    @pytest.mark.parametrize("temperature", [0.0, 0.7])
    def test_temperature(self, temperature: float) -> None:
        drawn = self.drawn(temperature=temperature)
        assert_same_images(drawn, reference(temperature=temperature))
        assert torch.equal(drawn, self.drawn(1, temperature=temperature)) == (temperature == 0)

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_a_network_that_diverged_draws_what_its_parameters_say(self, temperature: float) -> None:
        model = network("none", (1, HEIGHT, WIDTH))
        white, black = torch.tensor([-1e30, 1e30]), torch.tensor([1e30, -1e30])  # means of the two components
        noise = draw_noise(model, 2, torch.Generator().manual_seed(0))
        noise[..., -1] = 0.5  # where the logistic is exactly 0, an infinite scale would not be a number
        for means, log_scale, level in ((white, 1e30, 255), (black, -1e30, 0)):
            with torch.no_grad():
                model.nin_out.conv.bias.copy_(
                    torch.cat([torch.tensor([0.0, 1e30]), means, torch.full((2,), log_scale)])
                )
            drawn = self.draw(model, LABELS[:2], noise, temperature=temperature)
            assert drawn.unique().tolist() == [level]

    def test_the_label_matters(self) -> None:
        noise = noise_of()[:, :, :1].expand(-1, -1, len(LABELS), -1)
        drawn = self.draw(model_of(), LABELS, noise)
        for i in range(1, len(LABELS)):
            assert not torch.equal(drawn[0], drawn[i])

    def test_noise_reaches_its_own_pixel_and_later_ones_of_its_own_image_only(self) -> None:
        row, column = 3, 2
        before, noise = self.drawn(), noise_of().clone()
        noise[row, column, 1] = 1 - noise[row, column, 1]
        after = self.draw(model_of(), LABELS, noise)
        changed = (before != after).any(dim=1).flatten(1)
        position = row * WIDTH + column
        assert changed[1, position]
        assert changed[1, position + 1 :].any()
        assert not changed[1, :position].any()
        assert not changed[[0, 2, 3]].any()

    @pytest.mark.parametrize("from_row", [1, 6, 8])
    def test_completion_keeps_the_given_rows_and_looks_at_no_others(self, from_row: int) -> None:
        given = ((images(len(LABELS), (3, HEIGHT, WIDTH)) + 1) * 127.5).round().to(torch.uint8)
        drawn = self.draw(model_of(), LABELS, noise_of(), given=given, from_row=from_row)
        assert torch.equal(drawn[:, :, :from_row], given[:, :, :from_row])
        given[:, :, from_row:] = 0
        assert torch.equal(drawn, self.draw(model_of(), LABELS, noise_of(), given=given, from_row=from_row))

    @pytest.mark.parametrize("from_row", [3])
    def test_an_image_completed_with_its_own_noise_is_the_image(self, from_row: int) -> None:
        drawn = self.draw(model_of(), LABELS, noise_of(), given=reference(), from_row=from_row)
        assert_same_images(drawn, reference())

    def test_progress(self) -> None:
        told: list[tuple[int, int]] = []
        self.draw(model_of(), LABELS, noise_of(), on_row=lambda *rows: told.append(rows))
        assert [done for done, _ in told] == sorted({done for done, _ in told})
        assert told[-1] == (HEIGHT * len(LABELS), HEIGHT * len(LABELS))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"temperature": -1.0}, "temperature: -1.0"),
            ({"from_row": 9}, "from_row: 9, expected 0 to 8"),
            ({"from_row": 2}, "without `given`"),
            ({"given": torch.zeros(4, 3, 8, 4)}, "given: torch.float32"),
            ({"given": torch.zeros(4, 1, 8, 4, dtype=torch.uint8)}, r"\(4, 1, 8, 4\)"),
            ({"labels": torch.tensor([0, 1, 2, 3])}, "labels: from 0 to 3, expected -1"),
            ({"labels": torch.zeros(4)}, "labels: torch.float32"),
        ],
    )
    def test_what_cannot_be_is_refused(self, settings: dict[str, Any], message: str) -> None:
        asked: dict[str, Any] = {"model": model_of(), "labels": LABELS, "noise": noise_of(), **settings}
        with pytest.raises(ValueError, match=message):
            self.draw(**asked)


class TestReference(SamplerContract):
    draw: ClassVar[Sampler] = staticmethod(sample_reference)
    drawn = staticmethod(reference)


class TestCached(SamplerContract):
    draw: ClassVar[Sampler] = staticmethod(sample_cached)


class TestCachedInThreads(SamplerContract):
    """Two threads with two images each."""

    draw: ClassVar[Sampler] = staticmethod(sample_cached)

    @pytest.fixture(autouse=True)
    def two_threads(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(sampling, "_parts", lambda batch, threads: 2)
        yield
        assert torch.get_num_threads() == 1

    def test_a_failing_thread_stops_the_other_and_its_error_arrives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = CachedNetwork.draw_row
        rows: list[int] = []

        def fails(self: CachedNetwork, row: int, *noise: Tensor) -> Tensor:
            rows.append(row)
            if len(rows) == 3:
                raise FloatingPointError("row lost")
            return drawn(self, row, *noise)

        monkeypatch.setattr(CachedNetwork, "draw_row", fails)
        with pytest.raises(FloatingPointError, match="row lost"):
            sample_cached(model_of(), LABELS, noise_of())
        assert len(rows) < 2 * HEIGHT

    def test_an_error_in_the_callback_stops_both(self) -> None:
        def interrupts(*_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sample_cached(model_of(), LABELS, noise_of(), on_row=interrupts)
        assert_same_images(sample_cached(model_of(), LABELS, noise_of()), reference())


def calls_in(work: Work) -> int:
    """How many calls a row's work makes."""
    assert isinstance(work, partial)
    return len(work.args[0])


class TestCachedAsGraphs(SamplerContract):
    """What a GPU does, its kernels and the control flow of captured rows, with a stand-in for the graph."""

    captured: list[int]

    @pytest.fixture(autouse=True)
    def as_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(layers, "few_kernels", lambda _: True)

    draw: ClassVar[Sampler] = staticmethod(partial(sample_cached, capture=call_by_call))

    def test_a_row_that_is_replayed_reads_no_number_of_pythons(self) -> None:
        drawn = sample_cached(model_of(), LABELS, noise_of(), capture=tape)
        assert_same_images(drawn, reference())

    def test_each_of_the_three_kinds_of_row_is_captured_once_after_it_has_run(self) -> None:
        captured: list[int] = []

        def capture(work: Work) -> Work:
            captured.append(calls_in(work))
            return work

        sample_cached(model_of(), LABELS, noise_of(), capture=capture)
        odd, every_fourth, even = captured  # at rows 3, 4 and 6
        assert odd < even < every_fourth


@pytest.mark.parametrize("fusion", COMPOSITIONS)
def test_outputs_with_a_gpus_calls_which_are_fewer(fusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def calls() -> int:
        captured: list[int] = []

        def capture(work: Work) -> Work:
            captured.append(calls_in(work))
            return work

        model = network(fusion, (3, HEIGHT, WIDTH))
        sample_cached(model, LABELS, draw_noise(model, len(LABELS), torch.Generator().manual_seed(0)), capture=capture)
        return sum(captured)

    on_a_cpu = calls()
    monkeypatch.setattr(layers, "few_kernels", lambda _: True)
    assert calls() < 0.8 * on_a_cpu
    assert_outputs_equal(network(fusion))


def test_everything_lies_where_the_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without memory say where they would lie, which takes no GPU."""

    def unique(labels: Tensor, return_inverse: bool) -> tuple[Tensor, Tensor]:  # how many there are is not known
        return labels, torch.arange(len(labels), device=labels.device)

    monkeypatch.setattr(Tensor, "unique", unique)
    monkeypatch.setattr(sampling, "_check", lambda *_: None)  # which looks at the labels
    monkeypatch.setattr(graphs, "cuda_graph", call_by_call)
    with FakeTensorMode():
        with torch.device("cuda"):
            model = network(COMPOSITIONS[0], (3, 4, 4), settled=False)
        noise, given = torch.rand(4, 4, 4, 5), torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
        for sampler in (sample_cached, sample_reference):
            drawn = sampler(model, torch.zeros(4, dtype=torch.int64), noise, given=given, from_row=3)
            assert drawn.device.type == "cuda"


# ---------------------------------------------------------------------------------------------------- network outputs


def assert_outputs_equal(model: ConditionalPixelCNN) -> None:
    x, labels = images(4, model.image_shape), LABELS
    with torch.inference_mode():
        want = model(x, labels)
        got = CachedNetwork(model, labels).replay(x)
    assert ((got - want).abs() / (1 + want.abs())).max() < 1e-4


@pytest.mark.parametrize("fusion", NAMES)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 16)], ids=str)
def test_outputs_are_the_full_forwards(fusion: str, shape: tuple[int, int, int]) -> None:
    assert_outputs_equal(network(fusion, shape))


@pytest.mark.parametrize("fusion", COMPOSITIONS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 28, 28), (3, 32, 32)], ids=str)
def test_outputs_of_compositions_at_other_sizes(fusion: str, shape: tuple[int, int, int]) -> None:
    assert_outputs_equal(network(fusion, shape, nr_resnet=1 + (shape[1] < 28)))


@pytest.mark.parametrize("encoding", ["one_hot", "embedding", "sinusoidal"])
def test_outputs_with_every_label_encoding(encoding: str) -> None:
    assert_outputs_equal(network(COMPOSITIONS[0], label_encoding=encoding))


def test_outputs_with_a_deeper_network_and_images_that_are_not_square() -> None:
    assert_outputs_equal(network(FUSION, (3, 4, 12), nr_resnet=3))


@pytest.mark.parametrize("fusion", ["none", *COMPOSITIONS])
def test_drawn_pixels_are_drawn_from_the_outputs(fusion: str) -> None:
    """One forward pass over a finished image gives every pixel's mixture; drawing from it again gives the image."""
    model = network(fusion)
    labels = LABELS.repeat(2)
    noise = draw_noise(model, len(labels), torch.Generator().manual_seed(2))
    drawn = sample_cached(model, labels, noise)
    with torch.inference_mode():
        params = model(to_model(drawn), labels).permute(2, 3, 0, 1)
        again = likelihood.sample(params, noise, channels=3, n_mix=2).permute(2, 3, 0, 1)
    steps = (again - to_model(drawn)).abs() * 127.5
    assert steps.max() < 1.01
    assert (steps > 0.5).float().mean() < 2e-3, "more than rounding would move"


# ------------------------------------------------------------------------------------------------------- the entry


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_an_image_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    told: list[tuple[int, int]] = []
    drawn = sample(
        model_of(), LABELS, generator=generator(), batch_size=batch_size, on_row=lambda *rows: told.append(rows)
    )
    assert_same_images(drawn, reference())
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (HEIGHT * len(LABELS), HEIGHT * len(LABELS))


def test_no_labels_no_images() -> None:
    assert sample(model_of(), LABELS[:0], generator=generator()).shape == (0, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("fits", [3, 1])
def test_out_of_memory_goes_on_with_smaller_batches_and_the_same_noise(
    fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Small(CachedNetwork):
        def __init__(self, model: ConditionalPixelCNN, labels: Tensor, *rest: object) -> None:
            sizes.append(len(labels))
            if len(labels) > fits:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate too much")
            super().__init__(model, labels)

    monkeypatch.setattr(sampling, "CachedNetwork", Small)
    assert_same_images(sample(model_of(), LABELS, generator=generator()), reference())
    assert sizes == {3: [4, 2, 2], 1: [4, 2, 1, 1, 1, 1]}[fits]


@pytest.mark.parametrize(("fits", "message"), [(0, "can't allocate memory"), (2, "shapes do not fit")])
def test_memory_for_not_even_one_and_other_errors_are_raised(
    fits: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> CachedNetwork:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory" if fits == 0 else message)

    monkeypatch.setattr(sampling, "CachedNetwork", fails)
    with pytest.raises(RuntimeError, match=message):
        sample(model_of(), LABELS, generator=generator())


def test_images_of_a_wrong_graph_are_drawn_again_call_by_call(caplog: pytest.LogCaptureFixture) -> None:
    paths: list[str] = []
    rows_not_drawn = sample(
        model_of(), LABELS, generator=generator(), capture=lambda _: lambda: None, on_path=paths.append
    )
    assert_same_images(rows_not_drawn, reference())
    assert paths == ["calls"]
    assert "% of their pixels are others" in caplog.text


def test_images_of_a_wrong_sampler_are_drawn_again_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []

    def wrong(*arguments: Any, capture: object, **settings: Any) -> Tensor:
        drawn.append(capture)
        return 255 - sample_cached(*arguments, **settings)

    def confirmed(_work: Work) -> Work:
        return _work

    paths: list[str] = []
    monkeypatch.setattr(sampling, "sample_cached", wrong)
    assert_same_images(
        sample(model_of(), LABELS, generator=generator(), capture=confirmed, on_path=paths.append), reference()
    )
    assert drawn == [confirmed, call_by_call]
    assert paths == ["reference"]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("from_row", [0, 3])
def test_what_is_drawn_rightly_is_confirmed(temperature: float, from_row: int) -> None:
    paths: list[str] = []
    asked: dict[str, Any] = {"temperature": temperature, "from_row": from_row, "given": reference()}
    sample(model_of(), LABELS, generator=generator(), capture=call_by_call, on_path=paths.append, **asked)
    assert paths == ["graph"]


def test_completion_in_batches() -> None:
    drawn = sample(model_of(), LABELS, generator=generator(), batch_size=3, given=reference(), from_row=5)
    assert_same_images(drawn, reference())


def test_sampling_leaves_the_model_as_it_was() -> None:
    model = network(FUSION).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    sample(model, LABELS, generator=generator())
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model(
        images(2, model.image_shape), LABELS[:2]
    ).sum().backward()  # and still trainable: no inference tensor is left in it


def test_labels_of_all_classes_at_once_or_one_by_one() -> None:
    together = sample(model_of(), torch.arange(NR_CLASSES), generator=generator())
    shared = generator()
    one_by_one = [sample(model_of(), torch.tensor([y]), generator=shared) for y in range(NR_CLASSES)]
    assert_same_images(torch.cat(one_by_one), together)


def test_a_batch_is_split_where_each_thread_gets_enough() -> None:
    assert [sampling._parts(batch, 4) for batch in (1, 16, 32, 100)] == [1, 1, 2, 4]
