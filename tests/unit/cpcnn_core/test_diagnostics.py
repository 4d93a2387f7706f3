"""What tells of a blow-up is measured where it happens, and costs training nothing of its result."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cpcnn_core import diagnostics, quality
from cpcnn_core.config import TrialConfig
from cpcnn_core.diagnostics import StageNorms, activations, saturation, stage_of
from cpcnn_core.quality import Drawn
from cpcnn_core.train import fit
from tests.contract.networks import images, network
from tests.support.training import SETTINGS, tiny_dataset

LABELS = torch.tensor([0, 1])


def test_the_largest_activation_grows_with_the_weights() -> None:
    model = network("block_film")
    before = activations(model, images(2), LABELS)
    with torch.no_grad():
        for parameter in model.up_u.parameters():
            parameter.mul_(10)
    after = activations(model, images(2), LABELS)
    assert 0 < before.largest < after.largest
    assert 0 <= before.gate_saturation < after.gate_saturation <= 1


def test_a_gate_is_saturated_at_either_end() -> None:
    model = network("none", settled=False)

    def shut(bias: float) -> float:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("conv_out.conv.bias"):
                    parameter[len(parameter) // 2 :] = bias
        return activations(model, images(2), LABELS).gate_saturation

    assert (shut(0.0), shut(-20.0), shut(20.0)) == (0.0, 1.0, 1.0)


def test_looking_leaves_no_trace() -> None:
    model = network("block_film")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    activations(model, images(2), LABELS)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_saturated_is_the_last_level_only() -> None:
    assert saturation(torch.tensor([0, 1, 254, 255], dtype=torch.uint8)) == 0.5


def test_every_parameter_is_of_a_stage_and_every_stage_has_some() -> None:
    model = network("block_film", nr_resnet=2, label_encoding="embedding")
    stages = {name: stage_of(name) for name, _ in model.named_parameters()}
    assert set(stages.values()) == {
        "stem", "up.0", "up.1", "up.2", "down.0", "down.1", "down.2", "resampling", "head", "label",
    }  # fmt: skip
    assert {name.split(".")[0] for name, stage in stages.items() if stage == "resampling"} == {
        "downsize_u", "downsize_ul", "upsize_u", "upsize_ul",
    }  # fmt: skip


def test_norms_are_torch_s_and_those_of_the_stages_add_up() -> None:
    model = network("block_film", label_encoding="embedding")
    norms = StageNorms(model.named_parameters())
    model(images(2), LABELS).square().sum().backward()
    total, of_stages = norms()
    assert torch.equal(total, nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    assert_close(of_stages.square().sum().sqrt(), total)
    head = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("nin_out")]
    assert_close(of_stages[norms.stages.index("head")], nn.utils.get_total_norm(head))


def test_classes_that_are_treated_alike_have_no_distance() -> None:
    model = network("block_film", label_encoding="embedding")
    with torch.no_grad():
        model.label.get_parameter("weight")[1] = model.label.get_parameter("weight")[0]
    distances = diagnostics.class_distances(model)
    assert set(distances) == {f"class_distance.{name}" for name in ("min", "mean", "0.1", "0.2", "1.2")}
    assert distances["class_distance.0.1"] == distances["class_distance.min"] == 0
    assert distances["class_distance.0.2"] == distances["class_distance.1.2"] > 0
    assert diagnostics.class_distances(network("none")) == {}


def test_a_distance_is_the_root_mean_square_of_what_differs() -> None:
    model = network("input_add")
    shift = model.condition(torch.tensor([0, 2]))["input"].shift
    assert shift is not None
    want = (shift[0] - shift[1]).square().mean().sqrt().item()
    assert diagnostics.class_distances(model)["class_distance.0.2"] == pytest.approx(want)


def test_of_many_classes_the_summary_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "MOST_PAIRED", 2)
    distances = diagnostics.class_distances(network("input_add"))
    assert set(distances) == {"class_distance.min", "class_distance.mean"}


def test_parameters_without_a_gradient_have_no_share() -> None:
    model = network("none", label_encoding="embedding")  # whose embedding nothing reads
    norms = StageNorms(model.named_parameters())
    model(images(2), LABELS).square().sum().backward()
    assert norms()[1][norms.stages.index("label")] == 0


def test_each_epoch_records_them(tmp_path: Path) -> None:
    from cpcnn_core.config import TrialConfig

    config = TrialConfig.from_flat(
        SETTINGS | {"model.fusion": "block_film", "eval.fid_every": 1, "eval.fid_images_per_class": 2}
    )
    for epoch in fit(config, tiny_dataset(), tmp_path):
        assert epoch.activation_max is not None
        assert epoch.activation_max > 0
        assert epoch.gate_saturation is not None
        assert epoch.sample_saturation is not None
        of_stages = [value for name, value in epoch.extra.items() if name.startswith("grad_norm.")]
        assert len(of_stages) == 10
        assert epoch.grad_norm is not None
        assert max(of_stages) <= epoch.grad_norm + 1e-6


@pytest.mark.parametrize("saturated", [True, False])
def test_saturated_samples_are_warned_of(
    saturated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = tiny_dataset()
    of_data = diagnostics.saturation(dataset.validation.images)
    value = 255 if saturated else 128
    images = torch.full((4, *dataset.image_shape), value, dtype=torch.uint8)
    monkeypatch.setattr(quality, "draw", lambda *_, **__: Drawn(images, torch.zeros(4, dtype=torch.int64)))
    config = TrialConfig.from_flat(SETTINGS | {"eval.fid_every": 1, "eval.fid_extractor": "classifier"})
    with caplog.at_level(logging.WARNING):
        epoch = next(fit(config, dataset, tmp_path))
    assert epoch.sample_saturation == (1.0 if saturated else 0.0)
    assert epoch.sample_saturation_validation == of_data
    said = [line for line in caplog.messages if "drawn sub-pixels" in line]
    assert len(said) == saturated
    if said:
        assert f"epoch 1: 100% of the drawn sub-pixels are 0 or 255, and {of_data:.0%} of the validation" in said[0]
