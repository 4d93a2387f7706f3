"""`python -m benchmarks.kernels`: how many operators a training step calls, and what for.

On a GPU a small network's step is as long as its kernels are many. Counted are the calls that compute something, as a
GPU's path makes them, on a CPU too: no views, no allocations. A call is one kernel or a few. Forward and backward are
told apart, and backward calls belong to what the forward call belongs to. The last rows, of what is around the network,
are counted apart. On a GPU torch's profiler counts the kernels besides.

`--compiled` compiles the step too, as `train.compile` does, and has torch's profiler count what it calls: each kernel
that the compiler made, and each call that it left as it was.

The baseline is the step of `benchmarks.training`: the network, the loss and the optimizer as one would write them down.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch._inductor import config as inductor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.figure import Asked, Figure
from benchmarks.training import PlainStep, dataset, network
from cpcnn_core import environment, layers
from cpcnn_core.config import TrialConfig
from cpcnn_core.precision import whole_float32
from cpcnn_core.train import Run

Causes = dict[str, tuple[int, int]]
"""Calls by what they are for: forward and backward."""

AROUND = "batch, optimizer, averages"
OTHER = "sums, skips, the rest"
PLACES = {
    "weights.": "weight norm",
    "parametrizations.": "weight norm",
    "layers._PaddedConcatELU": "concat-ELU, dropout, padding",
    "layers._ConcatELU": "concat-ELU, dropout, padding",
    "layers.ConcatELU": "concat-ELU, dropout, padding",
    "layers._with_room": "concat-ELU, dropout, padding",
    "layers._Shifted.forward": "concat-ELU, dropout, padding",
    "layers.down_shift": "concat-ELU, dropout, padding",
    "layers.right_shift": "concat-ELU, dropout, padding",
    "layers._Gate": "gate",
    "base.": "label",
    "shift.": "label",
    "film.": "label",
    "labels.": "label",
    "likelihood.": "loss",
    "loss.": "loss",
    "split.": "loss",
    "model.ConditionalPixelCNN.draw_masks": AROUND,
    "batches.": AROUND,
    "step.": AROUND,
    "model.": OTHER,
    "layers.add": OTHER,
    "layers.beside": OTHER,
    "layers.GatedBlock": OTHER,
    "train.": AROUND,
    "diagnostics.": AROUND,
    "optim.": AROUND,
    "optimizer.": AROUND,
    "adam.": AROUND,
    "clip_grad.": AROUND,
}
"""What a function's calls are for, by the beginning of its module and name."""

WHOLE = ("aten::_foreach", "aten::convolution", "aten::_fused_adam_", "aten::_weight_norm")
"""Operators that are one call, or a few kernels, on a GPU, whatever they call on the CPU."""

_NOTHING = """
alias as_strided chunk contiguous detach empty empty_like empty_strided expand expand_as flatten is_nonzero item
lift_fresh _local_scalar_dense movedim narrow new_empty permute reshape resize_ resolve_conj result_type scalar_tensor
select set_ slice split split_with_sizes squeeze t to transpose unbind unflatten unsqueeze _unsafe_view view view_as
"""
VIEWS = {"detach"} | {f"aten::{name}" for name in _NOTHING.split()}
"""What computes nothing."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Calls(TorchDispatchMode):
    """Counts the calls made inside of it, in `forward` and `backward` by what they are for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forward: Counter[str] = Counter()
        self.backward: Counter[str] = Counter()
        self._of_node: dict[int, str] = {}

    # What torch hands to a mode has no narrower types.
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        node = torch._C._current_autograd_node()
        if node is None:
            cause = _cause(func, sys._getframe(1))
            self._of_node[torch.autograd._get_sequence_nr() - 1] = cause
            self.forward[cause] += _computes(func)
        else:
            self.backward[self._of_node.get(node._sequence_nr(), OTHER)] += _computes(func)
        return func(*args, **(kwargs or {}))

    def causes(self) -> Causes:
        """The largest first, what is around the network last."""
        both = self.forward + self.backward
        names = sorted((name for name in both if both[name]), key=lambda name: (name == AROUND, -both[name]))
        return {name: (self.forward[name], self.backward[name]) for name in names}


def _computes(func: Any) -> bool:
    """Whether a call is more than a view, an allocation or a note to a profiler."""
    name: str = func.__name__
    if name.startswith(("empty", "new_empty", "_record_function", "scalar_tensor", "_local_scalar")):
        return False
    aliases = [argument.alias_info for argument in func._schema.arguments if argument.alias_info is not None]
    return all(alias.is_write for alias in aliases)


def _cause(func: Any, frame: FrameType | None) -> str:
    """What a forward call is for, by the innermost function that says so."""
    if "convolution" in func.__name__:
        return "convolution"
    while frame is not None:
        name = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}"
        for place, cause in PLACES.items():
            if name.startswith(place):
                return cause
        frame = frame.f_back
    return OTHER


def counted(step: Callable[[], object]) -> Causes:
    """The calls of a step, after one that allocates what later ones keep."""
    step()
    calls = Calls()
    with calls:
        step()
    return calls.causes()


def kernels(step: Callable[[], object]) -> int:
    """The kernels that a GPU runs in a step."""
    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profiler.key_averages() if event.device_type.name == "CUDA")


def profiled(step: Callable[[], object]) -> Counter[str]:
    """What a step on the CPU calls, by name: kernels of the compiler as "compiled", other calls as the profiler does.

    The profiler sees what fills memory with zeros too, which `Calls` does not: about a tenth more of an eager step.
    """
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    found: Counter[str] = Counter()
    waiting = [event for event in profiler.events() or () if event.cpu_parent is None]
    while waiting:
        event = waiting.pop()
        if "_fused_" in event.name and not event.name.startswith("aten::"):
            found["compiled"] += 1
        elif event.name.startswith(WHOLE) or (event.name.startswith("aten::") and not _works_by_others(event)):
            found[event.name] += event.name not in VIEWS
        else:
            waiting += event.cpu_children
    return found


def _works_by_others(event: Any) -> bool:  # the profiler's events have no public type
    """Whether an operator calls others, views and allocations apart."""
    return any(child.name not in VIEWS for child in event.cpu_children)


@whole_float32()
def measure_compiled(sizes: tuple[int, int, int], batch: int) -> tuple[int, int, int]:
    """Calls of an eager step and of a compiled one by the profiler; of the latter, the compiler's own kernels."""
    calls = []
    for compiled in (False, True):
        config = TrialConfig.from_flat(
            network("block_mild", sizes)
            | {"train.batch_size": batch, "train.ema_decay": 0.999, "train.compile": compiled}
        )
        with tempfile.TemporaryDirectory() as folder, patch.object(layers, "few_kernels", lambda _: True):
            run = Run(config, dataset(batch), Path(folder), environment.accelerator())
            chosen = torch.arange(batch, device=run.device)
            with inductor.patch({"cpp.enable_kernel_profile": True}):
                calls.append(profiled(partial(run.optimize, chosen)))
    return calls[0].total(), calls[1].total(), calls[1]["compiled"]


@whole_float32()
def measure(sizes: tuple[int, int, int], batch: int, precision: str) -> tuple[Causes, Causes, int | None]:
    """Of a step on the path of a GPU and of the baseline the calls; the kernels of the first where there is a GPU."""
    config = TrialConfig.from_flat(
        network("block_mild", sizes)
        | {"train.batch_size": batch, "train.precision": precision, "train.ema_decay": 0.999}
    )
    with tempfile.TemporaryDirectory() as folder, patch.object(layers, "few_kernels", lambda _: True):
        run = Run(config, dataset(batch), Path(folder), environment.accelerator())
        baseline = PlainStep(run)
        chosen = torch.arange(batch, device=run.device)
        ours = counted(lambda: run.optimize(chosen))
        there = kernels(lambda: run.optimize(chosen)) if run.device.type == "cuda" else None
        return ours, counted(lambda: baseline(run.batches.images, run.batches.labels)), there


def total(causes: Causes) -> int:
    return sum(map(sum, causes.values()))


def figures(asked: Asked) -> list[Figure]:
    """The calls of a step at 1/40/5."""
    ours, plain, _ = measure((1, 40, 5), 4 if asked.short else 16, "fp32")
    return [Figure("operator calls of a training step", total(plain) / total(ours), "plain network")]


@app.command()
def main(
    nr_resnet: Annotated[int, typer.Option(min=1)] = 1,
    nr_filters: Annotated[int, typer.Option(min=1)] = 40,
    batch: Annotated[int, typer.Option(min=1, help="Images; the calls do not depend on it.")] = 4,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    compiled: Annotated[bool, typer.Option("--compiled", help="Count a compiled step too; minutes.")] = False,
) -> None:
    """Print the calls by what they are for."""
    ours, plain, there = measure((nr_resnet, nr_filters, 5), batch, precision)
    title = f"Operator calls of a step at {nr_resnet}/{nr_filters}/5, block_mild, {precision}"
    table = Table("what for", "forward", "backward", "both", title=title)
    for cause, (forward, backward) in ours.items():
        table.add_row(cause, str(forward), str(backward), str(forward + backward))
    network_alone = total(ours) - sum(ours.get(AROUND, (0, 0)))
    table.add_row("all", "", "", f"{total(ours)} ({network_alone} without the last row)", style="bold")
    table.add_row("plain network, loss and optimizer", "", "", str(total(plain)))
    if there is not None:
        table.add_row("kernels on the GPU", "", "", str(there))
    if compiled:
        eager, all_, made = measure_compiled((nr_resnet, nr_filters, 5), batch)
        table.add_row("eager, by the profiler", "", "", str(eager))
        table.add_row("compiled, by the profiler", "", "", f"{all_} ({made} of the compiler's making)")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    app()
