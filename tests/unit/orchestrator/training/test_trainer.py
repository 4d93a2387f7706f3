"""What is found out about a space's data before any trial, and what trials in one process leave one another."""

from __future__ import annotations

import bdb
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo import config as dynamo

from cpcnn_core import quality, train
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.metrics import EpochMetrics
from orchestrator.records.store import Store
from orchestrator.search import space
from orchestrator.training import trainer
from orchestrator.tune import packing
from orchestrator.tune.trainable import TrialProcess
from tests.support.fakes import assignment, metrics

SPACE = """
\"\"\"Which batch?\"\"\"
from search_spaces import choice
space = {{"model.fusion": choice({{"none": {{}}, "stem_add": {{"train.batch_size": choice({sizes})}}}})}}
settings = {{"data.train_fraction": 0.1}}
trials = 1
objective = "val_acc"
"""

PACKED = """
\"\"\"How large?\"\"\"
from search_spaces import choice, ints
space = {
    "model.nr_filters": ints(4, 8),
    "train.batch_size": choice([16, 8]),
    "train.accumulate": choice([1, 2]),
    "train.precision": choice(["fp32", "bf16"]),
    "train.class_loss_weight": choice([0.5, 0.0]),
}
trials = 1
objective = "val_acc"
resources = {"gpus": "auto"}
"""


@pytest.mark.parametrize(("sizes", "fits"), [("16, 32", True), ("16, 5000", False)])
def test_a_batch_larger_than_the_split_is_refused_in_every_branch(tmp_path: Path, sizes: str, fits: bool) -> None:
    file = tmp_path / "batches.py"
    file.write_text(SPACE.format(sizes=sizes))
    asked = space.read(file, [], seed=0)
    trainer.check(asked.default())
    if fits:
        trainer.check_each(asked.extremes())
        return
    with pytest.raises(ConfigError, match=r"train\.batch_size: 5000 is larger than the training split of \d+ images"):
        trainer.check_each(asked.extremes())


def test_what_is_packed_is_measured_with_the_largest_batch(tmp_path: Path) -> None:
    file = tmp_path / "packed.py"
    file.write_text(PACKED)
    config = packing.largest(space.read(file, [], seed=0))
    assert config.model.nr_filters == 8
    assert (config.train.batch_size, config.train.accumulate, config.train.class_loss_weight) == (16, 1, 0.5)
    assert config.train.precision == "fp32"


@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script(_method)?` is deprecated:DeprecationWarning")  # torch 2.11
def test_every_trial_of_a_process_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch compiles one piece of code for so many networks only, and from then on runs it as it is."""

    def compiles(config: TrialConfig, *_: object, **__: object) -> Iterator[EpochMetrics]:
        network = torch.nn.Linear(1, config.model.nr_filters)
        torch.compile(Called(network), backend="eager", dynamic=False)(torch.zeros(1))
        yield metrics(1)

    monkeypatch.setattr(train, "fit", compiles)
    monkeypatch.setattr(trainer, "dataset", lambda _: None)
    store = Store(tmp_path / "sweep")
    store.create()
    with dynamo.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for filters in (4, 6):
            config = TrialConfig.from_flat({"model.nr_filters": filters, "train.compile": True})
            assert [epoch.epoch for epoch in trainer.train(config, store, reported=0)] == [1]


class Called(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("gpus", "visible"), [(0.0, ""), (0.5, "3")])
def test_a_trial_without_a_gpu_sees_none(gpus: float, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(TrialProcess, "_begin", lambda *_: None)
    TrialProcess.setup(TrialProcess.__new__(TrialProcess), assignment(Path(), gpus=gpus).to_ray())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_a_breakpoint_without_a_terminal_says_where_there_is_one() -> None:
    assert trainer.describe(ValueError("a bad\nvalue")) == "ValueError: a bad value"
    assert "the `trial` command runs one on your terminal" in trainer.describe(bdb.BdbQuit())


@pytest.mark.parametrize(
    ("extractor", "gpu", "device", "elsewhere"),
    [
        ("classifier", True, "cpu", False),
        ("inception-192", True, "cuda", True),
        ("inception-192", False, "cpu", False),
    ],
)
def test_the_references_of_fid_are_made_where_they_are_made_fast_and_the_gpu_is_left_to_the_trials(
    monkeypatch: pytest.MonkeyPatch, extractor: str, gpu: bool, device: str, elsewhere: bool
) -> None:
    done: list[tuple[str, bool]] = []
    pools: list[bool] = []

    class Pool:
        def __init__(self, max_workers: int, mp_context: object) -> None:
            pools.append(True)

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pools.pop()

        def submit(self, function: Callable[[TrialConfig], None], config: TrialConfig) -> SimpleNamespace:
            return SimpleNamespace(result=lambda: function(config))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(trainer, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(quality, "evaluator", lambda _config, _data, where: done.append((where, bool(pools))))
    trainer.check(TrialConfig.from_flat({"eval.fid_every": 1, "eval.fid_extractor": extractor}))
    assert done == [(device, elsewhere)]
