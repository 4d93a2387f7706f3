"""Extra channels at every kind of site, and what a variant may not return: no label is lost without a word."""

from __future__ import annotations

from typing import ClassVar, get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cpcnn_core import fusion as fusions
from cpcnn_core.fusion import FUSIONS, Conditioning, Fusion, FusionError, Modulation, Site, SiteKind
from cpcnn_core.fusion.base import WITH_CHANNELS, blocks, projection, select
from cpcnn_core.model import ConditionalPixelCNN
from tests.contract.networks import NR_CLASSES, images, network
from tests.contract.test_samplers import assert_outputs_equal

KINDS = get_args(SiteKind)
REFUSED = sorted(set(KINDS) - WITH_CHANNELS)


class Channels(Fusion):
    """Two channels of label beside the activations of one kind of site, the same at every pixel or not."""

    kind: ClassVar[SiteKind]
    per_pixel: ClassVar[bool] = False

    def __init__(self, sites: tuple[Site, ...], label_dim: int, options: fusions.FusionOptions) -> None:
        super().__init__(sites, label_dim, options)
        self.used = tuple(select(sites, self.kind))
        self.e = projection(label_dim, 2)

    def extra_channels(self, site: Site) -> int:
        return 2 if site in self.used else 0

    def forward(self, label: Tensor) -> Conditioning:
        values = self.e(label)[:, :, None, None]
        return {site.name: Modulation(extra=self._spread(values, site)) for site in self.used}

    def _spread(self, values: Tensor, site: Site) -> Tensor:
        if not self.per_pixel:
            return values
        return values * torch.linspace(-1, 1, site.height * site.width).view(site.height, site.width)


def register(monkeypatch: pytest.MonkeyPatch, **attributes: object) -> str:
    monkeypatch.setitem(FUSIONS, "toy", type("Toy", (Channels,), attributes))
    return "toy"


@pytest.mark.parametrize("kind", sorted(WITH_CHANNELS))
@pytest.mark.parametrize("per_pixel", [False, True], ids=["everywhere", "per_pixel"])
@pytest.mark.parametrize("beside", ["", "+block_film+skip_add", "+block_concat+stem_concat"])
def test_they_reach_the_output_and_the_cached_network_agrees(
    kind: SiteKind, per_pixel: bool, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = register(monkeypatch, kind=kind, per_pixel=per_pixel)
    model = network(name + beside)
    x = images(1).expand(NR_CLASSES, -1, -1, -1)
    if not beside:
        out = model(x, torch.arange(NR_CLASSES))
        assert ((out[1:] - out[:1]).abs().amax(dim=(1, 2, 3)) > 1e-4).all()
    assert_outputs_equal(model)


@pytest.mark.parametrize("kind", sorted(WITH_CHANNELS))
def test_each_site_of_the_kind_counts(kind: SiteKind, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(register(monkeypatch, kind=kind))
    x, label = images(1), torch.tensor([0])
    whole, conditioning = model(x, label), dict(model.condition(label))
    for site in [name for name, modulation in conditioning.items() if modulation.extra is not None]:
        extra = conditioning[site].extra
        assert extra is not None
        changed = conditioning | {site: Modulation(extra=extra + 1)}
        with monkeypatch.context() as patch:
            patch.setattr(model, "condition", lambda _, changed=changed: changed)
            assert (model(x, label) - whole).abs().max() > 1e-6, site


@pytest.mark.parametrize("kind", sorted(WITH_CHANNELS))
def test_a_channel_of_zeros_changes_nothing(kind: SiteKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do the channels displace anything: beside a withheld label stands the network without them."""
    model = network(register(monkeypatch, kind=kind))
    x, withheld = images(2), torch.tensor([-1, -1])
    want = model(x, withheld)
    with torch.no_grad():
        for part in model.fusion.parts().values():
            for parameter in part.parameters():
                parameter.add_(1)
    assert_close(model(x, withheld), want)


@pytest.mark.parametrize("kind", REFUSED)
def test_where_no_convolution_would_read_them_they_are_refused(kind: SiteKind, monkeypatch: pytest.MonkeyPatch) -> None:
    name = register(monkeypatch, kind=kind)
    with pytest.raises(FusionError, match=r"'toy' puts extra channels at .*, where no convolution would read them"):
        network(name)


def test_there_are_kinds_of_both_sorts() -> None:
    assert REFUSED == ["gate", "output"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"up.0.u.0.hiden": Modulation(shift=torch.zeros(1, 4, 1, 1))}, "modulates 'up.0.u.0.hiden'"),
        ({"stem.u": Modulation(extra=torch.zeros(1, 3, 1, 1))}, "returns 3 extra channels at stem.u"),
        ({"up.0.u.0.gate": Modulation(extra=torch.zeros(1, 3, 1, 1))}, "returns 3 extra channels at up.0.u.0.gate"),
        ({"up.0.ul.0.block_skip": Modulation(shift=torch.zeros(1, 4, 1, 1))}, "takes extra channels only"),
        ({"up.0.ul.0.block_skip": Modulation(scale=torch.ones(1, 4, 1, 1))}, "takes extra channels only"),
    ],
)
def test_what_a_site_cannot_take_is_refused_rather_than_lost(
    returned: Conditioning, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FUSIONS, "toy", type("Toy", (Fusion,), {"forward": lambda self, label: returned}))
    with pytest.raises(FusionError, match=message):
        network("toy", settled=False)(images(1), torch.tensor([0]))


# -------------------------------------------------------------------------------------------------------- depth options

BLOCK_FUSIONS = [name for name, variant in FUSIONS.items() if "passes" in variant.Options.model_fields]


def blocks_of(model: ConditionalPixelCNN) -> set[str]:
    """The blocks, as up.0.u.0, that a label enters."""
    return {name.rpartition(".")[0] for name in model.condition(torch.tensor([0]))}


@pytest.mark.parametrize("fusion", BLOCK_FUSIONS)
@pytest.mark.parametrize(
    "options",
    [{"passes": "up"}, {"passes": "down"}, {"levels": "quarter"}, {"levels": "full+half", "every": 2}, {"every": 3}],
    ids=str,
)
def test_a_label_enters_the_blocks_that_are_asked_for(fusion: str, options: dict[str, object]) -> None:
    given = {f"fusion_options.{fusion}.{name}": value for name, value in options.items()}
    model, whole = network(fusion, nr_resnet=2, **given), network(fusion, nr_resnet=2)
    assert set() < blocks_of(model) < blocks_of(whole)
    assert blocks_of(model) == {
        f"{site.name.rpartition('.')[0]}"
        for site in whole.sites
        if site.block is not None
        and site.name.rpartition(".")[0] in blocks_of(whole)
        and options.get("passes", site.block.direction) == site.block.direction
        and site.block.resolution in str(options.get("levels", "full+half+quarter")).split("+")
        and site.block.number % int(str(options.get("every", 1))) == 0
    }
    assert_outputs_equal(model)


def test_blocks_are_counted_through_their_pass() -> None:
    model = network("none", nr_resnet=2)
    numbers: dict[tuple[str, str], list[int]] = {}
    for site in model.sites:
        if site.block is not None and site.kind == "gate":
            numbers.setdefault((site.block.direction, site.block.stream), []).append(site.block.number)
    assert numbers == {
        ("up", "u"): list(range(6)),
        ("up", "ul"): list(range(6)),
        ("down", "u"): list(range(8)),
        ("down", "ul"): list(range(8)),
    }
    of_down = [site.block.resolution for site in model.sites if site.name.startswith("down") and site.block is not None]
    assert list(dict.fromkeys(of_down)) == ["quarter", "half", "full"]


@pytest.mark.parametrize("nr_resnet", [1, 2, 3])
def test_the_blocks_that_options_are_checked_against_are_the_networks(nr_resnet: int) -> None:
    sites = network("none", nr_resnet=nr_resnet).sites
    there = [(site.name.removesuffix(".gate"), site.block) for site in sites if site.kind == "gate"]
    listed = list(blocks(nr_resnet))
    assert len(there) == len(listed)
    assert set(there) == set(listed)


def test_concatenation_in_the_up_passs_u_blocks_too() -> None:
    plain, every = (network("block_concat", **{"fusion_options.block_concat.up_u": up_u}) for up_u in (False, True))
    blocks = {site.name.rpartition(".")[0] for site in plain.sites if site.block is not None}
    assert blocks_of(plain) == {name for name in blocks if not name.startswith("up.") or ".ul." in name}
    assert blocks_of(every) == blocks
    assert_outputs_equal(every)


@pytest.mark.parametrize("fusion", ["block_film", "bottleneck_film"])
def test_gamma_stays_within_its_clamp(fusion: str) -> None:
    free, clamped = (network(fusion, **given) for given in ({}, {f"fusion_options.{fusion}.gamma_clamp": 0.25}))
    with torch.no_grad():
        for model in (free, clamped):
            for parameter in model.fusion.parameters():
                parameter.mul_(20)
    scales = [
        torch.cat([m.scale.flatten() for m in model.condition(torch.tensor([0, 1])).values() if m.scale is not None])
        for model in (free, clamped)
    ]
    assert (scales[0] - 1).abs().max() > 0.5
    assert (scales[1] - 1).abs().max() <= 0.25
    assert_outputs_equal(network(fusion, **{f"fusion_options.{fusion}.gamma_clamp": 0.25}))


# -------------------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("fusion", ["none", "block_film", "input_concat+block_film+skip_add+head_add", "block_concat"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 16)], ids=str)
def test_the_cached_network_normalises_as_the_model_does(fusion: str, shape: tuple[int, int, int]) -> None:
    assert_outputs_equal(network(fusion, shape, nr_resnet=2, norm="channel"))


def test_a_norm_sees_one_pixel() -> None:
    model = network("block_film", nr_resnet=2, norm="channel")
    for row, column in [(0, 0), (3, 5), (7, 7)]:
        x = images(2).requires_grad_()
        model(x, torch.tensor([0, 1]))[0, :, row, column].square().sum().backward()
        assert x.grad is not None
        seen = x.grad.abs().sum(dim=1)
        position = row * 8 + column
        assert seen[1].eq(0).all()
        assert seen[0].flatten()[position:].eq(0).all()
        assert seen[0].flatten()[:position].ne(0).all()


def test_a_norm_is_there_where_it_is_asked_for() -> None:
    plain, normed = network("none", settled=False), network("none", settled=False, norm="channel")
    blocks = sum(site.kind == "gate" for site in plain.sites)
    added = {name for name, _ in normed.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert len(added) == 2 * blocks
    assert (plain(images(1), torch.tensor([0])) - normed(images(1), torch.tensor([0]))).abs().max() > 1e-3
