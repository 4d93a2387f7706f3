"""Stand-ins for what is slow: metrics without a model, trials without training."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpcnn_core.config import TrialConfig
from cpcnn_core.files import write_atomically
from cpcnn_core.metrics import EpochMetrics
from orchestrator.machines.resources import Share
from orchestrator.objectives.objective import Objective
from orchestrator.records.mirror import INDEX
from orchestrator.records.store import Store
from orchestrator.training.trainer import OnProgress, Preempted, Score
from orchestrator.tune.assignment import Assignment

if TYPE_CHECKING:
    from orchestrator.records.states import State
    from orchestrator.search.ledger import Best


class NoView:
    """Nobody watches the sweep."""

    def note(self, text: str) -> None: ...
    def stage(self, text: str) -> None: ...
    def resumed(self, finished: int, best: Best | None) -> None: ...
    def started(self, number: int, config: TrialConfig) -> None: ...
    def epoch(self, number: int, config: TrialConfig, metrics: EpochMetrics, value: float | None) -> None: ...
    def ended(self, number: int, config: TrialConfig, state: State, value: float | None, error: str | None) -> None: ...


def metrics(epoch: int, **changes: object) -> EpochMetrics:
    """Plausible metrics of an epoch, the newest weights kept."""
    made = EpochMetrics(
        epoch=epoch,
        step=10 * epoch,
        lr=1e-3,
        train_loss=3.0 / epoch,
        train_bpd=3.0 / epoch,
        train_acc=0.5,
        val_bpd=3.2 / epoch,
        val_acc=1 - 0.5 / epoch,
        val_f1=0.5,
        val_class_nll=1.0,
        val_ece=0.1,
        val_temperature=2.0,
        val_ece_calibrated=0.05,
        grad_norm=1.0,
        seconds=0.01,
        train_seconds=0.01,
        compile_seconds=0.0,
        eval_seconds=0.0,
        images_per_second=1e4,
        peak_memory_bytes=2**20,
        micro_batch=32,
        checkpoint=f"weights-{epoch:04d}.safetensors",
        kept_epochs=(epoch,),
        extra={},
    )
    return made.replaced(**changes)


def assignment(folder: Path, *, number: int = 0, gpus: float = 0.0, mps: bool = False) -> Assignment:
    """A trial for a process to run, of a sweep in the folder."""
    return Assignment(
        number=number,
        config=TrialConfig(),
        folder=folder,
        log=folder / "log",
        share=Share(cpus=1, gpus=gpus, concurrent=1),
        extra={},
        processes=1,
        trainer=f"{__name__}:train",
        objective=Objective("val_acc", "max"),
        stall_seconds=0.0,
        mps=mps,
    )


SECONDS = "CPCNN_FAKE_SECONDS"  # environment: how long an epoch takes
HOLD_FROM = "CPCNN_FAKE_HOLD_FROM"  # environment: the epoch that lasts until its process is killed
GATE = "CPCNN_FAKE_GATE"  # environment: a file that must be there before a second epoch ends
# Values of model.nr_filters under which a trial's second epoch goes wrong; no test that wants it to go well uses them.
RAISES, DIES, DIES_ONCE, HANGS_ONCE, LOSES_GPU_ONCE = 13, 14, 15, 7, 5


class AcceleratorError(RuntimeError):
    """What torch calls an error after which nothing more can be computed in the process."""


def train(
    config: TrialConfig,
    store: Store,
    *,
    reported: int,
    on_progress: OnProgress | None = None,
    score: Score | None = None,
    preempted: Preempted = lambda: False,  # it ends after an epoch, as whoever runs it asks
) -> Iterator[EpochMetrics]:
    """A Trainer that sleeps, and keeps what a real one would: a history to resume from, predictions, weights' files.

    Every epoch that it goes through is a line of `trained.txt`, so that a test can tell which ones were trained twice.
    """
    folder = store.training_folder(config.trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / INDEX
    history = json.loads(state.read_text())["history"] if state.exists() else []
    for epoch in history[reported:]:
        yield _measured(config, epoch, score)
    for epoch in range(len(history) + 1, config.train.epochs + 1):
        if HOLD_FROM in os.environ and epoch >= int(os.environ[HOLD_FROM]):
            hang()
        while epoch > 1 and GATE in os.environ and not Path(os.environ[GATE]).exists():
            time.sleep(0.05)
        time.sleep(float(os.environ.get(SECONDS, "0")))
        if epoch == 2 and config.model.nr_filters == RAISES:
            raise ValueError("a bad\nconfiguration")
        died = store.local_mirror / f"{config.trial_id}.died"
        first = not died.exists()
        if epoch == 2 and (config.model.nr_filters == DIES or (config.model.nr_filters == DIES_ONCE and first)):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch == 2 and config.model.nr_filters == LOSES_GPU_ONCE and first:
            died.touch()
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        if epoch == 2 and config.model.nr_filters == HANGS_ONCE and first:
            died.touch()
            hang()
        with (store.local_mirror / "trained.txt").open("a") as log:
            log.write(f"{config.trial_id} {epoch} {os.getpid()} {torch_threads()}\n")
        print(f"training epoch {epoch}")  # noqa: T201 - it belongs into the log
        store.write_predictions(config.trial_id, epoch, images=["a"], labels=[0], log_likelihood=[[-1.0, -2.0]])
        history = [*history, epoch]
        commit(folder, history, files=store.is_remote)
        yield _measured(config, epoch, score)


def commit(folder: Path, history: list[int], *, files: bool = True) -> None:
    """Commit an epoch as the core does: weights of every epoch, states of two, the index that names them last."""
    index: dict[str, Any] = {"history": history, "weights": {}, "states": {}}
    if files:
        for epoch in history:
            _write(folder / f"weights-{epoch:04d}.safetensors", f"weights {epoch}".encode() * 100)
            index["weights"][f"weights-{epoch:04d}.safetensors"] = sha256(f"weights {epoch}".encode() * 100).hexdigest()
        for epoch in history[-2:]:
            _write(folder / f"state-{epoch:08d}.pt", f"state {epoch}".encode() * 400)
            held = {"sha256": sha256(f"state {epoch}".encode() * 400).hexdigest(), "epoch": epoch}
            index["states"][f"state-{epoch:08d}.pt"] = held
    _write(folder / INDEX, json.dumps(index).encode())
    for file in folder.glob("state-*.pt"):
        if file.name not in index["states"]:
            file.unlink()


def _write(path: Path, content: bytes) -> None:
    if path.name == INDEX or not path.exists():
        write_atomically(path, lambda stream: stream.write(content))


def hang() -> None:
    """What a watchdog finds in the stack."""
    time.sleep(10_000)


def _measured(config: TrialConfig, epoch: int, score: Score | None) -> EpochMetrics:
    # The best learning rate is 1e-3, and more filters are better for the accuracy and worse for the FID.
    value = 1 / (1 + abs(math.log10(config.train.lr) + 3)) * (1 - 1 / config.model.nr_filters) * (1 - 0.5 / epoch)
    fid = config.model.nr_filters + 40.0 / epoch if config.eval.fid_every else None
    made = metrics(epoch, val_acc=value, fid=fid, kept_epochs=tuple(range(1, epoch + 1)))
    worth, error = (None, None) if score is None else score(made)
    return made.replaced(score=worth, score_error=error)


def torch_threads() -> int:
    """How many threads torch would use here."""
    import torch

    return torch.get_num_threads()
