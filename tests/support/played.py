"""`python -m tests.support.played FOLDER`: a trial on a device that the CPU plays, and the same trial on the CPU.

The device is what torch takes for another one: tensors of both in one operation are an error, and so is a float64 on
it, as on Apple's GPUs. It has no graphs and no figures of memory. Prints what both trials and both samplers came to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "played"
SETTINGS = {
    "data.name": "digits",
    "data.train_fraction": 0.05,
    "model.fusion": "block_film",
    "model.nr_resnet": 1,
    "model.nr_filters": 2,
    "model.nr_logistic_mix": 1,
    "train.epochs": 1,
    "train.batch_size": 30,
    "train.ema_decay": 0.9,
    "eval.train_images": 20,
}


class Module(_DummyBackendModule):
    """`torch.played`, as there are `torch.cuda` and `torch.mps`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Played(torch.Tensor):
    """A tensor on the device; `on_cpu` is the one on the CPU that plays it."""

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Played:
        made: Played = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=f"{NAME}:0",
            requires_grad=inner.requires_grad,
        )
        made.on_cpu = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return computed(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch makes of Python's numbers, and they of it, without asking anybody."""

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in {torch.tensor, torch.as_tensor} and given.get("device") is not None:
            device = given.pop("device")
            return func(*args, **given).to(device)
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        return func(*args, **given)


def computed(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an operation gives. Raise TypeError for a float64 on the device, RuntimeError for tensors of both."""
    there: list[Played] = []
    elsewhere: list[torch.Tensor] = []

    def inner(value: Any) -> Any:
        if isinstance(value, Played):
            there.append(value)
            return value.on_cpu
        if isinstance(value, torch.Tensor) and value.dim() > 0:
            elsewhere.append(value)
        return value

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if value.dtype == torch.float64:
            raise TypeError(f"{func}: {NAME} has no float64")
        same = [one for one in there if one.on_cpu is value]  # changed in place
        return same[0] if same else Played(value)

    given, named = tree_map(inner, args), tree_map(inner, dict(kwargs))
    wanted = kwargs.get("device")
    on_device = bool(there) if wanted is None else torch.device(wanted).type == NAME
    if wanted is not None:
        named["device"] = torch.device("cpu")
    elif there and elsewhere and func is not torch.ops.aten.copy_.default:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    found = func(*given, **named)
    return tree_map(wrapped, found) if on_device else found


@contextmanager
def playing() -> Generator[None]:
    """Have the device in here."""
    with _Operations(), _Functions():
        yield


class _Noise(torch.Generator):
    """Draws as the CPU's does, and says that it is the device's."""

    device = property(lambda _: torch.device(NAME, 0))


def _noise(drawn: torch.Generator, device: torch.device | str) -> torch.Generator:
    return _Noise().manual_seed(drawn.initial_seed()) if torch.device(device).type == NAME else drawn


def begin() -> None:
    """Make torch know the device, in this process for good."""
    # Wrappers of tensors cannot be in inference mode. Whoever asks for it is imported after this.
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()  # type: ignore
    _setup_privateuseone_for_python_backend(NAME, Module())
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    from cpcnn_core import seeds

    usual = seeds.generator
    seeds.generator = lambda *given, device="cpu": _noise(usual(*given), device)
    torch.accelerator.synchronize = lambda *_: None


def outcome(folder: Path, device: torch.device | None) -> dict[str, float | list[int] | None]:
    """What a trial comes to, and the sum of two images that its network draws."""
    from cpcnn_core import environment
    from cpcnn_core.attribution import log_ratio
    from cpcnn_core.checkpoint import build_model
    from cpcnn_core.config import TrialConfig
    from cpcnn_core.data import Split, load
    from cpcnn_core.sampling import sample
    from cpcnn_core.train import fit

    config = TrialConfig.from_flat(SETTINGS)
    whole = load(config.data)
    few = Split(whole.validation.images[:20], whole.validation.labels[:20], whole.validation.names[:20])
    dataset = replace(whole, validation=few)
    accelerator = environment.accelerator(anew=True)
    if device is not None:
        accelerator.state.device = device
    (metrics,) = fit(config, dataset, folder, accelerator=accelerator)
    model = build_model(config, dataset.image_shape, dataset.nr_classes)
    noise = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # weights to which the label makes a difference
        torch.nn.init.normal_(parameter, std=0.3, generator=noise)
    model = model.to(accelerator.device)
    labels = torch.tensor([1, 2], device=accelerator.device)
    above = dataset.validation.images[:2].to(accelerator.device)
    drawn = sample(model, labels, generator=torch.Generator().manual_seed(0), given=above, from_row=6)
    ratio = log_ratio(model, dataset.validation.images[:2], torch.tensor([0, 1]), torch.tensor([2, 3]))
    return {
        "val_bpd": metrics.val_bpd,
        "train_loss": metrics.train_loss,
        "peak_memory_bytes": metrics.peak_memory_bytes,
        "drawn": drawn.cpu().flatten().tolist(),
        "ratio": float(ratio.sum()),
    }


def main(folder: Path) -> None:
    """Print the outcomes on the CPU and on the device."""
    begin()
    device = torch.device(NAME, 0)
    found = [outcome(folder / "cpu", None)]
    with playing():
        found.append(outcome(folder / NAME, device))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
