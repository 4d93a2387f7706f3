"""The benchmark of memory and start with many images."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
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
def test_a_process_that_loads_says_how_long_it_took_and_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPCNN_CACHE", "set by it, and set back")
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    config = data_cache.make(tmp_path, "png", 100)
    here = multiprocessing.get_context("spawn")
    found: multiprocessing.queues.Queue[tuple[float, float, int]] = here.Queue()
    data_cache._hold("copied", config, str(tmp_path / "cache"), here.Barrier(1), found)
    seconds, of_processor, size = found.get(timeout=60)
    assert seconds > 0 < of_processor
    assert size > 100 * 32 * 32 * 3
    assert list((tmp_path / "cache").glob("csv-*.safetensors"))
