"""The Accelerate training loop: `fit` yields one EpochMetrics per epoch, and resumes where it was killed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cpcnn_core import alarms, determinism, devices, diagnostics, environment, evaluate, graphs, quality, saving, seeds
from cpcnn_core.batches import Batches
from cpcnn_core.checkpoint import CheckpointFolder, build_model
from cpcnn_core.compiling import Regional
from cpcnn_core.config import ConfigError, TrainConfig, TrialConfig
from cpcnn_core.data import Dataset, Split, to_model, to_uint8
from cpcnn_core.errors import CheckpointError, LikelihoodError, PreemptedError, RunError
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.fid import FidError
from cpcnn_core.graphs import Capture
from cpcnn_core.initialise import data_dependent_init
from cpcnn_core.loss import Loss
from cpcnn_core.memory import MicroBatch, is_out_of_memory, release_memory
from cpcnn_core.metrics import EpochMetrics, of_evaluation
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.optim import Average, build_optimizer, build_scheduler, set_lr
from cpcnn_core.paths import Paths
from cpcnn_core.precision import check_float32, emulates_bf16, whole_float32
from cpcnn_core.quality import Drawn
from cpcnn_core.saving import Preempted, Saving, Wanted, never
from cpcnn_core.seeds import Purpose
from cpcnn_core.step import Step, Sums
from cpcnn_core.stopwatch import Stopwatch

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

INIT_IMAGES = 128
WATCHED_IMAGES = 32  # whose activations are looked at after each epoch
SCORING = ("validation", "train_subset", "test")  # the stages in which images are scored under each class
GPU_CHECK_EVERY = 25  # steps between two looks at whether the loss is finite; each look waits for the device


OnProgress = Callable[[str, int, int], None]


class TrainingError(RunError, RuntimeError):
    """Training cannot go on; the message names epoch, step and cause."""


def fit(
    config: TrialConfig,
    dataset: Dataset,
    folder: Path,
    *,
    accelerator: Accelerator | None = None,
    reported: int = 0,
    on_evaluation: Callable[[int, Evaluation], None] | None = None,
    on_drawn: Callable[[int, Drawn], None] | None = None,
    on_progress: OnProgress | None = None,
    score: Callable[[EpochMetrics], tuple[float | None, str | None]] | None = None,
    preempted: Preempted = never,
    capture: Capture | None = None,
) -> Generator[EpochMetrics]:
    """Train the trial that `config` describes, with its checkpoints in `folder`; yield one EpochMetrics per epoch.

    Where `folder` holds a training state, go on from it: on a CPU the result is the same, bit for bit, as without the
    interruption. A trial that continues another one finds there what `CheckpointFolder.begin` put there. Epochs beyond
    `reported`, the last one that was recorded, are yielded again, not trained again. In each epoch that is evaluated
    `on_evaluation` gets (epoch, validation likelihoods), where FID is due `on_drawn` gets (epoch, images), then
    `score` says what the epoch is worth (and why, where that is null), then the checkpoint is committed, then the
    metrics are yielded; all along `on_progress` hears (what is done to images, how many are done, how many there are).
    An epoch longer than `train.save_every_seconds` is committed on the way too. `capture` makes one call of a step's
    many; by default it is `graphs.cuda_graph` on a GPU.

    `preempted` says whether this process, or its machine, is about to be taken away. It is asked before each step, and
    while the epoch is measured. Once it says so, the training state is committed and PreemptedError raised.

    Raise ConfigError where config and data do not fit, or where something around us would change the result: half a
    rendezvous in the environment, an `accelerator` that accumulates or rounds. Raise TrainingError where the loss is
    not finite, PathError where a fast path computes something else than the slow one.
    """
    check_fits(config, dataset)
    accelerator = accelerator or environment.accelerator()
    run = Run(config, dataset, folder, accelerator, score, preempted, capture)
    yield from run.checkpoints.history[max(0, reported - config.lineage.epochs_before) :]
    try:
        while run.epoch < config.train.epochs:
            yield run.train_epoch(
                on_evaluation=on_evaluation, on_drawn=on_drawn, on_progress=on_progress or _no_progress
            )
    finally:
        run.checkpoints.close()


def _no_progress(_stage: str, _done: int, _total: int) -> None:
    pass


def check_fits(config: TrialConfig, dataset: Dataset) -> None:
    """Raise ConfigError where the config asks for what this data set cannot give."""
    if config.source is not None:
        raise ConfigError(f"source: {config.source} is an imported checkpoint, which is evaluated and not trained")
    config.check_protocol()
    dataset.check_digest(config.data.digest)
    if config.train.batch_size > len(dataset.train):
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} is larger than the training split of {len(dataset.train)} "
            f"images; use at most {len(dataset.train)}, or raise data.train_fraction"
        )
    for name, split in (("train", dataset.train), ("validation", dataset.validation)):
        if not split.labelled:
            raise ConfigError(f"data: the {name} split has hidden labels; training and evaluation need all of them")


class Run:
    """A trial in training: everything that a checkpoint must hold."""

    @whole_float32()
    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        folder: Path,
        accelerator: Accelerator,
        score: Callable[[EpochMetrics], tuple[float | None, str | None]] | None = None,
        preempted: Preempted = never,
        capture: Capture | None = None,
    ) -> None:
        environment.check_accelerator(accelerator)
        determinism.prepare()
        self.config = config
        self.score = score
        self.dataset = dataset
        self.accelerator = accelerator
        self.saving = Saving(accelerator, config.train.save_every_seconds, preempted)
        # Of several processes on a CPU, Accelerate numbers the device, as no tensor's is.
        self.device = device = torch.device("cpu") if accelerator.device.type == "cpu" else accelerator.device
        check_float32(device)
        _warn_of_slow_bf16(config, device)
        self.checkpoints = CheckpointFolder(folder, config)
        self.log_prior = evaluate.log_prior(config.eval.prior, dataset.train.labels, dataset.nr_classes)
        self.train_subset = evaluate.fixed_subset(dataset.train, config.eval.train_images, config.seed)
        self.validation = evaluate.scored(dataset.validation, config.eval.max_images)
        self.stages = Stopwatch()  # of the last epoch's end
        self.steps_per_epoch = math.ceil(len(dataset.train) / config.train.batch_size)
        self.world = accelerator.num_processes

        self.epoch = 0  # finished ones
        self.position = 0  # optimizer steps done of the epoch in progress
        self.step = 0
        self.kept_path: tuple[str | None, str | None] = (None, None)  # and note, of the step before this process began
        self.micro = MicroBatch(math.ceil(config.train.batch_size / self.world / config.train.accumulate))

        with determinism.deterministic(config.train.deterministic, strict=False):
            measures = config.eval.fid_every > 0 and accelerator.is_main_process
            self.evaluator = quality.evaluator(config, dataset, device) if measures else None
            self.model = build_model(config, dataset.image_shape, dataset.nr_classes).to(device)
            # Whole splits stay on the device: a batch is a gather, not a transfer.
            images, labels = dataset.train.images.to(device), dataset.train.labels.to(device)
            self.batches = Batches(config, images, labels, self.model, world=self.world)
            state = self._kept_state()
            if state is None and config.train.data_dependent_init:
                self._initialise()
        self.optimizer = build_optimizer(config.train, self.model, dataset.image_shape)
        before = config.lineage.epochs_before, config.lineage.steps_before
        self.scheduler = build_scheduler(config.train, self.optimizer, self.steps_per_epoch, before)
        self.ema = Average(self.model, config.train.ema_decay) if config.train.ema_decay is not None else None
        self.stepper = Step(
            self.model,
            self.optimizer,
            self.ema,
            grad_clip=config.train.grad_clip,
            accelerator=accelerator,
            device=device,
        )
        if state is not None:
            self._load_state_dict(state)
        self._build_paths(capture or graphs.default_capture(device))

    def _build_paths(self, capture: Capture | None) -> None:
        """The loss, as copies of several processes and compiled where that is asked for, and how steps run it."""
        train = self.config.train
        loss = self._loss()
        replicated: nn.Module = loss
        if self.world > 1:
            one = self.batches.draw(torch.zeros(1, dtype=torch.int64, device=self.device), 0).part(0, 1)
            replicated = environment.replicated(self.accelerator, loss, self.stepper.arguments(one))
        self.stepper.replicated = replicated
        self.stepper.objective = Regional(replicated) if train.compile else replicated
        reason = None
        if capture is not None:
            reason = "train.graph is false" if not train.graph else "several processes train it" * (self.world > 1)
        self.capture = None if reason else capture
        self.paths = Paths(
            self.stepper, loss, self.device, capture=self.capture, reason=reason or None, compiled=train.compile
        )
        self.warm = not train.compile and self.capture is None and train.precision == "fp32"  # nothing to compare

    @property
    def micro_batch(self) -> int:
        """How many images go through the network at once."""
        return self.micro.size

    @property
    def sums(self) -> Sums:
        """Sums over the images of the epoch in progress."""
        return self.stepper.sums

    def _kept_state(self) -> dict[str, Any] | None:
        """The training state to go on from. Raise CheckpointError where a trial that continues another has none."""
        if self.world > 1:  # the first process may be about to put it there
            self.accelerator.wait_for_everyone()
        state = self.checkpoints.load_state()
        if state is None and self.config.continues:
            raise CheckpointError(
                f"{self.checkpoints.folder}: the state that trial {self.config.trial_id} was to begin with is missing "
                "or damaged; begin it anew by the command that continues its parent"
            )
        return state

    def _initialise(self) -> None:
        """Set scales and biases by some of the training images."""
        some = seeds.generator(self.config.seed, Purpose.INITIALISATION)
        images, labels = self.batches.images, self.batches.labels
        first = torch.randperm(len(labels), generator=some)[:INIT_IMAGES].to(self.device)
        data_dependent_init(self.model, to_model(images[first]), labels[first])

    def _loss(self) -> Loss:
        """The network and its loss as one module."""
        train = self.config.train
        return Loss(
            self.model,
            self.log_prior.float().to(self.device),  # not every device has float64
            class_weight=train.class_loss_weight,
            class_temperature=train.class_temperature,
            bf16=train.precision == "bf16",
        )

    @whole_float32()
    def train_epoch(
        self,
        *,
        on_evaluation: Callable[[int, Evaluation], None] | None,
        on_drawn: Callable[[int, Drawn], None] | None,
        on_progress: OnProgress,
    ) -> EpochMetrics:
        """Train the rest of the epoch in progress, measure what is due, commit the checkpoint."""
        started = time.perf_counter()
        self.stages.reset()
        N = len(self.batches.labels)
        images_before = min(N, self.position * self.config.train.batch_size)
        deterministic = partial(determinism.deterministic, self.config.train.deterministic)
        with deterministic(strict=True):
            compile_seconds = self._train_steps(on_progress)
        train_seconds = time.perf_counter() - started
        with self.stages.stage("state"):
            self._write_state(commit=False)  # while what follows is measured; nothing of it changes any more
        sums = self.sums.taken()
        if self.world > 1:
            sums = Sums(*(self.accelerator.reduce(total, "sum") for total in sums))

        self.epoch += 1
        self.position = 0
        measured, extra = self._measured(on_evaluation, on_drawn, self._heeding(on_progress))
        seconds = time.perf_counter() - started
        path, note = self._path()
        metrics = EpochMetrics.of(
            measured,
            epoch=self.epoch,
            step=self.step,
            lr=self._lr(),
            train_loss=sums.objective.item() / N,
            train_bpd=sums.bpd.item() / N,
            grad_norm=sums.grad_norm.item() / self.world,  # the same in every replica
            seconds=seconds,
            train_seconds=train_seconds,
            compile_seconds=compile_seconds,
            eval_seconds=seconds - train_seconds,
            images_per_second=(N - images_before) / max(1e-9, train_seconds - compile_seconds),
            peak_memory_bytes=devices.peak_memory(self.device),
            micro_batch=self.micro_batch,
            path=path,
            path_note=note,
            checkpoint=None,
            kept_epochs=(),
            extra=extra | self._stage_norms(sums),
        )
        with self.stages.stage("weights"):
            return self._commit(metrics)

    def _train_steps(self, on_progress: OnProgress) -> float:
        """Take the steps that the epoch in progress still needs, and wait for them; the seconds that the first took."""
        N, batch_size = len(self.batches.labels), self.config.train.batch_size
        self.saving.begin()
        order = self._order().to(self.device)  # once: a copy per step would wait for the step before
        compile_seconds = 0.0
        if self.position == 0 and self.world == 1:
            self.micro.begin_epoch()
        unchecked: list[Tensor] = []
        while self.position < self.steps_per_epoch:
            if wanted := self.saving.wanted():
                if unchecked:
                    self._check_finite(unchecked)
                    unchecked = []
                self._save(wanted)
            step_started = time.perf_counter()
            unchecked.append(self.optimize(order[self.position * batch_size : (self.position + 1) * batch_size]))
            self.position += 1
            self.step += 1
            done = min(self.position * batch_size, N)
            if not self.warm:
                self.wait()
                compile_seconds, self.warm = time.perf_counter() - step_started, True
            if self.device.type == "cpu" or len(unchecked) == GPU_CHECK_EVERY or done == N:
                self._check_finite(unchecked)
                unchecked = []
            on_progress("trained", done, N)
        self.wait()
        return compile_seconds

    # --- one step ---

    def optimize(self, chosen: Tensor) -> Tensor:
        """One optimizer step on the images `chosen`, indices on the device.

        Return the norm of its gradient before clipping, on the device; NaN where the loss is not finite.

        Where the device's memory ends, halve the micro-batch and do the step again: same global batch, same gradient.
        """
        if self.ema is not None:
            self.ema.prepare()
        while True:
            try:
                self.stepper.load(self.batches.draw(chosen, self.step), len(chosen))
                self.paths.take(self.micro_batch)
                break
            except RuntimeError as error:
                # Replicas would have to agree on the new size; a trial of several processes fails instead.
                if not is_out_of_memory(error) or self.micro_batch == 1 or self.world > 1:
                    raise
            self.paths.forget()
            release_memory()
            self.micro.halve()
            logger.warning("out of memory at step %d: micro-batches of %d from now on", self.step + 1, self.micro_batch)
        self.scheduler.step()
        if self.ema is not None:
            self.ema.n_averaged += 1
        return self.stepper.norm.clone()

    def _order(self) -> Tensor:
        """The order of the images in the epoch in progress; it follows from seed and epoch alone."""
        generator = seeds.generator(self.config.seed, Purpose.ORDER, self.epoch)
        return torch.randperm(len(self.batches.labels), generator=generator)

    def _check_finite(self, norms: list[Tensor]) -> None:
        looked_at = torch.stack(norms)
        if self.world > 1:  # each replica knows its own share's loss; all of them end, or none
            looked_at = self.accelerator.reduce(looked_at, "sum")
        finite = torch.isfinite(looked_at).tolist()
        if not all(finite):
            step = self.position - len(norms) + finite.index(False) + 1
            raise TrainingError(
                f"the loss or its gradient is not finite at epoch {self.epoch + 1}, step {step} of "
                f"{self.steps_per_epoch}; {self._remedy(self.epoch)}"
            )

    def _remedy(self, epochs: int) -> str:
        """What to do about a network that has diverged after so many sound epochs."""
        kept = ["", ". Epoch 1 is kept", f". Epochs 1 to {epochs} are kept"][min(epochs, 2)]
        return f"lower train.lr, or set train.grad_clip{kept}"

    # --- the end of an epoch ---

    def _measured(
        self,
        on_evaluation: Callable[[int, Evaluation], None] | None,
        on_drawn: Callable[[int, Drawn], None] | None,
        on_progress: OnProgress,
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """All that is due after this epoch: fields of EpochMetrics, and of its `extra`."""
        config, epochs = self.config, self.config.train.epochs
        fields: dict[str, Any] = {}
        extra: dict[str, float] = {}
        if config.eval.is_due(self.epoch, epochs):
            fields, extra = self._scores(on_evaluation, on_progress)
        with self.stages.stage("diagnostics"):
            fields |= self._activations()
            extra |= self._of_labels()
        if config.eval.fid_is_due(self.epoch, epochs):
            self._commit_state()  # drawing and comparing may take longer than the epoch's steps
            with self.stages.stage("images"):
                of_images, of_classes = self._measure_images(on_drawn, on_progress)
            fields |= of_images
            extra |= of_classes
        return fields, extra

    def _scores(
        self, on_evaluation: Callable[[int, Evaluation], None] | None, on_progress: OnProgress
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """What scoring images gives: those of validation, some of training, and after the last epoch the test's."""
        with self.stages.stage("validation"):
            evaluation = self._evaluated(self.validation, on_progress)
            fields: dict[str, Any] = dict(of_evaluation(evaluation))
        fields |= {"val_images": len(self.validation), "val_images_of": len(self.dataset.validation)}
        if len(self.train_subset):
            with self.stages.stage("train_subset"):
                fields["train_acc"] = self._evaluated(self.train_subset, on_progress).accuracy
        if on_evaluation is not None and self.accelerator.is_main_process:
            with self.stages.stage("predictions"):
                on_evaluation(self.epoch, evaluation)
        with self.stages.stage("test"):
            fields |= self._on_test(on_progress)
        fields["scoring_seconds"] = self.stages.of(*SCORING)
        return fields, evaluation.class_accuracies(self.dataset.class_names)

    def _evaluated(self, split: Split, on_progress: OnProgress) -> Evaluation:
        """Every image of a split. Raise TrainingError where the network says nothing any more."""
        try:
            return evaluate.evaluate(
                self._evaluated_model(),
                split,
                self.log_prior,
                batch_size=self.config.eval.batch_size,
                bf16=self.config.eval.precision == "bf16",
                accelerator=self.accelerator,
                on_images=partial(on_progress, "evaluated"),
                capture=self.capture,
            )
        except LikelihoodError as error:
            raise TrainingError(
                f"the network has diverged in epoch {self.epoch}: {error}; {self._remedy(self.epoch - 1)}"
            ) from error

    def _measure_images(
        self, on_drawn: Callable[[int, Drawn], None] | None, on_progress: OnProgress
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Draw images of each class and compare them with real ones: fields of EpochMetrics, and of its `extra`."""
        started = time.perf_counter()
        seed = self.config.seed  # the same noise in every epoch
        drawn = quality.draw(
            self._evaluated_model(),
            self.config.eval.fid_images_per_class,
            seed=seed,
            accelerator=self.accelerator,
            on_row=partial(on_progress, "drawn"),
        )
        fields: dict[str, Any] = {}
        of_classes: dict[str, float] = {}
        if self.evaluator is not None:
            # The epoch was trained and evaluated; what fails from here on must not cost it.
            try:
                scores = self.evaluator.measure(drawn, seed=seed)
                fields, of_classes = quality.metrics(scores, self.dataset.class_names)
            except (FidError, RuntimeError) as error:  # the latter: out of memory, or no convergence
                logger.exception("the images of epoch %d were not measured", self.epoch)
                reason = f"{type(error).__name__}: {error}"
                fields = {"fid_error": reason, "kid_error": reason}
            if on_drawn is not None:
                try:
                    on_drawn(self.epoch, drawn)
                except OSError:
                    logger.exception("the picture of epoch %d was not kept", self.epoch)
        fields |= self._saturation(drawn)
        fields |= {"sample_path": drawn.path}
        return fields | {"sample_seconds": time.perf_counter() - started}, of_classes

    def _saturation(self, drawn: Drawn) -> dict[str, float]:
        """The share of black and white in the images drawn, and in the data's."""
        return {
            "sample_saturation": diagnostics.saturation(drawn.images),
            "sample_saturation_validation": self._saturation_of_data,
        }

    @cached_property
    def _saturation_of_data(self) -> float:
        return diagnostics.saturation(to_uint8(self.dataset.validation.images))

    def _evaluated_model(self) -> ConditionalPixelCNN:
        if self.ema is None:
            return self.model
        model = self.ema.module
        assert isinstance(model, ConditionalPixelCNN)
        return model

    def _of_labels(self) -> dict[str, float]:
        """What the fusion says of itself, and how differently it treats the classes."""
        model = self._evaluated_model()
        with torch.no_grad():
            fusion = model.fusion.diagnostics(model.label.table())
        return fusion | diagnostics.class_distances(model)

    def _on_test(self, on_progress: OnProgress) -> dict[str, float | str | int]:
        """After the last epoch the accuracy on the test images, where their labels are known.

        A trial does not fail by images that nothing is chosen by: where they cannot be scored, the reason is given.
        """
        if self.epoch < self.config.train.epochs or not self.dataset.test.scorable:
            return {}
        scored = evaluate.scored(self.dataset.test, self.config.eval.max_images)
        try:
            accuracy = self._evaluated(scored, on_progress).accuracy
            return {"test_acc": accuracy, "test_images": len(scored), "test_images_of": len(self.dataset.test)}
        except TrainingError as error:
            logger.warning("the test images of epoch %d were not scored: %s", self.epoch, error)
            return {"test_acc_error": str(error)}

    def _activations(self) -> dict[str, float]:
        """How large activations are, and how stuck gates, on a few images that are the same in each epoch."""
        some = self.train_subset if len(self.train_subset) else self.dataset.validation
        images, labels = (part[:WATCHED_IMAGES].to(self.device) for part in (some.images, some.labels))
        seen = diagnostics.activations(self._evaluated_model(), to_model(images), labels)
        return {"activation_max": seen.largest, "gate_saturation": seen.gate_saturation}

    def _stage_norms(self, sums: Sums) -> dict[str, float]:
        norms = (sums.stage_norms / self.world).tolist()  # the same in every replica
        return {f"grad_norm.{stage}": norm for stage, norm in zip(self.stepper.grad_norms.stages, norms, strict=True)}

    def _lr(self) -> float:
        return float(self.scheduler.base_lrs[0]) * self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)

    def _commit(self, metrics: EpochMetrics) -> EpochMetrics:
        for alarm in alarms.of_epoch(metrics.row()):
            logger.warning("epoch %d: %s", metrics.epoch, alarm)
        if self.score is not None:
            score, error = self.score(metrics)
            metrics = metrics.replaced(score=score, score_error=error)
        if self.accelerator.is_main_process:
            metrics = self.checkpoints.save_epoch(
                None,  # what was written after the last step
                self._evaluated_model().state_dict(),
                metrics,
                image_shape=self.dataset.image_shape,
                nr_classes=self.dataset.nr_classes,
                class_names=self.dataset.class_names,
            )
        if self.world > 1:
            self.accelerator.wait_for_everyone()
        return metrics

    def wait(self) -> None:
        """Wait until the device has done all that it was asked for."""
        devices.synchronize(self.device)

    # --- resuming ---

    def _save(self, wanted: Wanted) -> None:
        """Commit the state before the step at hand. Raise PreemptedError where training is to end there."""
        self._write_state(commit=True)
        if wanted is Wanted.END:
            self.checkpoints.wait()
            if self.world > 1:  # who leaves first would have the others ended, which write
                self.accelerator.wait_for_everyone()
            raise PreemptedError(
                f"the training state is saved in epoch {self.epoch + 1}, after {self.position} of "
                f"{self.steps_per_epoch} steps"
            )

    def _write_state(self, *, commit: bool) -> None:
        """Have the state written, in the background; every process takes part."""
        state = self._state_dict()
        if self.accelerator.is_main_process:
            self.checkpoints.write_state(state, epoch=self.epoch, step=self.step, commit=commit)

    def _commit_state(self) -> None:
        """Let the state after the epoch's last step count, before the epoch does, which is numbered already."""
        if self.accelerator.is_main_process:
            self.checkpoints.commit_state(epoch=self.epoch - 1, step=self.step)

    def _heeding(self, on_progress: OnProgress) -> OnProgress:
        """What also commits the state, and ends the measuring of an epoch, when this process is to be taken away.

        Of several processes none may leave the others, so that they go on measuring.
        """

        def heed(stage: str, done: int, total: int) -> None:
            on_progress(stage, done, total)
            if self.saving.preempted():
                self._commit_state()
                if self.world == 1:
                    raise PreemptedError(f"the training state is saved in epoch {self.epoch}, after all of its steps")

        return heed

    def _path(self) -> tuple[str | None, str | None]:
        """How the last step was taken, and the note on it: by this process, or the one that wrote the state."""
        return (self.paths.path, self.paths.note) if self.paths.begun else self.kept_path

    def _state_dict(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        path, note = self._path()
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch},
            "scaler": None if scaler is None else scaler.state_dict(),
            "path": path,
            "path_note": note,
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "sums": saving.of_all(self.sums._asdict(), self.accelerator),
            "micro_batch": self.micro.state_dict(),
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        """Take in a state that lies on the CPU; each part of it goes where it is needed."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            if state["ema"] is None:  # the average begins with the weights
                self.ema.module.load_state_dict(state["model"])
            else:
                self.ema.load_state_dict(state["ema"])
        self.kept_path = state.get("path"), state.get("path_note")  # which states of earlier releases do not have
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        self._load_optimizer(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        # A state of release 0.1 has no norms of stages: theirs begin here.
        sums = saving.own(state["sums"], self.accelerator, maxima=("grad_norm", "stage_norms"))
        for name, total in sums.items():
            getattr(self.sums, name).copy_(total)
        if (micro := state["micro_batch"]) is not None:
            self.micro.load_state_dict({"size": micro} if isinstance(micro, int) else micro)

    def _load_optimizer(self, state: dict[str, Any] | None) -> None:
        """Take in the optimizer's state, or begin anew without one, with the settings of this configuration.

        Those in the state are of the trial that this one continues, which may have had others.
        """
        groups = self.optimizer.param_groups
        settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        if state is not None:
            self.optimizer.load_state_dict(state)
        factor = self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)
        for group, own, lr in zip(self.optimizer.param_groups, settings, self.scheduler.base_lrs, strict=True):
            group.update(own)
            set_lr(group, lr * factor)


def begin_state(
    known: dict[str, Any] | None, weights: dict[str, Tensor], config: TrialConfig, parent: TrainConfig | None
) -> dict[str, Any]:
    """What a trial that continues another one begins with: `known`, the state that it ended with, or `weights` alone.

    What is not known, or no longer fits under the configuration, is None, and begins anew.
    """
    lineage, train = config.lineage, config.train
    start = {
        "model": weights,
        "ema": None,
        "optimizer": None,
        "scheduler": {"last_epoch": lineage.steps_before},
        "scaler": None,
        "epoch": lineage.epochs_before,
        "position": 0,
        "step": lineage.steps_before,
        "sums": {},
        "micro_batch": None,
    }
    if known is None or parent is None:
        return start
    start |= {part: known[part] for part in ("model", "ema", "scaler")}
    if not lineage.fresh_optimizer:
        start["optimizer"] = known["optimizer"]
    # Which micro-batches a batch is summed from shows in the last bits.
    if (train.batch_size, train.accumulate) == (parent.batch_size, parent.accumulate):
        start["micro_batch"] = known["micro_batch"]
    return start


def _warn_of_slow_bf16(config: TrialConfig, device: torch.device) -> None:
    if "bf16" in (config.train.precision, config.eval.precision) and (reason := emulates_bf16(device)) is not None:
        logger.warning("precision bf16: %s, so that it is slower than fp32", reason)
