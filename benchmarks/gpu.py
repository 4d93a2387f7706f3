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
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks import side_by_side
from benchmarks.timing import device, fastest, machine, timed
from benchmarks.training import trial
from cpcnn_core import device_checks, devices, quality
from cpcnn_core.evaluate import evaluate
from cpcnn_core.graphs import call_by_call
from cpcnn_core.memory import CONTEXT_BYTES
from cpcnn_core.sampling import sample
from cpcnn_core.train import Run

Sizes = tuple[int, int, int]
Rows = Generator[dict[str, Any]]

TRAIN_IMAGES, EVALUATED = 4159, 519  # the course's splits
STAGES = ("training", "state", "validation", "train_subset", "test", "diagnostics", "images", "weights")  # of an epoch
_GRACE_SECONDS = 30.0  # in which a part that is ended may end what it started
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
        return cls(True, ((tiny, 2),), tiny, tiny, 2, (1, 2), 0.2, 8, 4, (2,))


# --- is it right? ---


def correct(check: str, _: Scale) -> Rows:
    """One of the checks. Raise AssertionError where it is not right."""
    found = device_checks.CHECKS[check](device())
    assert found.fine, found.said
    yield asdict(found)


# --- how fast is a step? ---


def step(sizes: Sizes, batch: int, turns: int, settings: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The time of a training step, how long the device works in it, and by how many kernels (on a CPU, calls)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with trial(sizes, batch, settings) as run:
        chosen = torch.arange(batch, device=run.device)
        first, _ = timed(partial(run.optimize, chosen))
        for _ in range(2):
            run.optimize(chosen)
        together = min(turns, 10)
        took = fastest(
            [timed(lambda: [run.optimize(chosen) for _ in range(together)])[0] for _ in range(max(1, turns // 10))]
        )
        busy, kernels = worked(partial(run.optimize, chosen), run)
        return {
            "config": "/".join(map(str, sizes)),
            "batch": batch,
            **(settings or {}),
            "first_seconds": first.wall,
            "step_ms": took.wall * 1e3 / together,
            "busy_ms": busy * 1e3,
            "kernels": kernels,
            "peak_bytes": devices.peak_memory(run.device),
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
    for sizes, batch in scale.steps:
        for precision in ("fp32", "bf16"):
            yield step(sizes, batch, scale.turns, {"train.precision": precision})


def compiled_steps(scale: Scale) -> Rows:
    """Of the smallest size, compiled."""
    sizes, batch = scale.steps[0]
    for precision in ("fp32", "bf16"):
        yield step(sizes, batch, scale.turns, {"train.precision": precision, "train.compile": True})


# --- an epoch ---


def epoch(scale: Scale) -> Rows:
    """The shares of two epochs at the large size, by how images are scored.

    In the first one graphs are captured, and caches filled; the second is the last, in which test images are scored.
    """
    asked: dict[str, object] = {"eval.fid_every": 1, "eval.fid_extractor": "classifier"}
    asked |= {"train.precision": "bf16", "train.epochs": 2}
    asked |= {"eval.fid_images_per_class": 2, "eval.train_images": 4} if scale.toy else {}
    for precision, batch_size in (("fp32", 128), ("bf16", 128), ("bf16", 512)):
        scoring = {"eval.precision": precision, "eval.batch_size": batch_size}
        settings, batch = asked | scoring, min(16, scale.images)
        with trial(scale.large, batch, settings, images=scale.images, evaluated=scale.evaluated) as run:
            for _ in range(2):
                yield {"config": "/".join(map(str, scale.large)), **scoring, **_shares_of_epoch(run)}
            run.checkpoints.close()


def _shares_of_epoch(run: Run) -> dict[str, float]:
    """Train an epoch: its seconds, and the shares of them that each stage takes. What is in none is `other`."""
    started = time.perf_counter()
    metrics = run.train_epoch(on_evaluation=None, on_drawn=None, on_progress=lambda *_: None)
    seconds = time.perf_counter() - started
    took = {"training": metrics.train_seconds} | run.stages.seconds
    shares = {name: took.get(name, 0.0) / seconds for name in STAGES}
    rest = 1 - sum(took.values()) / seconds
    return {"epoch_seconds": seconds, **shares, "other": rest, "images_per_second": metrics.images_per_second}


def evaluation(scale: Scale) -> Rows:
    """The validation split under each class."""
    with trial(scale.small, 2, images=scale.evaluated) as run:
        for bf16 in (False, True):
            look = partial(evaluate, run.model, run.dataset.validation, run.log_prior, batch_size=1024, bf16=bf16)
            times = [timed(look) for _ in range(1 if scale.toy else 3)]
            yield {"bf16": bf16, "images": scale.evaluated, "seconds": fastest([t for t, _ in times]).wall}


# --- several trials at once ---


def at_once(scale: Scale) -> Rows:
    """Optimizer steps per second of all trials together: processes of their own, as they are and under MPS."""
    asked = scale.steps[:2], scale.at_once, scale.seconds
    yield from side_by_side.rows(*asked, {}, "processes")
    yield from side_by_side.under_mps(*asked)


def packing(scale: Scale) -> Rows:
    """What the steps of a trial take of the device's memory, and how many fit into what is free."""
    for sizes, batch in scale.steps:
        found = step(sizes, batch, 1)
        free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
        taken = found["peak_bytes"]
        fit = free // (taken + CONTEXT_BYTES)
        yield {"config": found["config"], "batch": batch, "peak_bytes": taken, "free_bytes": free, "fit": fit}


# --- drawing ---


def sampling(scale: Scale) -> Rows:
    """Drawing images: a row's work as one CUDA graph, and call by call."""
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
                yield {"images": count, "how": how, "seconds": fastest(times).wall}


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
    yield {"extractor_seconds": made, "drawing_seconds": drawing.wall, "measuring_seconds": measuring.wall}


@dataclass(frozen=True)
class Part:
    """Something to find out."""

    find: Callable[[Scale], Rows]
    seconds: float  # after which its process is ended


PARTS: Mapping[str, Part] = {
    **{
        f"correct_{check}": Part(partial(correct, check), 180)
        for check in ("float32", "fusions", "bf16", "captured", "steps", "evaluation", "resumed", "memory")
    },
    "steps": Part(steps, 240),
    "side_by_side": Part(at_once, 420),
    "epoch": Part(epoch, 300),
    "correct_compiled": Part(partial(correct, "compiled"), 180),
    "compiled_steps": Part(compiled_steps, 300),
    "evaluation": Part(evaluation, 120),
    "sampling": Part(sampling, 120),
    "fid": Part(fid, 120),
    "packing": Part(packing, 180),
}


def measured(name: str, *, toy: bool) -> Rows:
    """What a part finds, here, row by row. Raise what goes wrong."""
    # What would be compiled is run as it is: the compiler takes minutes on a busy machine.
    with torch.compiler.set_stance("force_eager" if toy else "default"):
        yield from PARTS[name].find(Scale.of_toy() if toy else Scale(toy=False))


def found_here(name: str, out: Path, *, toy: bool) -> None:
    """Be the process of a part: write each row as it comes, so that what ends the part leaves them."""
    rows: list[dict[str, Any]] = []
    _write(out, rows)
    with closing(measured(name, toy=toy)) as found:
        for row in found:
            rows.append(row)
            _write(out, rows)


def outcome(name: str, *, toy: bool, apart: bool, seconds: float) -> dict[str, Any]:
    """What a part found in so many seconds at the most, by a process of its own or here, and the error if there is one.

    A row with an error of its own is a row; the part has failed all the same, and is tried again later.
    """
    error: str | None = None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        try:
            if apart:
                _in_process(name, out, toy=toy, seconds=min(seconds, PARTS[name].seconds))
            else:
                found_here(name, out, toy=toy)
        except Exception as raised:  # noqa: BLE001 - the others say what they say all the same
            error = f"{type(raised).__name__}: {raised}"
        rows = json.loads(out.read_text()) if out.exists() else []
    if error is None and (failed := [row["error"] for row in rows if "error" in row]):
        error = f"{len(failed)} of {len(rows)} rows failed, the first with {failed[0]}"
    return ({"error": error} if error is not None else {}) | ({"found": rows} if rows or error is None else {})


def _in_process(name: str, out: Path, *, toy: bool, seconds: float) -> None:
    """Have a process of its own find a part. Raise RuntimeError where it fails, TimeoutError where it is not done."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--out", str(out), *(["--toy"] if toy else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"not done in {seconds:.3g} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        last = said.strip().splitlines()[-1:] or ["nothing said"]
        raise RuntimeError(f"ended with exit code {process.returncode}: {last[0]}")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that still runs: it ends what it started (trials, MPS's daemon), unless that takes too long."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.communicate(timeout=_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


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


def _read(out: Path, *, toy: bool) -> dict[str, Any]:
    """What an earlier run of this kind found here; figures of another machine, or of a toy, are set aside."""
    this: dict[str, Any] = {"machine": of_machine(), "toy": toy}
    if out.exists():
        found: dict[str, Any] = json.loads(out.read_text())
        if {name: found.get(name) for name in this} == this:
            return found
        out.rename(out.with_name(f"{out.stem}-{time.time_ns()}{out.suffix}"))
    return this | {"parts": {}}


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
    minutes: Annotated[float, typer.Option(help="What is not done by then is ended, or not begun.")] = 20,
    only: Annotated[list[str] | None, typer.Option(help="One of the parts; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what the file has already, too.")] = False,
    part: Annotated[str | None, typer.Option(hidden=True, help="Be the process of a part.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The JSON file.", show_default="results/benchmarks/gpu.json, of a toy gpu-toy.json"),
    ] = None,
) -> None:
    """Find out each part, and write the file after each. Exit code 1 where one failed."""
    if unknown := {*(only or ()), *([part] if part else [])} - set(PARTS):
        raise typer.BadParameter(f"{min(unknown)}: there are {', '.join(PARTS)}", param_hint="--only")
    out = out or Path("results/benchmarks") / ("gpu-toy.json" if toy else "gpu.json")
    if part is not None:
        found_here(part, out, toy=toy)
        return
    console, found, until = Console(width=140), _read(out, toy=toy), time.monotonic() + 60 * minutes
    parts = found["parts"]
    for name in only or PARTS:
        if "found" in parts.get(name, {}) and "error" not in parts[name] and not again:
            continue
        left = until - time.monotonic()
        if left <= 0:
            parts[name] = {"error": f"not begun: {minutes:g} minutes were over; the same command goes on"}
            continue
        started = time.perf_counter()
        parts[name] = outcome(name, toy=toy, apart=not toy, seconds=left)
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
    rows = found.get("found") or [{"error": found.get("error")}]
    columns = list(dict.fromkeys(column for row in rows for column in row if column != "figures"))
    table = Table(*columns, title=f"{name}, {machine()}")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console.print(table)


def _leave(number: int, _: object) -> None:
    """At SIGTERM, end what was started too."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _leave)
    if sys.argv[1:2] == [side_by_side.WORKER]:
        side_by_side.work(sys.argv[2])
    else:
        app()
