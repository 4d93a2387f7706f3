"""The evidence of pixels adds up to that of the image, and knows no pixel that comes later."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from cpcnn_core import attribution
from cpcnn_core.classify import class_log_likelihoods
from tests.contract.networks import NR_CLASSES, images, network


@pytest.mark.parametrize("fusion", ["block_film", "head_add"])
def test_pixels_add_up_to_the_images_and_one_class_has_nothing_over_itself(
    fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(fusion)
    x = images(5, model.image_shape)
    table = class_log_likelihoods(model, x, batch_size=64)
    one, other = torch.arange(5) % NR_CLASSES, (torch.arange(5) + 1) % NR_CLASSES
    monkeypatch.setattr(attribution, "_PIXELS", 2 * 2 * x.shape[2] * x.shape[3])  # two images at a time
    ratio = attribution.log_ratio(model, x, one, other)
    assert ratio.shape == (5, *x.shape[2:])
    rows = torch.arange(5)
    assert_close(ratio.sum(dim=(1, 2)), table[rows, one] - table[rows, other], atol=1e-3, rtol=0)
    assert ratio.abs().max() > 1e-3
    assert (attribution.log_ratio(model, x, one, one) == 0).all()


def test_a_pixel_s_evidence_depends_on_nothing_that_comes_after_it() -> None:
    model = network("block_mild")
    x = images(1, model.image_shape)
    one, other = torch.tensor([0]), torch.tensor([1])
    before = attribution.log_ratio(model, x, one, other)[0]
    changed = x.clone()
    row, column = 2, 3
    changed[:, :, row, column:] *= -1
    changed[:, :, row + 1 :] *= -1
    after = attribution.log_ratio(model, changed, one, other)[0]
    assert_close(after[:row], before[:row])
    assert_close(after[row, :column], before[row, :column])
    assert not torch.allclose(after[row, column:], before[row, column:])
