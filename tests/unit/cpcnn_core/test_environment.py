"""A trial is what its configuration says, whatever launchers left in the environment."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from hypothesis import given
from hypothesis import strategies as st

from cpcnn_core import environment
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.data import Dataset, Split
from cpcnn_core.environment import RENDEZVOUS, Rendezvous
from cpcnn_core.precision import ROUNDING
from cpcnn_core.train import fit
from orchestrator.training import replicas
from orchestrator.tune.trainable import TrialProcess
from tests.support.fakes import assignment
from tests.support.launchers import known
from tests.support.training import SETTINGS, comparable, tiny_dataset

# One step of two micro-batches, an evaluation.
CONFIG = TrialConfig.from_flat(
    SETTINGS | {"train.epochs": 1, "train.batch_size": 4, "train.accumulate": 2, "eval.train_images": 0}
)
COMPLETE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """An environment and an Accelerate to spoil."""
    before = dict(os.environ)
    environment.forget_launchers()
    yield
    os.environ.clear()
    os.environ.update(before)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def hostile(name: str) -> str:
    """What would make most of a difference, or is no value of the variable at all."""
    of_choices = {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "inductor",
        "ACCELERATE_TORCH_DEVICE": "meta",
        "MASTER_ADDR": "192.0.2.1",
        "RANK": "1",
    }
    is_number = re.search("STEPS|_SIZE|_RANK|DEGREE|PORT$|NUM_|STAGE|CLIPPING|DROPOUT", name)
    return of_choices.get(name, "4" if is_number else "true")


def trained(variables: Mapping[str, str], *, as_a_sweep_does: bool = False) -> dict[str, Any]:
    os.environ.update(variables)
    AcceleratorState._reset_state(True)
    if as_a_sweep_does:
        TrialProcess.setup(TrialProcess.__new__(TrialProcess), assignment(Path(), gpus=1.0).to_ray())
    with tempfile.TemporaryDirectory() as folder:
        (epoch,) = fit(CONFIG, few_images(), Path(folder))
    return comparable(epoch)


def few_images() -> Dataset:
    whole = tiny_dataset()
    train, validation = (
        Split(split.images[:4], split.labels[:4], split.names[:4]) for split in (whole.train, whole.validation)
    )
    return dataclasses.replace(whole, train=train, validation=validation)


@functools.cache
def undisturbed() -> dict[str, Any]:
    return trained({})


@pytest.mark.parametrize("name", [*known(), *ROUNDING])
def test_no_variable_changes_a_metric(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialProcess, "_begin", lambda *_: None)
    expected = undisturbed()
    assert trained({name: hostile(name)}, as_a_sweep_does=name in RENDEZVOUS) == expected
    assert name not in os.environ


@pytest.mark.parametrize("value", ["true", "4", "no such value", "", "-1"])
def test_nor_do_all_of_them_together(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialProcess, "_begin", lambda *_: None)
    expected = undisturbed()
    assert trained(dict.fromkeys([*known(), *ROUNDING], value), as_a_sweep_does=True) == expected


def test_what_was_asked_of_torch_in_this_process_changes_no_metric_either() -> None:
    expected = undisturbed()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", torch.bfloat16):
            assert trained({}) == expected
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("accelerator", "said"),
    [
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4"),
        ({"mixed_precision": "bf16"}, "mixed_precision is bf16"),
    ],
)
def test_an_accelerator_that_would_change_the_result_is_refused(
    tmp_path: Path, accelerator: dict[str, Any], said: str
) -> None:
    AcceleratorState._reset_state(True)
    with pytest.raises(ConfigError, match=f"accelerator: {said}, which the configuration does not say"):
        next(fit(CONFIG, few_images(), tmp_path, accelerator=Accelerator(**accelerator)))
    assert not any(tmp_path.iterdir())


@given(st.sets(st.sampled_from(RENDEZVOUS), min_size=1, max_size=len(RENDEZVOUS) - 1), st.sampled_from(["absent", ""]))
def test_half_a_rendezvous_is_refused_and_what_is_missing_is_named(given: set[str], others: str) -> None:
    environment.forget_launchers()
    os.environ.update({name: COMPLETE[name] for name in given})
    os.environ.update({name: "" for name in RENDEZVOUS if name not in given and others == ""})
    with pytest.raises(ConfigError) as refused:
        environment.rendezvous()
    missing = [name for name in RENDEZVOUS if name not in given]
    assert f" without {' and '.join(missing)} is half a rendezvous" in str(refused.value)
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(ConfigError, match="half a rendezvous"):
            next(fit(CONFIG, few_images(), Path(folder)))
        assert not any(Path(folder).iterdir())


def test_a_whole_rendezvous_is_kept_and_nothing_else() -> None:
    os.environ.update(dict.fromkeys(known(), "true") | COMPLETE | {"TORCHELASTIC_RUN_ID": "7", "OMP_NUM_THREADS": "1"})
    found = environment.rendezvous()
    assert found == Rendezvous(rank=1, processes=2)
    environment.forget_launchers(keep=found)
    assert {name: os.environ[name] for name in RENDEZVOUS} == COMPLETE
    left = {name for name in known() if name in os.environ}
    assert left >= {*RENDEZVOUS, "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"}
    assert not any(name.startswith("ACCELERATE_") for name in left)
    environment.forget_launchers()
    assert not any(name in os.environ for name in known())
    assert os.environ["OMP_NUM_THREADS"] == "1"  # the machine's
    assert environment.rendezvous() is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE is 'two', expected a whole number"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK is '-1', expected a whole number"),
        ("RANK", "2", "RANK is 2 of WORLD_SIZE 2"),
        ("WORLD_SIZE", "0", "RANK is 1 of WORLD_SIZE 0"),
    ],
)
def test_a_rendezvous_that_cannot_be_is_refused(name: str, value: str, said: str) -> None:
    os.environ.update(COMPLETE | {name: value})
    with pytest.raises(ConfigError, match=said):
        environment.rendezvous()


def test_a_rendezvous_of_one_process_is_that_process() -> None:
    expected = undisturbed()
    assert trained(COMPLETE | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}) == expected


def test_the_processes_of_a_trial_see_what_they_are_given_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: given.update(env))
    os.environ.update({name: hostile(name) for name in known()})
    replicas._start(rank=1, world=2, port=29501, log=None)[1].close()
    assert {name: given[name] for name in RENDEZVOUS} == COMPLETE | {"MASTER_PORT": "29501"}
    assert {name for name in given if environment.is_launchers(name)} == {*RENDEZVOUS, "LOCAL_WORLD_SIZE"}


def test_accelerate_is_imported_after_the_environment_is_clean() -> None:
    """It reads some variables at that time, and an unknown level of its log ends the import."""
    code = (
        "import sys; from orchestrator import best, export, sweep, trial; from cpcnn_core import sampling, train; "
        "assert 'accelerate' not in sys.modules; train.environment.accelerator()"
    )
    variables = dict.fromkeys(set(known()) - set(RENDEZVOUS), "no such value")
    subprocess.run([sys.executable, "-c", code], env=os.environ | variables, check=True)


def test_the_threads_of_several_processes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate sets them to a share of the cores where the environment does not say, and warns."""
    made: dict[str, Any] = {}

    def making(**given: object) -> SimpleNamespace:
        made.update(given, env=dict(os.environ))
        return SimpleNamespace(device=torch.device("cpu"))

    monkeypatch.setattr("accelerate.Accelerator", making)
    os.environ.update(COMPLETE)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment.accelerator()
    assert made["env"]["OMP_NUM_THREADS"] == str(torch.get_num_threads())
    assert made["cpu"] is not torch.cuda.is_available()
    assert "OMP_NUM_THREADS" not in os.environ
    (waiting,) = made["kwargs_handlers"]  # the others wait while the first one measures FID
    assert waiting.timeout >= timedelta(hours=1)


def test_a_granted_gpu_that_torch_cannot_use_ends_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="so this process was granted a GPU, but torch cannot use one"):
        next(fit(CONFIG, few_images(), tmp_path))
    assert not any(tmp_path.iterdir())
