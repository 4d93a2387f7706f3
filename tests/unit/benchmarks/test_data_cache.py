"""The benchmark of memory and start with many images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import data_cache
from cpcnn_core import data


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_both_ways_load_the_images_that_were_made(kind: data_cache.Kind, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CPCNN_CACHE", str(tmp_path / "cache"))
        config = data_cache.make(tmp_path, kind, 100)
        assert [len(split) for split in data_cache.mapped(config)] == [80, 10, 10]
        assert all(map(torch.equal, data_cache.mapped(config), data_cache.copied(config)))
        assert data.load(config).image_shape == (3, 32, 32)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_processes_that_load_say_how_long_it_took_and_what_they_hold(tmp_path: Path) -> None:
    config = data_cache.make(tmp_path, "npz", 4_000)
    starts = {way: data_cache.together(way, config, str(tmp_path / "cache"), 2) for way in data_cache.WAYS}
    assert all(start.seconds > 0 < start.processor_seconds for start in starts.values())
    bytes_of_the_images = 4_000 * 3 * 32 * 32
    # A copy in each of two processes; of the mapped file, one that both share. Their other memory is some megabytes.
    assert starts["copied"].bytes > 1.5 * bytes_of_the_images
    assert starts["mapped"].bytes < starts["copied"].bytes
