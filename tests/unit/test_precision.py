"""What is measured and drawn keeps all of float32, whatever a GPU's convolutions do by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.features import Extractor
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import whole_float32
from cpcnn_core.sampling import draw_noise, sample_cached, sample_reference
from tests.contract.networks import network

LABELS = torch.tensor([0, 1])
CONVOLUTIONS = cast("Any", torch.backends.cudnn).conv


def classify(model: ConditionalPixelCNN) -> None:
    class_log_likelihoods(model, torch.zeros(2, 3, 4, 4), batch_size=8)


def extract(model: ConditionalPixelCNN) -> None:
    def features(images: Tensor) -> Tensor:
        return model(images.float(), LABELS).mean((2, 3))  # type: ignore[no-any-return]

    Extractor("of the network", 20, torch.device("cpu"), features)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


def cached(model: ConditionalPixelCNN) -> None:
    sample_cached(model, LABELS, draw_noise(model, 2, torch.Generator()))


def reference(model: ConditionalPixelCNN) -> None:
    sample_reference(model, LABELS, draw_noise(model, 2, torch.Generator()))


@pytest.mark.parametrize("measure", [classify, extract, cached, reference])
def test_convolutions_are_not_rounded(measure: Callable[[ConditionalPixelCNN], None]) -> None:
    model, seen = network("input_concat", (3, 4, 4)), set()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_pre_hook(lambda *_: seen.add(CONVOLUTIONS.fp32_precision))
    assert CONVOLUTIONS.fp32_precision == "tf32"
    measure(model)
    assert seen == {"ieee"}
    assert CONVOLUTIONS.fp32_precision == "tf32"


def test_a_failure_leaves_the_setting_as_it_was() -> None:
    with pytest.raises(RuntimeError, match="lost"), whole_float32():
        raise RuntimeError("lost")
    assert CONVOLUTIONS.fp32_precision == "tf32"
    assert torch.backends.cudnn.allow_tf32  # which torch refuses to tell where its two settings differ
