"""One trial in this process: the core's training loop, tied to the results store. Free of Ray."""

from __future__ import annotations

import bdb
import errno
import importlib
import logging
import multiprocessing
import os
import platform
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cpcnn_core import devices
from cpcnn_core.config import DataConfig, TrialConfig
from cpcnn_core.errors import PreemptedError
from cpcnn_core.metrics import EpochMetrics
from orchestrator.objectives.objective import Objective
from orchestrator.records import alone, mirror
from orchestrator.records.lease import Lease, LeaseLostError
from orchestrator.records.mirror import TrialBusyError as TrialBusyError
from orchestrator.records.recording import Place
from orchestrator.records.store import Store

if TYPE_CHECKING:
    from cpcnn_core.data import Dataset
    from cpcnn_core.evaluation import Evaluation
    from cpcnn_core.quality import Drawn

logger = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
Preempted = Callable[[], bool]  # whether this process, or its machine, is about to be taken away
Score = Callable[[EpochMetrics], tuple[float | None, str | None]]  # an objective's: the score, or why there is none

EXTRACTOR = "eval.fid_extractor"
DIGEST = "data.digest"
TRAINER = "orchestrator.training.trainer:train"

_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN}
_ORPHAN_SECONDS = 120  # a process whose driver was killed dies within an epoch at most, usually within a second


class Trainer(Protocol):
    """Trains one trial; `train` below, or a simulation of it."""

    def __call__(
        self,
        config: TrialConfig,
        store: Store,
        *,
        reported: int,
        on_progress: OnProgress | None,
        score: Score | None,
        preempted: Preempted,
    ) -> Iterator[EpochMetrics]:
        """Yield the metrics of each epoch after the first `reported` ones, its checkpoint in the store's training
        folder, its predictions in the store. Raise PreemptedError within an epoch where it is `preempted`, the training
        state committed; a Trainer that cannot is asked to end by whoever runs it, after the epoch.
        """


def train(
    config: TrialConfig,
    store: Store,
    *,
    reported: int,
    on_progress: OnProgress | None = None,
    score: Score | None = None,
    preempted: Preempted = lambda: False,
) -> Iterator[EpochMetrics]:
    """The Trainer that trains: `cpcnn_core.train.fit`, its checkpoints and predictions in the store."""
    # Imported here: readers of results and simulated trials do without torch, which takes seconds to import.
    import torch

    from cpcnn_core import environment
    from cpcnn_core.train import fit

    def keep(epoch: int, evaluation: Evaluation) -> None:
        keep_predictions(store, config.trial_id, epoch, evaluation)

    def keep_drawn(epoch: int, drawn: Drawn) -> None:
        store.write_samples(config.trial_id, epoch, drawn.write_grid)

    if config.train.compile:
        torch.compiler.reset()  # after eight networks torch would compile no more, and say so in its log alone
    devices.begin_memory(devices.here())
    yield from fit(
        config,
        dataset(config.data),
        store.training_folder(config.trial_id),
        accelerator=environment.accelerator(anew=True),  # a process that is used again has that of the trial before
        reported=reported,
        on_evaluation=keep,
        on_drawn=keep_drawn,
        on_progress=on_progress,
        score=score,
        preempted=preempted,
    )
    if torch.distributed.is_initialized():  # the process was one of several
        torch.distributed.destroy_process_group()


def follow(config: TrialConfig, store: Store, preempted: Preempted) -> None:
    """Train this process's share of a trial that the first process of a rendezvous records. Raise PreemptedError."""
    reported = store.reported_epochs(config)
    if reported < config.train.epochs:  # else that one does not train
        for _ in train(config, store, reported=reported, preempted=preempted):
            pass


def keep_predictions(store: Store, trial_id: str, epoch: int, evaluation: Evaluation) -> None:
    """Write what the evaluation says of every image."""
    store.write_predictions(
        trial_id,
        epoch,
        images=evaluation.names,
        labels=evaluation.labels.tolist(),
        log_likelihood=evaluation.log_likelihood.numpy(),
    )


def named(name: str) -> Trainer:
    """The Trainer called `module:function`, so that its name can travel to another process."""
    module, _, function = name.partition(":")
    trainer: Trainer = getattr(importlib.import_module(module), function)
    return trainer


def run(
    config: TrialConfig,
    store: Store,
    trainer: Trainer,
    *,
    objective: Objective | None = None,
    on_begin: Callable[[Store], None] | None = None,
    on_progress: OnProgress | None = None,
    preempted: Preempted = lambda: False,
) -> Generator[EpochMetrics]:
    """Train a trial from wherever it stands, the only one in its checkpoint folder. Raise TrialBusyError.

    Where it is `preempted`, its state is saved wherever its checkpoints go, and PreemptedError raised.

    Where `objective` combines metrics, each epoch has its `score`, which also says which weights are worth keeping.
    `on_begin` is called once nobody else can be training the trial any more, with the store to write to: it refuses to
    once somebody else does.
    """
    with _alone(store, config.trial_id) as store:
        if on_begin is not None:
            on_begin(store)
        with mirror.opened(store, config.trial_id) as mirrored:
            reported = store.reported_epochs(config)
            logger.info("trial %s, after %d reported epochs: %s", config.trial_id, reported, config.flat())
            score = None if objective is None else objective.score
            kept_in = store if mirrored is None else mirrored.store
            epochs = trainer(
                config, kept_in, reported=reported, on_progress=on_progress, score=score, preempted=preempted
            )
            # Processes that train end before the lock is given up, and not when somebody collects garbage.
            with closing(epochs) if isinstance(epochs, Generator) else nullcontext():
                try:
                    for metrics in _until(preempted, epochs, config.train.epochs):
                        logger.info("epoch %d: %s", metrics.epoch, metrics.row())
                        if mirrored is not None:
                            mirrored.publish(last=metrics.epoch >= config.train.epochs)
                        yield metrics
                except PreemptedError:
                    if mirrored is not None:
                        mirrored.publish(last=True)
                    raise


def _until(preempted: Preempted, epochs: Iterable[EpochMetrics], last: int) -> Iterator[EpochMetrics]:
    """The epochs, up to the last one; after another one PreemptedError where it is `preempted`."""
    for metrics in epochs:
        yield metrics
        if preempted() and metrics.epoch < last:
            raise PreemptedError(f"epoch {metrics.epoch} is finished")


def dataset(config: DataConfig) -> Dataset:
    """The data set, loaded once per process. Raise DataError, also where it is not the one of `config.digest`."""
    found = _loaded(config.model_copy(update={"digest": None}))
    found.check_digest(config.digest)
    return found


@lru_cache(maxsize=2)
def _loaded(config: DataConfig) -> Dataset:
    from cpcnn_core.data import load

    return load(config)


@dataclass(frozen=True)
class Content:
    """What a sweep's record says of its data."""

    digest: str | None  # stands for its content
    class_names: tuple[str, ...] = ()  # none where the data is out of reach


def content(config: DataConfig) -> Content:
    """What the data is. Raise DataError."""
    found = dataset(config)
    return Content(found.digest, found.class_names)


def digest(config: DataConfig) -> str | None:
    """What stands for the content of the data. Raise DataError."""
    return content(config).digest


def identified(config: TrialConfig) -> TrialConfig:
    """The config with the digest of its data, which is part of what the trial is. Raise DataError."""
    return config.with_settings({DIGEST: digest(config.data)})


def with_one_extractor(config: TrialConfig) -> TrialConfig:
    """The config with `eval.fid_extractor=auto`, where FID is measured, replaced by what it is on this machine now."""
    if not config.eval.fid_every or config.eval.fid_extractor != "auto":
        return config
    from cpcnn_core.features import resolve

    weights = config.eval.fid_weights
    return config.with_settings({EXTRACTOR: resolve("auto", None if weights is None else Path(weights))})


def check(config: TrialConfig) -> None:
    """Load the data and see that the trial fits it; make what its FID is measured with, once for all trials.

    Raise DataError or ConfigError.
    """
    from cpcnn_core.train import check_fits

    check_fits(config, dataset(config.data))
    if not config.eval.fid_every:
        return
    if device_of_features(config) == "cpu":
        make_references(config)
        return
    # A process of its own: the GPU's memory is given back, and the GPU is left to the trials.
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(make_references, config).result()


def device_of_features(config: TrialConfig) -> str:
    """Where the features of real images are computed: on the GPU where they are Inception's, which is large."""
    return device() if config.eval.fid_extractor != "classifier" else "cpu"


def make_references(config: TrialConfig) -> None:
    """Compute the features that images drawn are to be compared with, and keep them in the cache. Raise as `check`."""
    from cpcnn_core.quality import evaluator

    evaluator(config, dataset(config.data), device_of_features(config))


def check_each(configs: Iterable[TrialConfig]) -> None:
    """See that each of a space's configurations fits its data: the largest batch of each. Raise as `check`."""
    from cpcnn_core.train import check_fits

    largest: dict[DataConfig, TrialConfig] = {}
    for config in configs:
        known = largest.setdefault(config.data, config)
        if config.train.batch_size > known.train.batch_size:
            largest[config.data] = config
    for config in largest.values():
        check_fits(config, dataset(config.data))


def fid_protocol(config: TrialConfig) -> tuple[str, int, str] | None:
    """What the trial's FID will be measured with: features, number of images, real ones; None where it will not be."""
    from cpcnn_core.quality import evaluator

    if not config.eval.fid_every:
        return None
    data = dataset(config.data)
    found = evaluator(config, data)
    return found.reference.extractor, config.eval.fid_images_per_class * data.nr_classes, found.reference.name


def device() -> str:
    """What weights are evaluated on here: a GPU, which `place` then names, or the CPU."""
    return devices.here().type


def place() -> Place:
    """Where this process trains."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else str(accelerator or "cpu")
    return Place(host=platform.node(), device=device, pid=os.getpid(), threads=torch.get_num_threads())


def set_threads(count: int) -> None:
    """Let torch use `count` threads, the trial's share of the cores."""
    import torch

    torch.set_num_threads(max(1, count))


@contextmanager
def log_to(path: Path, *, redirect: bool = True) -> Generator[None]:
    """Append what is logged to the file at `path`, and with `redirect` also what is printed and warned of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace"))
        if redirect:
            stack.enter_context(redirect_stdout(stream))
            stack.enter_context(redirect_stderr(stream))
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        stack.callback(root.setLevel, root.level)
        root.setLevel(logging.INFO)
        root.addHandler(handler)
        stack.callback(root.removeHandler, handler)
        yield


def describe(error: BaseException) -> str:
    """One line for the table: what kind of error, and what it says."""
    if isinstance(error, bdb.BdbQuit):  # of a process without a terminal; by hand it is no error
        return "BdbQuit: a breakpoint stopped where nobody can type; the `trial` command runs one on your terminal"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_storage_failure(error: BaseException) -> bool:
    """Whether the storage, and not the trial, is to blame: it is full, read-only or out of reach."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _STORAGE:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def _alone(store: Store, trial_id: str) -> Iterator[Store]:
    """Be the only process that trains the trial; yield the store that refuses to write once another one does."""
    # The lock goes with the process, however it ends, so it never has to be broken.
    file = store.local_mirror / "checkpoints" / f"{trial_id}.lock"
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(alone.alone(file, wait=_ORPHAN_SECONDS))
        except alone.BusyError as busy:
            raise TrialBusyError(
                f"{file} is held ({busy}): another process has been training trial {trial_id} for {_ORPHAN_SECONDS} s; "
                "end it, or wait for it"
            ) from None
        yield store if lease is None else stack.enter_context(store.fenced(partial(_check, lease, trial_id)))


def _check(lease: Lease, trial_id: str) -> None:
    """Raise TrialBusyError where somebody else trains the trial."""
    try:
        lease.check()
    except LeaseLostError as error:
        raise TrialBusyError(f"another process trains trial {trial_id} now: {error}") from None
