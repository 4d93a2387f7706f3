"""Samples that are copies of training images are told from samples that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cpcnn_core import memorisation
from cpcnn_core.config import TrialConfig
from cpcnn_core.memorisation import Neighbours, nearest
from cpcnn_core.quality import Drawn, evaluator
from tests.support.training import SETTINGS, tiny_dataset


def test_the_nearest_is_the_nearest_in_whichever_block_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    some, others = torch.randn(7, 3, generator=generator), torch.randn(5, 3, generator=generator)
    want = (some[:, None].double() - others[None].double()).norm(dim=2).amin(dim=1)
    monkeypatch.setattr(memorisation, "_ROWS", 2)
    torch.testing.assert_close(nearest(some, others), want)


@pytest.mark.parametrize("rows", [1, 4, 1024])
def test_the_nearest_image_is_found_by_its_pixels(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(memorisation, "_ROWS", rows)
    train = torch.randint(0, 256, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    near = train[[4, 1]].clone()
    near[1, 0, 0, 0] ^= 128
    which, distance = memorisation.nearest_images(near, train)
    assert which.tolist() == [4, 1]
    assert distance[0] < 1e-6
    assert distance[1].item() == pytest.approx(128 / 127.5 / 4)  # of one pixel in sixteen
    black, white = torch.zeros(1, 3, 2, 2).byte(), torch.full((1, 3, 2, 2), 255).byte()
    assert memorisation.nearest_images(black, white)[1].item() == pytest.approx(2)


def test_copies_are_nearer_than_unseen_images_and_those_than_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    train, unseen = torch.randn(200, 4, generator=generator), torch.randn(100, 4, generator=generator)
    neighbours = Neighbours.of_splits(train, unseen)
    assert neighbours.of_samples(train[:20]) == 0
    assert neighbours.of_samples(unseen) == neighbours.of_validation > 0
    assert neighbours.of_samples(10 * unseen) > neighbours.of_validation


def test_a_model_that_recites_its_training_images_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = tiny_dataset()
    evaluate = evaluator(TrialConfig.from_flat(SETTINGS | {"eval.fid_extractor": "classifier"}), dataset)
    recited = evaluate.measure(Drawn(dataset.train.images, dataset.train.labels), seed=0)
    assert recited.nearest_train < 1e-6 < recited.nearest_train_validation
    noise = torch.randint(0, 256, dataset.train.images.shape, generator=torch.Generator().manual_seed(0))
    assert evaluate.measure(Drawn(noise.byte(), dataset.train.labels), seed=0).nearest_train > recited.nearest_train
