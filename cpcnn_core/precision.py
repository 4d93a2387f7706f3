"""What float32 means: the same on every machine, whatever it could do faster."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from cpcnn_core.config import ConfigError

ROUNDING = (
    "DNNL_DEFAULT_FPMATH_MODE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "PYTORCH_MPS_FAST_MATH",
    "TORCHINDUCTOR_USE_FAST_MATH",
    "TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG",
)
"""Environment variables by which libraries round float32 to fewer bits, or approximate."""

_BACKENDS = cast("Any", torch.backends)
_SETTINGS = (
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn.conv,
    _BACKENDS.cudnn.rnn,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
)
_TOLERANCE = 5e-5  # relative; float32 errs by some 1e-7, with minimal filtering by 1e-5, TF32 by 3e-4, bf16 by 2e-3

_BF16_CAPABILITY = (8, 0)  # of NVIDIA's GPUs from Ampere on

T = TypeVar("T")


@contextmanager
def whole_float32() -> Generator[None]:
    """Have products and convolutions of float32 keep all of it, and new tensors be float32 by default.

    By default a GPU's convolutions round their factors to the 10 bits of TF32; what a program, a variable of the
    environment or an autocast around us asks for may round more, on a CPU too. A result would then be another one on
    another machine, and a sampler that multiplies matrices would draw other images than one that convolves. Whoever
    wants speed for precision says so in the configuration: the autocast that bf16 then is lies inside of this.

    The variables in `ROUNDING` are removed for good, for a library reads them once, at its first use. The settings are
    the process's: only one thread may enter at a time.
    """
    for name in ROUNDING:
        os.environ.pop(name, None)
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        for setting in _SETTINGS:
            stack.callback(setattr, setting, "fp32_precision", setting.fp32_precision)
        # Torch has older names for the same; its compiler asks for those, and fails where they say something else.
        older = _or_none(torch.get_float32_matmul_precision), _or_none(lambda: torch.backends.cudnn.allow_tf32)
        stack.callback(_set_older, *older)
        _set_older("highest", False)
        for setting in _SETTINGS:
            setting.fp32_precision = "ieee"
        for device in _device_types():
            # Autocast's cache is cleared by the outermost one alone, which this is: with it, a bf16 step would go on
            # with the casts of the first step's weights.
            stack.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
        yield


def emulates_bf16(device: torch.device) -> str | None:
    """Why bf16 is slower than float32 on `device`, which does not multiply it itself; None where it does."""
    if device.type == "cpu" and not has_bf16_units():
        return "this CPU has no units for it"
    if device.type == "cuda" and torch.version.cuda is not None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _BF16_CAPABILITY:
            name = torch.cuda.get_device_name(device)
            return f"a {name}, of compute capability {capability[0]}.{capability[1]}, has no units for it"
    return None


def has_bf16_units() -> bool:
    """Whether this machine's CPU multiplies bf16 itself; without, matrix products take some forty times as long."""
    found = torch.cpu.get_capabilities()
    return found["architecture"] != "x86_64" or any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _set_older(matmul: str | None, convolutions_tf32: bool | None) -> None:
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if convolutions_tf32 is not None:
        torch.backends.cudnn.allow_tf32 = convolutions_tf32


def _or_none(read: Callable[[], T]) -> T | None:
    """None where the program has used torch's newer names, and the older ones cannot say the same."""
    try:
        return read()
    except RuntimeError:
        return None


def _device_types() -> set[str]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {"cpu"} | ({accelerator.type} if accelerator is not None else set())


@whole_float32()
def check_float32(device: torch.device) -> None:
    """Raise ConfigError where this process rounds float32 on `device` all the same.

    That is what a library does which was told so before we could take it back.
    """
    generator = torch.Generator().manual_seed(0)
    image, kernel = torch.randn(2, 16, 8, 8, generator=generator), torch.randn(16, 16, 3, 3, generator=generator)
    matrix = torch.randn(256, 256, generator=generator)  # small ones may be spared by a library that rounds the others
    matrices = matrix.view(4, 128, 128)
    operations: list[tuple[str, Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = [
        ("a convolution", F.conv2d, image, kernel),
        ("a matrix product", torch.mm, matrix, matrix),
        ("a batched matrix product", torch.bmm, matrices, matrices),
        ("a linear layer", F.linear, matrix, matrix),
    ]
    for name, operation, a, b in operations:
        exact = operation(a.double(), b.double())
        found = operation(a.to(device), b.to(device)).cpu().double()
        error = ((found - exact).norm() / exact.norm()).item()
        if error > _TOLERANCE:
            raise ConfigError(
                f"something in this process rounds float32: {name} on {device} is off by {error:.0e}; start it anew, "
                f"without variables such as {', '.join(ROUNDING[:4])}"
            )
