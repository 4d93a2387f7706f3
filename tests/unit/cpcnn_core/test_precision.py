"""What is trained, measured and drawn keeps all of float32, whatever a machine or a program would rather do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from cpcnn_core import precision
from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.features import Extractor
from cpcnn_core.layers import Convolve
from cpcnn_core.loss import Loss
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import ROUNDING, check_float32, whole_float32
from cpcnn_core.sampling import draw_noise, sample_cached, sample_reference
from cpcnn_core.train import fit
from tests.contract.networks import NAMES, NR_CLASSES, network
from tests.support.training import SETTINGS, tiny_dataset

LABELS = torch.tensor([0, 1])


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


def train(model: ConditionalPixelCNN) -> None:
    del model
    with tempfile.TemporaryDirectory() as folder:
        list(fit(TrialConfig.from_flat(SETTINGS | {"train.epochs": 1}), tiny_dataset(), Path(folder)))


@contextmanager
def asked_of_torch(what: str) -> Generator[None]:
    """What a program may have set before it calls us."""
    before = [(setting, setting.fp32_precision) for setting in precision._SETTINGS]
    dtype, (matmul, convolutions) = torch.get_default_dtype(), older()
    assert matmul is not None
    assert convolutions is not None
    try:
        with ExitStack() as stack:
            if what == "autocast":
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            elif what == "float64":
                torch.set_default_dtype(torch.float64)
            elif what == "by the newer names":
                for setting in precision._SETTINGS:
                    setting.fp32_precision = "tf32"
            elif what != "nothing":
                torch.set_float32_matmul_precision(what)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
        for setting, value in before:
            setting.fp32_precision = value


def older() -> tuple[str | None, bool | None]:
    """What torch says by its older names, where it does not refuse to."""
    return precision._or_none(torch.get_float32_matmul_precision), precision._or_none(
        lambda: torch.backends.cudnn.allow_tf32
    )


def state() -> tuple[object, ...]:
    settings = [setting.fp32_precision for setting in precision._SETTINGS]
    return settings, older(), torch.get_default_dtype(), torch.is_autocast_enabled("cpu")


WHOLE = (["ieee"] * len(precision._SETTINGS), ("highest", False), torch.float32, False)
ASKED = ["nothing", "high", "medium", "by the newer names", "autocast", "float64"]


@pytest.mark.parametrize("asked", ASKED)
def test_float32_is_whole_whatever_was_asked_and_what_was_asked_holds_again(asked: str) -> None:
    with asked_of_torch(asked):
        before = state()
        assert before != WHOLE
        with whole_float32():
            assert state() == WHOLE
            with whole_float32():
                assert state() == WHOLE
            assert state() == WHOLE
            check_float32(torch.device("cpu"))
        assert state() == before
        with pytest.raises(RuntimeError, match="lost"), whole_float32():
            raise RuntimeError("lost")
        assert state() == before


@pytest.mark.parametrize("measure", [classify, extract, cached, reference, train])
def test_nothing_is_rounded(measure: Callable[[ConditionalPixelCNN], None]) -> None:
    model, seen = network("input_concat", (3, 4, 4)), set()

    def note(module: nn.Module, *_: object) -> None:
        if isinstance(module, nn.Conv2d | Convolve):
            seen.add(state() == WHOLE)

    hook = register_module_forward_pre_hook(note)
    try:
        with asked_of_torch("medium"):
            measure(model)
    finally:
        hook.remove()
    assert seen == {True}


def test_variables_that_round_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ROUNDING:
        monkeypatch.setenv(name, "1")
    with whole_float32():
        assert not any(name in os.environ for name in ROUNDING)


@pytest.mark.parametrize(("name", "of"), [("conv2d", F), ("mm", torch), ("bmm", torch), ("linear", F)])
@pytest.mark.parametrize(("bits", "refused"), [(7, True), (10, True), (23, False)])
def test_a_process_that_rounds_all_the_same_is_refused(
    name: str, of: Any, bits: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = getattr(of, name)

    def rounded(x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return x
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent)

    monkeypatch.setattr(of, name, lambda a, b: exact(rounded(a), rounded(b)))
    with pytest.raises(ConfigError, match="rounds float32: a") if refused else nullcontext():
        check_float32(torch.device("cpu"))


def test_products_keep_float32_whatever_a_container_sets_before_torch_is_imported() -> None:
    code = (
        "import torch; from cpcnn_core.precision import whole_float32, _SETTINGS\n"
        "with whole_float32():\n"
        "    print(torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32, "
        "torch.backends.cudnn.allow_tf32, {setting.fp32_precision for setting in _SETTINGS})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | dict.fromkeys(ROUNDING, "1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "highest False False {'ieee'}"


@pytest.mark.parametrize("fusion", NAMES)
@whole_float32()
def test_a_bf16_step_is_of_the_weights_as_they_are(fusion: str) -> None:
    """The outermost autocast is the one of `whole_float32`, around an epoch; it must not keep casts of old weights."""
    model = network(fusion)
    loss = Loss(model, torch.full((NR_CLASSES,), 1 / NR_CLASSES).log(), bf16=True)
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = (images, torch.tensor([0, 1, 2, 0]), torch.zeros(4, dtype=torch.bool), torch.ones(4), None)
    before = loss(*batch)[0]
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    found = loss(*batch)[0].item()
    torch.clear_autocast_cache()
    assert found == loss(*batch)[0].item() != before.item()
