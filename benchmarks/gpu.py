"""What a GPU computes, and how fast: one command for the minutes in which one is at hand.

    python -m benchmarks.gpu [--toy] [--minutes 20] [--only PART] [--again] [--out FILE]

It needs `cpcnn_core` and `benchmarks` alone. The parts come in the order of their worth, each in a process of its own,
so that what ends one (its memory, a fault of the device) ends no other. The file has, after each part, what all of them
found, or the error; the same command later goes on with the parts that are missing or failed. docs/gpu.md says how to
read it.

With `--toy` every part goes the same way with the smallest sizes, in this process, on whatever is at hand.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import device, fastest, machine, timed
from benchmarks.training import dataset, network
from cpcnn_core import device_checks, environment, quality
from cpcnn_core.config import TrialConfig
from cpcnn_core.evaluate import evaluate
from cpcnn_core.graphs import call_by_call
from cpcnn_core.precision import whole_float32
from cpcnn_core.sampling import sample
from cpcnn_core.train import Run, peak_memory

Sizes = tuple[int, int, int]
Rows = list[dict[str, Any]]

TRAIN_IMAGES, EVALUATED = 4159, 519  # the course's splits
_SIDE_BY_SIDE = "--side-by-side"  # how this module is started as one of several trials at once
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Scale:
    """How much a part does."""

    toy: bool
    steps: tuple[tuple[Sizes, int], ...] = (
        ((1, 40, 5), 16),
        ((4, 120, 10), 16),
        ((1, 40, 5), 64),
        ((5, 160, 10), 16),
        ((5, 160, 10), 64),
    )
    small: Sizes = (1, 40, 5)
    large: Sizes = (4, 120, 10)
    turns: int = 30
    at_once: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 8.0
    images: int = TRAIN_IMAGES
    evaluated: int = EVALUATED
    drawn: tuple[int, ...] = (100, 512)

    @classmethod
    def of_toy(cls) -> Scale:
        tiny = (1, 4, 1)
        return cls(True, ((tiny, 2),), tiny, tiny, 2, (2,), 0.2, 8, 4, (2,))


# --- is it right? ---


def correct(check: str, _: Scale) -> Rows:
    """One of the checks. Raise AssertionError where it is not right."""
    found = device_checks.CHECKS[check](device())
    assert found.fine, found.said
    return [asdict(found)]


# --- how fast is a step? ---


@contextmanager
def trial(
    sizes: Sizes, batch: int, settings: Mapping[str, object] | None = None, *, images: int | None = None
) -> Iterator[Run]:
    """A trial whose steps can be taken one by one."""
    given = network("block_mild", sizes) | {"train.batch_size": batch, "train.ema_decay": 0.999, "train.flip": True}
    config = TrialConfig.from_flat({**given, **(settings or {})})
    with tempfile.TemporaryDirectory() as folder, whole_float32():
        yield Run(config, dataset(images or batch), Path(folder), environment.accelerator(anew=True))


def step(sizes: Sizes, batch: int, turns: int, settings: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The time of a training step, how long the device works in it, and by how many kernels (on a CPU, calls)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with trial(sizes, batch, settings) as run:
        chosen = torch.arange(batch, device=run.device)
        first, _ = timed(partial(run.optimize, chosen))
        for _ in range(2):
            run.optimize(chosen)
        took = fastest(
            [timed(lambda: [run.optimize(chosen) for _ in range(10)])[0] for _ in range(max(1, turns // 10))]
        )
        busy, kernels = worked(partial(run.optimize, chosen), run)
        return {
            "config": "/".join(map(str, sizes)),
            "batch": batch,
            **(settings or {}),
            "first_seconds": first.wall,
            "step_ms": took.wall * 100,  # of ten
            "busy_ms": busy * 1e3,
            "kernels": kernels,
            "peak_bytes": peak_memory(run.device),
            "micro_batch": run.micro_batch,
        }


def worked(call: Callable[[], object], run: Run) -> tuple[float, int]:
    """Seconds that the device works in a call, and the number of its kernels; on a CPU its own, and torch's calls."""
    on_gpu = run.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        call()
        run.wait()
    kind = "CUDA" if on_gpu else "CPU"
    events = [event for event in seen.events() if event.device_type.name == kind]
    took = [event.device_time_total if on_gpu else event.self_cpu_time_total for event in events]
    return sum(took) / 1e6, len(events)


def steps(scale: Scale) -> Rows:
    """Of each size, in each precision."""
    return [
        step(sizes, batch, scale.turns, {"train.precision": precision})
        for sizes, batch in scale.steps
        for precision in ("fp32", "bf16")
    ]


def compiled_steps(scale: Scale) -> Rows:
    """Of the smallest size, compiled."""
    sizes, batch = scale.steps[0]
    return [
        step(sizes, batch, scale.turns, {"train.precision": precision, "train.compile": True})
        for precision in ("fp32", "bf16")
    ]


# --- an epoch ---


def epoch(scale: Scale) -> Rows:
    """The shares of the second epoch at the large size; in the first one graphs are captured, and caches filled."""
    asked: dict[str, object] = {"eval.fid_every": 1, "eval.fid_extractor": "classifier"}
    asked |= {"train.precision": "bf16", "train.epochs": 3} | ({"eval.fid_images_per_class": 2} if scale.toy else {})
    batch = min(16, scale.images)
    with trial(scale.large, batch, asked, images=scale.images) as run:
        rows = []
        for _ in range(2):
            started = time.perf_counter()
            metrics = run.train_epoch(on_evaluation=None, on_drawn=None, on_progress=lambda *_: None)
            seconds = time.perf_counter() - started
            drawing = metrics.sample_seconds or 0.0
            rows.append(
                {
                    "config": "/".join(map(str, scale.large)),
                    "epoch_seconds": seconds,
                    "training": metrics.train_seconds / seconds,
                    "drawing_and_fid": drawing / seconds,
                    "evaluation_and_writing": 1 - (metrics.train_seconds + drawing) / seconds,
                    "images_per_second": metrics.images_per_second,
                }
            )
        run.checkpoints.close()
        return rows


def evaluation(scale: Scale) -> Rows:
    """The validation split under each class."""
    rows = []
    with trial(scale.small, 2, images=scale.evaluated) as run:
        for bf16 in (False, True):
            look = partial(evaluate, run.model, run.dataset.validation, run.log_prior, batch_size=1024, bf16=bf16)
            times = [timed(look) for _ in range(1 if scale.toy else 3)]
            rows.append({"bf16": bf16, "images": scale.evaluated, "seconds": fastest([t for t, _ in times]).wall})
    return rows


# --- several trials at once ---


def side_by_side(scale: Scale) -> Rows:
    """Optimizer steps per second of all trials together: processes of their own, as they are and under MPS."""
    return [*_at_once(scale, {}, "processes"), *_under_mps(scale)]


def _at_once(scale: Scale, variables: Mapping[str, str], how: str) -> Rows:
    rows = []
    for sizes, batch in scale.steps[:2]:
        for count in scale.at_once:
            asked = json.dumps({"sizes": sizes, "batch": batch, "seconds": scale.seconds})
            command = [sys.executable, "-m", "benchmarks.gpu", _SIDE_BY_SIDE, asked]
            processes = [
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables
                )
                for _ in range(count)
            ]
            try:
                rates = _rates(processes)
            finally:
                for process in processes:
                    process.kill()
                    process.communicate()
            rows.append({"how": how, "config": "/".join(map(str, sizes)), "trials": count, "steps_per_s": sum(rates)})
    return rows


def _rates(processes: Sequence[subprocess.Popen[str]]) -> list[float]:
    """Let them begin together once all are ready. Raise RuntimeError where one ended before."""
    for process in processes:
        if _line(process) != "ready":
            raise RuntimeError(f"one of {len(processes)} trials at once did not begin; its error is above")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(_line(process)) for process in processes]


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _take_steps(sizes: Sizes, batch: int, seconds: float) -> None:
    """Be one of the trials: say when ready, wait for the word, and say how many steps a second it took."""
    with trial(sizes, batch) as run:
        chosen = torch.arange(batch, device=run.device)
        for _ in range(3):
            run.optimize(chosen)
        run.wait()
        print("ready", flush=True)
        sys.stdin.readline()
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            run.optimize(chosen)
            done += 1
        run.wait()
        print(done / (time.perf_counter() - started), flush=True)


def _under_mps(scale: Scale) -> Rows:
    """The same under NVIDIA's Multi-Process Service, whose daemon is started here and ended again; it needs no root."""
    daemon = shutil.which("nvidia-cuda-mps-control")
    if daemon is None or not torch.cuda.is_available():
        return [{"how": "MPS", "error": "no nvidia-cuda-mps-control here" if daemon is None else "no GPU here"}]
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        with_places = os.environ | places
        subprocess.run([daemon, "-d"], check=True, env=with_places)
        try:
            return _at_once(scale, places, "MPS")
        finally:
            subprocess.run([daemon], input="quit\n", text=True, check=False, env=with_places, timeout=60)


def packing(scale: Scale) -> Rows:
    """What the steps of a trial take of the device's memory, and how many fit into what is free."""
    rows = []
    for sizes, batch in scale.steps:
        found = step(sizes, batch, 1)
        free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
        taken = found["peak_bytes"]
        context = 600 * 2**20  # of CUDA itself, in every process
        fit = free // (taken + context)
        rows.append({"config": found["config"], "batch": batch, "peak_bytes": taken, "free_bytes": free, "fit": fit})
    return rows


# --- drawing ---


def sampling(scale: Scale) -> Rows:
    """Drawing images: a row's work as one CUDA graph, and call by call."""
    rows = []
    with trial(scale.small, 2) as run:
        model = run.model.eval()
        for count in scale.drawn:
            labels = torch.arange(count, device=run.device) % model.nr_classes
            for how, capture in (("by default", None), ("call by call", call_by_call)):
                draw = partial(sample, model, labels, capture=capture, batch_size=count)
                times = [
                    timed(lambda: draw(generator=torch.Generator().manual_seed(0)))[0]  # noqa: B023 - called here
                    for _ in range(1 if scale.toy else 3)
                ]
                rows.append({"images": count, "how": how, "seconds": fastest(times).wall})
    return rows


def fid(scale: Scale) -> Rows:
    """Drawing and measuring for FID, in the classifier's features, whose training is apart."""
    per_class = 2 if scale.toy else 25
    asked = {"eval.fid_every": 1, "eval.fid_extractor": "classifier", "eval.fid_images_per_class": per_class}
    started = time.perf_counter()
    with trial(scale.small, 2, asked, images=max(8, scale.evaluated)) as run:
        made = time.perf_counter() - started
        assert run.evaluator is not None
        drawing, drawn = timed(partial(quality.draw, run.model.eval(), per_class, seed=0))
        measuring, _ = timed(partial(run.evaluator.measure, drawn, seed=0))
    return [{"extractor_seconds": made, "drawing_seconds": drawing.wall, "measuring_seconds": measuring.wall}]


@dataclass(frozen=True)
class Part:
    """Something to find out."""

    find: Callable[[Scale], Rows]
    seconds: float  # after which its process is ended


PARTS: Mapping[str, Part] = {
    **{
        f"correct_{check}": Part(partial(correct, check), 180)
        for check in ("float32", "fusions", "bf16", "captured", "steps", "resumed", "memory")
    },
    "steps": Part(steps, 240),
    "side_by_side": Part(side_by_side, 420),
    "epoch": Part(epoch, 300),
    "correct_compiled": Part(partial(correct, "compiled"), 180),
    "compiled_steps": Part(compiled_steps, 300),
    "evaluation": Part(evaluation, 120),
    "sampling": Part(sampling, 120),
    "fid": Part(fid, 120),
    "packing": Part(packing, 180),
}


def measured(name: str, *, toy: bool, apart: bool) -> Rows:
    """What a part finds, in a process of its own or here. Raise what goes wrong."""
    if not apart:
        # What would be compiled is run as it is: the compiler takes minutes on a busy machine.
        with torch.compiler.set_stance("force_eager" if toy else "default"):
            return PARTS[name].find(Scale.of_toy() if toy else Scale(toy=False))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            "--part",
            name,
            "--out",
            str(out),
            *(["--toy"] if toy else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PARTS[name].seconds)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["nothing said"]
            raise RuntimeError(f"ended with exit code {done.returncode}: {last[0]}")
        rows: Rows = json.loads(out.read_text())
        return rows


def of_machine() -> dict[str, Any]:
    """What was measured, and by what."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "gpu": None if gpu is None else gpu.name,
        "gpu_bytes": None if gpu is None else gpu.total_memory,
        "capability": None if gpu is None else f"{gpu.major}.{gpu.minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def _read(out: Path) -> dict[str, Any]:
    """What an earlier run found; nothing of another machine, whose figures are set aside under another name."""
    if not out.exists():
        return {"machine": of_machine(), "parts": {}}
    found: dict[str, Any] = json.loads(out.read_text())
    if found["machine"] != of_machine():
        out.rename(out.with_name(f"{out.stem}-{time.time_ns()}{out.suffix}"))
        return {"machine": of_machine(), "parts": {}}
    return found


def _write(out: Path, content: object) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(out)


@app.command()
def main(
    toy: Annotated[
        bool, typer.Option("--toy", help="The smallest sizes, in this process: no figures, all paths.")
    ] = False,
    minutes: Annotated[float, typer.Option(help="No part begins after so many.")] = 20,
    only: Annotated[list[str] | None, typer.Option(help="One of the parts; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what the file has already, too.")] = False,
    part: Annotated[str | None, typer.Option(hidden=True, help="Be the process of a part.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file.")] = Path("results/benchmarks/gpu.json"),
) -> None:
    """Find out each part, and write the file after each. Exit code 1 where one failed."""
    if unknown := {*(only or ()), *([part] if part else [])} - set(PARTS):
        raise typer.BadParameter(f"{min(unknown)}: there are {', '.join(PARTS)}", param_hint="--only")
    if part is not None:
        _write(out, measured(part, toy=toy, apart=False))
        return
    console, found, until = Console(width=140), _read(out), time.monotonic() + 60 * minutes
    parts = found["parts"]
    for name in only or PARTS:
        if "found" in parts.get(name, {}) and not again:
            continue
        if time.monotonic() > until:
            parts[name] = {"error": f"not begun: {minutes:g} minutes were over; the same command goes on"}
            continue
        started = time.perf_counter()
        try:
            parts[name] = {"found": measured(name, toy=toy, apart=not toy)}
        except Exception as error:  # noqa: BLE001 - the others say what they say all the same
            parts[name] = {"error": f"{type(error).__name__}: {error}"}
        parts[name]["seconds"] = round(time.perf_counter() - started, 1)
        _write(out, found)
        console.print(f"{name}, {parts[name]['seconds']} s: {parts[name].get('error', 'done')}", highlight=False)
    _write(out, found)
    for name in only or PARTS:
        _show(console, name, parts[name])
    if any("error" in parts[name] for name in only or PARTS):
        raise typer.Exit(1)


def _show(console: Console, name: str, found: Mapping[str, Any]) -> None:
    """A table of what a part found."""
    rows = found.get("found", [{"error": found.get("error")}])
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "figures"))
    table = Table(*columns, title=f"{name}, {machine()}")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console.print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == [_SIDE_BY_SIDE]:
        given = json.loads(sys.argv[2])
        _take_steps(tuple(given["sizes"]), given["batch"], given["seconds"])
    else:
        app()
