"""Does this machine's device compute what it should? Each check compares two ways to the same numbers.

    python -m cpcnn_core.device_checks [CHECK ...]

On a machine without a GPU the same checks run on the CPU, in the same order of calls, with a stand-in for what a CUDA
graph captures and for the memory that ends; what is then still unproved is on docs/gpu.md.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from cpcnn_core import environment, fusion, seeds
from cpcnn_core.checkpoint import build_model
from cpcnn_core.classify import class_log_likelihoods
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.data import Dataset, Split
from cpcnn_core.graphs import call_by_call
from cpcnn_core.loss import Loss
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.precision import check_float32, whole_float32
from cpcnn_core.sampling import draw_noise, sample, sample_reference
from cpcnn_core.train import Run, fit

SHAPE, CLASSES = (3, 8, 8), 3
GRADIENTS = 1e-4  # relative; a wrong formula is off by more than a hundredth, rounding by some 1e-6
GRADIENTS_BF16 = 5e-2  # bf16 keeps 8 bits; one H100 was off by 1e-3
NATS = 0.05  # of an image's log-likelihood; one H100 was off by .002 at 32x32
BPD = 1e-3  # after some steps of training
REDRAWN = 0.9  # share of images that the reference draws too: a sub-pixel in a thousand may fall on another side

SIZES: dict[str, Any] = {"model.nr_resnet": 1, "model.nr_filters": 8, "model.nr_logistic_mix": 2, "model.dropout": 0.0}
TRAINING: dict[str, Any] = SIZES | {
    "model.fusion": "block_mild",
    "model.dropout": 0.5,
    "train.batch_size": 16,
    "train.epochs": 2,
    "train.lr": 3e-3,
    "train.flip": True,
    "train.ema_decay": 0.9,
    "train.save_every_seconds": 0,
    "eval.train_images": 0,
}


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    check: str
    fine: bool
    said: str  # in words
    figures: Mapping[str, float]

    @classmethod
    def of_json(cls, line: str) -> Finding:
        """What the command prints of a check."""
        return cls(**json.loads(line))


Check = Callable[[torch.device], Finding]


def device() -> torch.device:
    """What training would take here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def float32(where: torch.device) -> Finding:
    """Products and convolutions keep all of float32."""
    try:
        check_float32(where)
    except ConfigError as error:
        return Finding("float32", False, str(error), {})
    return Finding("float32", True, f"{where} multiplies and convolves in whole float32", {})


@whole_float32()
def fusions(where: torch.device) -> Finding:
    """Likelihoods and gradients of every fusion, on the CPU and on the device."""
    nats, gradients = {}, {}
    for name in fusion.FUSIONS:
        network, batch = _network(name), _batch(4)
        _, expected = _step(_loss(network), batch)
        there = copy.deepcopy(network).to(where)
        _, found = _step(_loss(there), tuple(part.to(where) for part in batch))
        gradients[name] = _off(found, expected)
        ours, theirs = (class_log_likelihoods(each.eval(), batch[0], batch_size=64).cpu() for each in (network, there))
        nats[name] = (ours - theirs).abs().max().item()
    worst, most = max(gradients, key=gradients.__getitem__), max(nats.values())
    fine = most <= NATS and gradients[worst] <= GRADIENTS
    said = (
        f"{len(nats)} fusions, CPU against {where}: likelihoods differ by {most:.1g} nats, gradients by "
        f"{gradients[worst]:.1g} of their norm ({worst})"
    )
    return Finding("fusions", fine, said, {"nats": most, "gradients": gradients[worst]})


@whole_float32()
def bf16(where: torch.device) -> Finding:
    """The gradient of a step in bf16 against float32's."""
    network, batch = _network("block_mild").to(where), tuple(part.to(where) for part in _batch(16))
    _, exact = _step(_loss(network), batch)
    _, rounded = _step(_loss(network, bf16=True), batch)
    difference = _off(rounded, exact)
    said = f"a step in bf16 has a gradient that is off by {difference:.1g} of its norm from float32's"
    return Finding("bf16", difference <= GRADIENTS_BF16, said, {"gradients": difference})


def captured(where: torch.device) -> Finding:
    """Images drawn with a row's work as one CUDA graph, call by call, and by one pass per pixel."""
    model, labels = _network("block_film").eval().to(where), torch.arange(8, device=where) % CLASSES

    def drawn(capture: Any) -> Tensor:
        return sample(model, labels, generator=torch.Generator().manual_seed(0), capture=capture)

    as_graph, by_calls = drawn(None if where.type == "cuda" else call_by_call), drawn(call_by_call)
    reference = sample_reference(model, labels, draw_noise(model, len(labels), torch.Generator().manual_seed(0)))
    same = torch.equal(as_graph, by_calls)
    alike = (as_graph == reference).flatten(1).all(1).float().mean().item()
    what = "as CUDA graphs" if where.type == "cuda" else "with a stand-in for CUDA graphs"
    said = (
        f"{len(labels)} images drawn {what} are {'' if same else 'not '}those drawn call by call; {alike:.0%} are what "
        "a pass per pixel draws"
    )
    return Finding("captured", same and alike >= REDRAWN, said, {"like_the_reference": alike})


def steps(where: torch.device) -> Finding:
    """Training steps as one CUDA graph each, and call by call on the same memory."""
    config, norms = TrialConfig.from_flat(TRAINING), list[list[float]]()
    for capture in (None, call_by_call):
        with tempfile.TemporaryDirectory() as folder:
            run = Run(config, _dataset(48), Path(folder), environment.accelerator(anew=True), capture=capture)
            chosen = torch.arange(config.train.batch_size, device=where)
            norms.append([run.optimize(chosen).item() for _ in range(5)])
    difference = max(abs(a - b) / abs(b) for a, b in zip(*norms, strict=True))
    what = "as CUDA graphs" if where.type == "cuda" else "as a CPU takes them"
    said = f"5 training steps {what} have gradients whose norm differs by {difference:.1g} of it from call by call"
    return Finding("steps", difference <= GRADIENTS, said, {"gradient_norm": difference})


@whole_float32()
def compiled(where: torch.device) -> Finding:
    """The gradient of a compiled step against the eager one's; it takes the compiler's seconds."""
    network, batch = _network("block_mild").to(where), tuple(part.to(where) for part in _batch(4))
    _, eager = _step(_loss(network), batch)
    torch.compiler.reset()
    started = time.perf_counter()
    try:
        step = cast("nn.Module", torch.compile(_loss(copy.deepcopy(network)), dynamic=False))
        _, found = _step(step, batch)
    except Exception as error:  # noqa: BLE001 - a missing compiler has many classes
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        return Finding("compiled", True, f"train.compile is not available here ({reason})", {})
    seconds, difference = time.perf_counter() - started, _off(found, eager)
    said = f"a compiled step has a gradient that is off by {difference:.1g} of its norm; compiling took {seconds:.0f} s"
    return Finding("compiled", difference <= GRADIENTS, said, {"gradients": difference, "seconds": seconds})


def memory(where: torch.device) -> Finding:
    """A step whose memory ends goes on with smaller micro-batches, to the same gradient."""
    images, half = 32, 16
    config = TrialConfig.from_flat(TRAINING | {"train.batch_size": images, "model.nr_filters": 32})
    norms, sizes = [], []
    chosen = torch.arange(images, device=where)
    limit = 1.0
    for ends in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            run = Run(config, _dataset(images), Path(folder), environment.accelerator(anew=True))
            if where.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.set_per_process_memory_fraction(limit if ends else 1.0)
            elif ends:
                run.model.register_forward_pre_hook(partial(_ends_above, half))
            try:
                norms.append(run.optimize(chosen).item())
            finally:
                if where.type == "cuda":
                    total = torch.cuda.get_device_properties(where).total_memory
                    limit = 0.7 * torch.cuda.max_memory_allocated() / total
                    torch.cuda.set_per_process_memory_fraction(1.0)
            sizes.append(run.micro_batch)
    difference = abs(norms[1] - norms[0]) / abs(norms[0])
    fine = sizes[1] < sizes[0] and difference <= GRADIENTS
    said = (
        f"where memory ends{'' if where.type == 'cuda' else ' (which a hook plays)'}, micro-batches of {sizes[0]} "
        f"become {sizes[1]}, and the gradient's norm differs by {difference:.1g} of it"
    )
    return Finding("memory", fine, said, {"gradient_norm": difference, "micro_batch": float(sizes[1])})


def resumed(where: torch.device) -> Finding:
    """Training that is killed and goes on against training that is left alone, and against a CPU's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _start(folder / "whole")
        on_cpu = whole if where.type == "cpu" else _start(folder / "cpu", CUDA_VISIBLE_DEVICES="")
        killed = _start(folder / "killed")
        assert killed.stdout is not None
        for line in killed.stdout:  # in the second epoch, some steps after the first state of it
            if line.startswith("epoch"):
                break
        for _ in range(3):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        again = _start(folder / "killed")
        curves = {process: _curve(process) for process in dict.fromkeys((whole, on_cpu, again))}
    off = max(abs(a - b) for a, b in zip(curves[again], curves[whole], strict=True))
    off_cpu = max(abs(a - b) for a, b in zip(curves[on_cpu], curves[whole], strict=True))
    exact = where.type != "cpu" or off == 0
    said = f"training that was killed and went on differs by {off:.1g} bpd from training that was left alone" + (
        "" if where.type == "cpu" else f", and this from a CPU's by {off_cpu:.1g}"
    )
    return Finding("resumed", exact and max(off, off_cpu) <= BPD, said, {"bpd": off, "bpd_cpu": off_cpu})


CHECKS: Mapping[str, Check] = {
    "float32": float32,
    "fusions": fusions,
    "bf16": bf16,
    "captured": captured,
    "steps": steps,
    "memory": memory,
    "resumed": resumed,
    "compiled": compiled,
}


def _network(name: str) -> ConditionalPixelCNN:
    """A small network on the CPU. Its scales and biases begin at values behind which a wrong gradient may not hide."""
    torch.manual_seed(0)
    network = build_model(TrialConfig.from_flat(SIZES | {"model.fusion": name}), SHAPE, CLASSES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return network


def _batch(images: int) -> tuple[Tensor, ...]:
    """What a Loss takes: images, labels, whether labels are withheld, weights."""
    split = _dataset(images).train
    return split.images, split.labels, torch.zeros(images, dtype=torch.bool), torch.ones(images)


def _dataset(images: int) -> Dataset:
    generator = seeds.generator(0, seeds.Purpose.WEIGHTS)
    labels = torch.arange(images) % CLASSES
    noise = torch.randint(0, 60, (images, *SHAPE), generator=generator)
    split = Split((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels, tuple(map(str, range(images))))
    return Dataset("random", split, split, split, tuple("abc"))


def _loss(network: ConditionalPixelCNN, *, bf16: bool = False) -> nn.Module:
    like = next(network.parameters())
    return Loss(network.train(), torch.full((CLASSES,), -math.log(CLASSES), device=like.device), bf16=bf16)


def _step(loss: nn.Module, batch: tuple[Tensor, ...]) -> tuple[float, Tensor]:
    """The loss, and its gradient in one vector, float64 on the CPU."""
    loss.zero_grad(set_to_none=True)
    value = loss(*batch, None)[0]
    value.backward()
    return value.item(), torch.cat([p.grad.double().cpu().flatten() for p in loss.parameters() if p.grad is not None])


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _ends_above(images: int, _: nn.Module, given: tuple[Tensor, ...]) -> None:
    if len(given[0]) > images:
        raise torch.OutOfMemoryError("CUDA out of memory. (a stand-in)")


# --- training in a process of its own, which can be killed ---


def _start(folder: Path, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cpcnn_core.device_checks", "--train", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables)


def _curve(process: subprocess.Popen[str]) -> list[float]:
    """The bpd of each epoch, once the process is done."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a process that trained ended with exit code {process.returncode}")
    curve: list[float] = json.loads(output.splitlines()[-1])
    return curve


def _train(folder: Path) -> None:
    torch.set_num_threads(1)
    curve = []
    steps = lambda stage, done, _: print(stage, done, flush=True)  # noqa: E731, T201
    for epoch in fit(TrialConfig.from_flat(TRAINING), _dataset(96), folder, on_progress=steps):
        curve += [epoch.train_bpd, epoch.val_bpd]
        print("epoch", epoch.epoch, flush=True)  # noqa: T201
    print(json.dumps(curve))  # noqa: T201


def _main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--train"]:
        _train(Path(arguments[1]))
        return
    for name in arguments or CHECKS:
        print(json.dumps(asdict(CHECKS[name](device()))), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1:])
