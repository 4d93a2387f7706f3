"""What every fusion keeps, alone and composed: causality, a label that matters, the unconditional network beneath."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cpcnn_core import layers
from cpcnn_core.fusion import FUSIONS, parse_name
from cpcnn_core.likelihood import log_prob
from cpcnn_core.model import ConditionalPixelCNN
from tests.contract.networks import COMPOSITIONS, CONDITIONAL, NAMES, NR_CLASSES, images, network, settle

SHAPES = [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32)]


class FusionContract:
    """Inherited once per variant; `fusion` is its name."""

    fusion: str

    def test_nothing_from_a_later_pixel_or_another_image_and_something_from_each_earlier_one(self) -> None:
        # With one block per stage the last pixel of the row above is out of the first one's reach, in the original too.
        model = network(self.fusion, nr_resnet=2)
        for row, column in [(0, 0), (0, 5), (3, 0), (4, 4), (7, 7)]:
            x = images(2).requires_grad_()
            model(x, torch.tensor([0, 1]))[0, :, row, column].square().sum().backward()
            assert x.grad is not None
            seen = x.grad.abs().sum(dim=1)  # (B, H, W)
            assert seen[1].eq(0).all(), "a pixel of another image of the batch is seen"
            flat, position = seen[0].flatten(), row * 8 + column
            assert flat[position:].eq(0).all(), "the pixel itself or a later one is seen"
            unseen = (flat[:position] == 0).nonzero().flatten().tolist()
            assert not unseen, f"pixels {unseen} come before {position} and are not seen"

    def test_nothing_from_a_later_channel_of_the_pixel_and_something_from_each_earlier_one(self) -> None:
        model = network(self.fusion)
        x = images(1)
        params = model(x, torch.tensor([1])).detach()
        for channel in range(3):
            probe = x.clone().requires_grad_()
            _conditional_log_prob(probe, params, channel).backward()
            assert probe.grad is not None
            seen = probe.grad[0, :, 4, 4]
            assert seen[channel + 1 :].eq(0).all()
            assert seen[:channel].ne(0).all()

    def test_the_label_matters_unless_there_is_none(self) -> None:
        model = network(self.fusion)
        x = images(NR_CLASSES)[:1].expand(NR_CLASSES, -1, -1, -1)
        out = model(x, torch.arange(NR_CLASSES))
        differences = (out[1:] - out[:1]).abs().amax(dim=(1, 2, 3))
        assert (differences > 1e-4).all() if self.fusion != "none" else (differences == 0).all()

    def test_several_labels_per_image_are_as_many_images(self) -> None:
        model = network(self.fusion, dropout=0.5)
        x, labels = images(2), torch.tensor([0, 1, 2, 2, -1, 0])
        masks = model.dropout_masks(2, torch.Generator().manual_seed(0))
        assert masks is not None
        together = model(x, labels, masks)
        apart = model(x.repeat_interleave(3, dim=0), labels, [mask.repeat_interleave(3, dim=0) for mask in masks])
        assert_close(together, apart)

    def test_a_gpus_kernels_compute_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = network(self.fusion, dropout=0.5)
        x, labels = images(2), torch.tensor([0, 1, 2, -1])
        masks = model.dropout_masks(2, torch.Generator().manual_seed(0))

        def values_and_gradients() -> list[Tensor]:
            out = model(x, labels, masks)
            return [out, *torch.autograd.grad(out.square().mean(), list(model.parameters()), allow_unused=True)]

        found = []
        for gpu in (False, True):
            monkeypatch.setattr(layers, "few_kernels", lambda _, gpu=gpu: gpu)
            found.append(values_and_gradients())
        assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)

    def test_a_label_reaches_only_its_own_image(self) -> None:
        model = network(self.fusion)
        x = images(2)
        assert_close(model(x, torch.tensor([0, 1]))[0], model(x, torch.tensor([0, 2]))[0])

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_finite_at_initialisation(self, shape: tuple[int, int, int]) -> None:
        model = network(self.fusion, shape, settled=False)
        x = images(2, shape)
        params = model(x, torch.tensor([0, 2]))
        assert params.shape == (2, (2 * 10 if shape[0] == 3 else 2 * 3), *shape[1:])
        assert params.isfinite().all()
        assert log_prob(x, params, n_mix=2).isfinite().all()

    def test_state_dict_round_trip(self) -> None:
        model, other = network(self.fusion), network(self.fusion, seed=1)
        x, y = images(2), torch.tensor([0, 1])
        assert not torch.equal(model(x, y), other(x, y))
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(x, y), other(x, y))

    def test_gradients_reach_every_parameter(self) -> None:
        model = network(self.fusion)
        x = images(NR_CLASSES)
        (-log_prob(x, model(x, torch.arange(NR_CLASSES)), n_mix=2)).sum().backward()
        unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not unreached

    def test_with_the_labels_parameters_at_zero_it_is_the_unconditional_network(self) -> None:
        model, plain = network(self.fusion), network("none", seed=1)
        _transplant(plain, model)
        x = images(2)
        for labels in (torch.tensor([0, 1]), torch.tensor([-1, -1])):
            assert_close(model(x, labels), plain(x, labels), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("encoding", ["embedding", "sinusoidal"])
    def test_every_label_encoding(self, encoding: str) -> None:
        model = network(self.fusion, label_encoding=encoding, label_dim=6)
        x = images(1).expand(NR_CLASSES, -1, -1, -1)
        out = model(x, torch.arange(NR_CLASSES))
        assert out.isfinite().all()
        assert self.fusion == "none" or (out[1:] - out[:1]).abs().amax(dim=(1, 2, 3)).gt(1e-4).all()

    def test_a_withheld_label_is_no_class(self) -> None:
        model = network(self.fusion)
        x = images(1).expand(NR_CLASSES + 1, -1, -1, -1)
        out = model(x, torch.arange(-1, NR_CLASSES))
        assert out.isfinite().all()
        assert self.fusion == "none" or (out[1:] - out[:1]).abs().amax(dim=(1, 2, 3)).gt(1e-4).all()

    def test_it_logs_what_it_declares(self) -> None:
        """Else its quantities would be no columns of the results, but entries of `extra`."""
        model = network(self.fusion)
        parts = parse_name(self.fusion)
        declared = {f"fusion.{part}.{quantity}" for part in parts for quantity in FUSIONS[part].Diagnostics}
        logged = set(model.fusion.diagnostics(model.label.table()))
        assert declared <= logged
        # Of each place apart, which a declaration cannot know, under the declared names.
        places = {site.name.removesuffix(f".{site.kind}") for site in model.sites} | {site.name for site in model.sites}
        of_places = {
            f"fusion.{part}.{place}.{quantity}"
            for part in parts
            for place in places
            for quantity in FUSIONS[part].Diagnostics
        }
        assert logged - declared <= of_places

    def test_conditioning_touches_only_sites_of_the_network(self) -> None:
        model = network(self.fusion)
        sites = {site.name: site for site in model.sites}
        conditioning = model.condition(torch.arange(NR_CLASSES))
        assert set(conditioning) <= set(sites)
        for name, modulation in conditioning.items():
            for tensor in (modulation.scale, modulation.shift):
                assert tensor is None or tensor.shape[:2] == (NR_CLASSES, sites[name].channels)


for _name in NAMES:
    _class = "Test" + "".join(part.title().replace("_", "") for part in _name.split("+"))
    globals()[_class] = type(_class, (FusionContract,), {"fusion": _name, "__module__": __name__})


@pytest.mark.parametrize(
    ("fusion", "shared"),
    [
        ("none", {"up_u", "up_ul", "down_u", "down_ul"}),
        ("head_add", {"up_u", "up_ul", "down_u", "down_ul"}),
        ("skip_add", {"up_u", "up_ul"}),
        ("bottleneck_film+skip_add+head_add", {"up_u", "up_ul"}),
        ("block_mild", set()),
    ],
)
def test_what_comes_before_the_label_is_computed_once_for_all_classes(fusion: str, shared: set[str]) -> None:
    model = network(fusion)
    batches: dict[str, set[int]] = {}
    for name, module in model.named_modules():
        if ".conv_out." in name and isinstance(module, layers.Convolve):
            stage = name.partition(".")[0]

            def see(_: object, inputs: tuple[Tensor, ...], stage: str = stage) -> None:
                batches.setdefault(stage, set()).add(len(inputs[0]))

            module.register_forward_pre_hook(see)
    model(images(2), torch.arange(3).repeat(2))
    assert {stage for stage, sizes in batches.items() if sizes == {2}} == shared
    assert {stage for stage, sizes in batches.items() if max(sizes) == 6} == set(batches) - shared


def test_labels_that_do_not_fit_the_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 labels for 2 images"):
        network("none")(images(2), torch.arange(3))


def test_every_registered_variant_and_five_compositions_are_covered() -> None:
    covered = {value.fusion for name, value in globals().items() if name.startswith("Test")}
    assert covered == {*FUSIONS, *COMPOSITIONS}
    assert len(COMPOSITIONS) >= 5
    assert "none" not in CONDITIONAL


@pytest.mark.parametrize("fusion", ["block_film", "bottleneck_film"])
def test_film_starts_at_the_identity_for_every_class(fusion: str) -> None:
    model = network(fusion, settled=False)
    x = images(NR_CLASSES)[:1].expand(NR_CLASSES, -1, -1, -1)
    out = model(x, torch.arange(NR_CLASSES))
    assert torch.equal(out[0], out[1])
    stats = model.fusion.diagnostics(model.label.table())
    identity = {"gamma_mean": 1.0, "gamma_std": 0.0, "beta_mean": 0.0, "beta_std": 0.0}
    kind = "hidden" if fusion == "block_film" else "bottleneck"
    where = ["", *(f"{site.name.removesuffix('.hidden')}." for site in model.sites if site.kind == kind)]
    assert stats == {f"fusion.{fusion}.{place}{name}": value for place in where for name, value in identity.items()}
    settle(model)
    moved = model.fusion.diagnostics(model.label.table())
    assert moved[f"fusion.{fusion}.gamma_std"] > 0
    assert moved[f"fusion.{fusion}.beta_std"] > 0


@pytest.mark.parametrize("fusion", ["block_film", "bottleneck_film"])
def test_film_may_start_at_random_around_zero(fusion: str) -> None:
    model = network(fusion, settled=False, **{f"fusion_options.{fusion}.init": "random"})
    stats = model.fusion.diagnostics(model.label.table())
    assert abs(stats[f"fusion.{fusion}.gamma_mean"]) < 0.1
    assert abs(stats[f"fusion.{fusion}.beta_mean"]) < 0.1
    assert stats[f"fusion.{fusion}.gamma_std"] > 0.01
    out = model(images(1).expand(2, -1, -1, -1), torch.tensor([0, 1]))
    assert not torch.equal(out[0], out[1])


def test_three_biases_leave_the_value_half_alone() -> None:
    model = network("block_three_bias")
    for name, modulation in model.condition(torch.tensor([1])).items():
        if name.endswith(".gate"):
            assert modulation.shift is not None
            value, gate = modulation.shift.chunk(2, dim=1)
            assert value.eq(0).all()
            assert gate.ne(0).all()


def test_stem_and_skips_share_one_vector_and_bottleneck_has_one_per_stream() -> None:
    def shifts(fusion: str) -> list[Tensor]:
        found = [modulation.shift for modulation in network(fusion).condition(torch.tensor([0])).values()]
        return [shift for shift in found if shift is not None]

    for fusion, count in [("stem_add", 2), ("skip_add", 2 * 5)]:
        first, *others = shifts(fusion)
        assert len(others) + 1 == count
        assert all(torch.equal(first, other) for other in others)
    u, ul = shifts("bottleneck_add")
    assert not torch.equal(u, ul)


def test_compositions_apply_the_left_part_first() -> None:
    film_then_shift = network("block_film+block_strong")
    parts = film_then_shift.fusion.parts()
    label = film_then_shift.label(torch.tensor([1]))
    site = "up.0.u.0.hidden"
    film, shift = parts["block_film"](label)[site], parts["block_strong"](label)[site]
    h = torch.randn(1, 4, 8, 8)
    assert_close(film_then_shift.condition(torch.tensor([1]))[site](h), shift(film(h)))


def _conditional_log_prob(x: Tensor, params: Tensor, channel: int) -> Tensor:
    """log p(channel | earlier channels) at pixel (4, 4), from the parameters alone."""
    from cpcnn_core.likelihood import Mixture, bin_log_mass

    pixel = x[0, :, 4, 4]
    mixture = Mixture.unpack(params[0, :, 4, 4], 3, 2)
    mean = mixture.coupled_mean(channel, pixel)
    return bin_log_mass(pixel[channel].detach(), mean, mixture.log_scales[channel]).sum() + 0 * x.sum()


@torch.no_grad()
def _transplant(plain: ConditionalPixelCNN, model: ConditionalPixelCNN) -> None:
    """Give `model` the weights of `plain` and zero for all that belongs to the label."""
    extra = {site.name: model.fusion.extra_channels(site) for site in model.sites}
    weights = plain.state_dict()
    for name, tensor in model.state_dict().items():
        if name not in weights:
            tensor.zero_()
        elif weights[name].shape == tensor.shape:
            tensor.copy_(weights[name])
        elif "conv_input" in name:  # [concat_elu of x ; concat_elu of e(y)]
            tensor.zero_()
            tensor[:, : weights[name].shape[1]] = weights[name]
        elif "init" in name:  # input channels [x ; e(y) ; ones]
            channels = weights[name].shape[1] - 1
            tensor.zero_()
            tensor[:, :channels] = weights[name][:, :channels]
            tensor[:, -1:] = weights[name][:, -1:]
        else:  # the skip path's concat_elu of [a ; e(y)]
            half = weights[name].shape[1] // 2
            assert extra["up.0.ul.0.block_skip"] == tensor.shape[1] // 2 - half
            tensor.zero_()
            tensor[:, :half] = weights[name][:, :half]
            tensor[:, tensor.shape[1] // 2 :][:, :half] = weights[name][:, half:]


def test_parts_of_a_name() -> None:
    assert parse_name("input_add + block_film") == ("input_add", "block_film")
