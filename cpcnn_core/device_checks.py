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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpcnn_core import devices, environment, fusion, graphs, seeds
from cpcnn_core.checkpoint import build_model
from cpcnn_core.classify import CAPTURED, WORTH_CAPTURING, class_log_likelihoods
from cpcnn_core.compiling import Regional
from cpcnn_core.config import ConfigError, TrialConfig
from cpcnn_core.data import Dataset, Split
from cpcnn_core.graphs import Capture, call_by_call
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
EARLY_STEPS = 5  # of training, whose gradients rounding has not parted yet
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
    return devices.here()


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

    as_graph, by_calls = drawn(_capture(where)), drawn(call_by_call)
    reference = sample_reference(model, labels, draw_noise(model, len(labels), torch.Generator().manual_seed(0)))
    same = torch.equal(as_graph, by_calls)
    alike = (as_graph == reference).flatten(1).all(1).float().mean().item()
    said = (
        f"{len(labels)} images drawn {_as_graphs(where)} are {'' if same else 'not '}those drawn call by call; "
        f"{alike:.0%} are what a pass per pixel draws"
    )
    return Finding("captured", same and alike >= REDRAWN, said, {"like_the_reference": alike})


def steps(where: torch.device) -> Finding:
    """Training steps as trials take them by default, each as one CUDA graph, and those without any graph."""
    norms, bpd, path, note = {}, {}, "", None
    for graph in (False, True):
        config = TrialConfig.from_flat(TRAINING | {"train.graph": graph})
        with tempfile.TemporaryDirectory() as folder:
            capture = _capture(where)
            run = Run(config, _dataset(48), Path(folder), environment.accelerator(anew=True), capture=capture)
            size = config.train.batch_size
            chosen = [torch.arange(step, step + size, device=where) % 48 for step in range(_nr_steps(where))]
            norms[graph] = [run.optimize(images).item() for images in chosen]
            bpd[graph] = run.sums.bpd.item() / (size * len(chosen))
            path, note = run.paths.path, run.paths.note
    # Later gradients are those of weights that rounding has parted.
    pairs = zip(norms[True][:EARLY_STEPS], norms[False][:EARLY_STEPS], strict=True)
    gradient, apart = max(abs(a - b) / abs(b) for a, b in pairs), abs(bpd[True] - bpd[False])
    taken = len(norms[True])
    said = (
        f"{taken} training steps {_as_graphs(where)} and call by call: the first {EARLY_STEPS} gradients' norms differ "
        f"by {gradient:.1g} of them, the mean bpd of all by {apart:.1g}"
    )
    if path != "graph":
        said = f"training steps are not captured here ({note}); they were taken call by call, which costs time only"
    figures = {"gradient_norm": gradient, "bpd": apart, "captured": float(path == "graph")}
    return Finding("steps", gradient <= GRADIENTS and apart <= BPD, said, figures)


def evaluation(where: torch.device) -> Finding:
    """Likelihoods by passes of evaluation that are one CUDA graph each, and by passes call by call."""
    model, size = _network("block_mild").to(where), 4
    images = _dataset(size * (WORTH_CAPTURING + 2) - 1).train.images.to(where)  # the last pass is not full
    off = {}
    for bf16 in (False, True):
        look = partial(class_log_likelihoods, model, images, batch_size=size * CLASSES, bf16=bf16)
        off[bf16] = _off(look(capture=_capture(where)), look())
    capture = graphs.default_capture(where)
    reason = None if capture is None else graphs.refusal(capture)
    said = (
        f"likelihoods {_as_graphs(where)} differ from those call by call by {off[False]:.1g} of them, in bf16 by "
        f"{off[True]:.1g}"
    )
    if reason is not None:
        said = f"passes of evaluation are not captured here ({reason}); they were made call by call"
    fine = all(off[bf16] <= CAPTURED[bf16] for bf16 in off)
    figures = {"fp32": off[False], "bf16": off[True], "captured": float(reason is None)}
    return Finding("evaluation", fine, said, figures)


@whole_float32()
def compiled(where: torch.device) -> Finding:
    """The gradient of a step compiled as a trial's is against the eager one's; it takes the compiler's seconds."""
    network, batch = _network("block_mild").to(where), tuple(part.to(where) for part in _batch(4))
    _, eager = _step(_loss(network), batch)
    torch.compiler.reset()
    started = time.perf_counter()
    step = Regional(_loss(copy.deepcopy(network)))
    _, found = _step(step, batch)
    if step.unavailable is not None:
        return Finding("compiled", True, f"train.compile is not available here ({step.unavailable})", {})
    seconds, difference = time.perf_counter() - started, _off(found, eager)
    said = f"a compiled step has a gradient that is off by {difference:.1g} of its norm; compiling took {seconds:.0f} s"
    return Finding("compiled", difference <= GRADIENTS, said, {"gradients": difference, "seconds": seconds})


def memory(where: torch.device) -> Finding:
    """A step whose memory ends goes on with smaller micro-batches, to the same gradient."""
    # On a GPU so many that what the network keeps of them is most of its memory; cuBLAS alone takes tens of MiB.
    limited = devices.limits_memory(where)
    images = 512 if limited else 32
    half = images // 2
    config = TrialConfig.from_flat(TRAINING | {"train.batch_size": images, "model.nr_filters": 32})
    norms, sizes = [], []
    chosen = torch.arange(images, device=where)
    limit = 1.0
    for ends in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            run = Run(config, _dataset(images), Path(folder), environment.accelerator(anew=True))
            if limited:
                devices.begin_memory(where)
                torch.cuda.set_per_process_memory_fraction(limit if ends else 1.0)
            elif ends:
                run.model.register_forward_pre_hook(partial(_ends_above, half))
            try:
                norms.append(run.optimize(chosen).item())
            finally:
                if limited:
                    total = torch.cuda.get_device_properties(where).total_memory
                    limit = 0.7 * devices.peak_memory(where) / total
                    torch.cuda.set_per_process_memory_fraction(1.0)
            sizes.append(run.micro_batch)
    difference = abs(norms[1] - norms[0]) / abs(norms[0])
    fine = sizes[1] < sizes[0] and difference <= GRADIENTS
    said = (
        f"where memory ends{'' if limited else ' (which a hook plays)'}, micro-batches of {sizes[0]} "
        f"become {sizes[1]}, and the gradient's norm differs by {difference:.1g} of it"
    )
    return Finding("memory", fine, said, {"gradient_norm": difference, "micro_batch": float(sizes[1])})


def resumed(where: torch.device) -> Finding:
    """Training that is killed and goes on against training that is left alone, and against a CPU's."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as started:
        folder = Path(temporary)
        may_hide = where.type == "cuda"  # a process finds no GPU where the variable says so, which others do not read

        def start(*folders: Path, **variables: str) -> subprocess.Popen[str]:
            return started.enter_context(_training(*folders, **variables))

        # Each kind of device draws flips and masks of its own, so that two kinds are compared where nothing is drawn.
        on_cpu = start(folder / f"cpu-{_NOTHING_DRAWN}", CUDA_VISIBLE_DEVICES="") if may_hide else None
        killed = start(folder / "killed")
        assert killed.stdout is not None
        for line in killed.stdout:  # in the second epoch, some steps after the first state of it
            if line.startswith("epoch"):
                break
        for _ in range(3):
            killed.stdout.readline()
        killed.kill()
        killed.communicate()
        # In one process, whose start takes longer than the training: what goes on comes first, as it would alone.
        again, whole, undrawn = _curves(start(*(folder / name for name in ("killed", "whole", _NOTHING_DRAWN))))
        (of_cpu,) = (undrawn,) if on_cpu is None else _curves(on_cpu)
    off = max(abs(a - b) for a, b in zip(again, whole, strict=True))
    off_cpu = max(abs(a - b) for a, b in zip(of_cpu, undrawn, strict=True))
    exact = where.type != "cpu" or off == 0
    said = f"training that was killed and went on differs by {off:.1g} bpd from training that was left alone" + (
        "" if on_cpu is None else f"; without flips and dropout it differs by {off_cpu:.1g} from a CPU's"
    )
    return Finding("resumed", exact and max(off, off_cpu) <= BPD, said, {"bpd": off, "bpd_cpu": off_cpu})


CHECKS: Mapping[str, Check] = {
    "float32": float32,
    "fusions": fusions,
    "bf16": bf16,
    "captured": captured,
    "steps": steps,
    "evaluation": evaluation,
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
    return value.item(), torch.cat([p.grad.cpu().double().flatten() for p in loss.parameters() if p.grad is not None])


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _capture(where: torch.device) -> Capture:
    """What a GPU captures by default; on a CPU a stand-in, so that the calls are the same."""
    return graphs.default_capture(where) or call_by_call


def _as_graphs(where: torch.device) -> str:
    return "as CUDA graphs" if devices.captures(where) else "with a stand-in for CUDA graphs"


def _nr_steps(where: torch.device) -> int:
    """How many steps are compared; on a CPU, where nothing is captured, only that they can be taken."""
    return 50 if devices.captures(where) else EARLY_STEPS


def _ends_above(images: int, _: nn.Module, given: tuple[Tensor, ...]) -> None:
    if len(given[0]) > images:
        raise torch.OutOfMemoryError("CUDA out of memory. (a stand-in)")


# --- training in a process of its own, which can be killed ---

_NOTHING_DRAWN = "undrawn"  # how the name of a folder ends in which training draws neither flips nor masks


@contextmanager
def _training(*folders: Path, **variables: str) -> Generator[subprocess.Popen[str]]:
    """A process that trains in each of the folders, one after another; it is ended with what it was started for."""
    command = [sys.executable, "-m", "cpcnn_core.device_checks", "--train", *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=os.environ | variables) as process:
        try:
            yield process
        finally:
            process.kill()


def _curves(process: subprocess.Popen[str]) -> list[list[float]]:
    """The bpd of each epoch in each folder, once the process is done."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a process that trained ended with exit code {process.returncode}")
    return [json.loads(line) for line in output.splitlines() if line.startswith("[")]


def _train(folder: Path) -> None:
    curve = []
    steps = lambda stage, done, _: print(stage, done, flush=True)  # noqa: E731, T201
    drawn = {"model.dropout": 0.0, "train.flip": False} if folder.name.endswith(_NOTHING_DRAWN) else {}
    for epoch in fit(TrialConfig.from_flat(TRAINING | drawn), _dataset(96), folder, on_progress=steps):
        curve += [epoch.train_bpd, epoch.val_bpd]
        print("epoch", epoch.epoch, flush=True)  # noqa: T201
    print(json.dumps(curve), flush=True)  # noqa: T201


def _main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--train"]:
        torch.set_num_threads(1)
        for folder in arguments[1:]:
            _train(Path(folder))
        return
    for name in arguments or CHECKS:
        print(json.dumps(asdict(CHECKS[name](device()))), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1:])
