"""The Accelerate training loop: `fit` yields one EpochMetrics per epoch, and resumes where it was killed."""

from __future__ import annotations

import contextlib
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Generator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from cpcnn_core import alarms, augment, diagnostics, environment, evaluate, quality, seeds
from cpcnn_core.checkpoint import CheckpointFolder, build_model
from cpcnn_core.compiling import Regional
from cpcnn_core.config import ConfigError, TrainConfig, TrialConfig
from cpcnn_core.data import Dataset, Split, to_model, to_uint8
from cpcnn_core.diagnostics import StageNorms
from cpcnn_core.errors import CheckpointError, LikelihoodError, RunError
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.fid import FidError
from cpcnn_core.initialise import data_dependent_init
from cpcnn_core.loss import Loss, drawn_others
from cpcnn_core.memory import is_out_of_memory, release_memory
from cpcnn_core.metrics import EpochMetrics, of_evaluation
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.optim import Average, build_optimizer, build_scheduler
from cpcnn_core.precision import check_float32, whole_float32
from cpcnn_core.quality import Drawn
from cpcnn_core.seeds import Purpose

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

INIT_IMAGES = 128
WATCHED_IMAGES = 32  # whose activations are looked at after each epoch
GPU_CHECK_EVERY = 25  # steps between two looks at whether the loss is finite; each look waits for the device


OnProgress = Callable[[str, int, int], None]


class TrainingError(RunError, RuntimeError):
    """Training cannot go on; the message names epoch, step and cause."""


class Sums(NamedTuple):
    """Sums over the images of an epoch so far, on the device."""

    objective: Tensor  # the loss; a training state on disk has it under this name
    bpd: Tensor
    grad_norm: Tensor  # the largest, not a sum
    stage_norms: Tensor  # (S,): the largest of each stage

    @classmethod
    def zero(cls, device: torch.device, stages: int) -> Sums:
        zero = torch.zeros((), device=device)
        return cls(zero, zero, zero, torch.zeros(stages, device=device))


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
    save_every_seconds: float = 600.0,
) -> Generator[EpochMetrics]:
    """Train the trial that `config` describes, with its checkpoints in `folder`; yield one EpochMetrics per epoch.

    Where `folder` holds a training state, go on from it: on a CPU the result is the same, bit for bit, as without the
    interruption. A trial that continues another one finds there what `CheckpointFolder.begin` put there. Epochs beyond
    `reported`, the last one that was recorded, are yielded again, not trained again. In each
    epoch `on_evaluation` gets (epoch, validation likelihoods), where FID is due `on_drawn` gets (epoch, images), then
    `score` says what the epoch is worth (and why, where that is null), then the checkpoint is committed, then the
    metrics are yielded; all along `on_progress` hears (what is done to images, how many are done, how many there are).
    An epoch longer than `save_every_seconds` is committed on the way too, where one process trains.

    Raise ConfigError where config and data do not fit, or where something around us would change the result: half a
    rendezvous in the environment, an `accelerator` that accumulates or rounds. Raise TrainingError where the loss is
    not finite.
    """
    check_fits(config, dataset)
    accelerator = accelerator or environment.accelerator()
    run = Run(config, dataset, folder, accelerator, score)
    yield from run.checkpoints.history[max(0, reported - config.lineage.epochs_before) :]
    while run.epoch < config.train.epochs:
        yield run.train_epoch(
            on_evaluation=on_evaluation,
            on_drawn=on_drawn,
            on_progress=on_progress or _no_progress,
            save_every_seconds=save_every_seconds,
        )


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


class Batch(NamedTuple):
    """A global batch, padded to its full size, with all the randomness of its step."""

    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,)
    withheld: Tensor  # (B,) bool: trained without the label
    weights: Tensor  # (B,): 1, and 0 for padding
    masks: list[Tensor] | None  # dropout, one (B, 2C, ...) per gated block
    others: Tensor | None  # (B, m): the classes beside the true one that the class loss sees; None is all

    def part(self, start: int, stop: int) -> Batch:
        """Images start to stop with what belongs to them."""
        return self._each(lambda tensor: tensor[start:stop])

    def padded(self, surplus: int) -> Batch:
        """The first image repeated `surplus` times with weight 0, so that the replicas' shares are equal."""

        def extended(tensor: Tensor) -> Tensor:
            return torch.cat([tensor, tensor[:1].expand(surplus, *tensor.shape[1:])])

        weights = torch.cat([self.weights, self.weights.new_zeros(surplus)])
        return self._each(extended)._replace(weights=weights)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.images),
            change(self.labels),
            change(self.withheld),
            change(self.weights),
            None if self.masks is None else [change(mask) for mask in self.masks],
            None if self.others is None else change(self.others),
        )


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
    ) -> None:
        environment.check_accelerator(accelerator)
        self.config = config
        self.score = score
        self.dataset = dataset
        self.accelerator = accelerator
        # Of several processes on a CPU, Accelerate numbers the device, as no tensor's is.
        self.device = device = torch.device("cpu") if accelerator.device.type == "cpu" else accelerator.device
        check_float32(device)
        _warn_of_slow_bf16(config, device)
        self.checkpoints = CheckpointFolder(folder, config)
        self.log_prior = evaluate.log_prior(config.eval.prior, dataset.train.labels, dataset.nr_classes)
        # Whole splits stay on the device: a batch is a gather, not a transfer.
        self.images = dataset.train.images.to(device)
        self.labels = dataset.train.labels.to(device)
        self.train_subset = evaluate.fixed_subset(dataset.train, config.eval.train_images, config.seed)
        self.steps_per_epoch = math.ceil(len(dataset.train) / config.train.batch_size)
        self.world = accelerator.num_processes

        measures = config.eval.fid_every > 0 and accelerator.is_main_process
        self.evaluator = quality.evaluator(config, dataset, device) if measures else None

        self.epoch = 0  # finished ones
        self.position = 0  # optimizer steps done of the epoch in progress
        self.step = 0
        self.micro_batch = math.ceil(config.train.batch_size / self.world / config.train.accumulate)
        self.compiled = not config.train.compile

        self.model = build_model(config, dataset.image_shape, dataset.nr_classes).to(device)
        self.grad_norms = StageNorms(self.model.named_parameters())
        self.sums = Sums.zero(device, len(self.grad_norms.stages))
        state = self._kept_state()
        if state is None and config.train.data_dependent_init:
            self._initialise()
        self.optimizer = build_optimizer(config.train, self.model, dataset.image_shape)
        before = config.lineage.epochs_before, config.lineage.steps_before
        self.scheduler = build_scheduler(config.train, self.optimizer, self.steps_per_epoch, before)
        self.ema = Average(self.model, config.train.ema_decay) if config.train.ema_decay is not None else None
        if state is not None:
            self._load_state_dict(state)
        loss = self._loss()
        self.replicated: nn.Module = accelerator.prepare(loss) if self.world > 1 else loss
        self.loss = Regional(self.replicated) if config.train.compile else self.replicated

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
        first = torch.randperm(len(self.labels), generator=some)[:INIT_IMAGES].to(self.device)
        data_dependent_init(self.model, to_model(self.images[first]), self.labels[first])

    def _loss(self) -> nn.Module:
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
        save_every_seconds: float,
    ) -> EpochMetrics:
        """Train the rest of the epoch in progress, evaluate, commit the checkpoint."""
        started = time.perf_counter()
        N, images_before = len(self.labels), self.position * self.config.train.batch_size
        compile_seconds = self._train_steps(on_progress, save_every_seconds)
        train_seconds = time.perf_counter() - started
        sums = Sums(*(self.accelerator.reduce(total, "sum") for total in self.sums)) if self.world > 1 else self.sums

        self.epoch += 1
        self.position = 0
        self.sums = Sums.zero(self.device, len(self.grad_norms.stages))
        evaluation, train_acc = self._evaluate(on_progress)
        if on_evaluation is not None and self.accelerator.is_main_process:
            on_evaluation(self.epoch, evaluation)
        measured: dict[str, Any] = dict(of_evaluation(evaluation)) | self._activations() | self._on_test(on_progress)
        extra = self._extra(evaluation) | self._stage_norms(sums)
        if self._fid_is_due():
            of_images, of_classes = self._measure_images(on_drawn, on_progress)
            measured |= of_images
            extra |= of_classes
        seconds = time.perf_counter() - started
        metrics = EpochMetrics.of(
            measured,
            epoch=self.epoch,
            step=self.step,
            lr=float(self.scheduler.get_last_lr()[0]),
            train_loss=sums.objective.item() / N,
            train_bpd=sums.bpd.item() / N,
            train_acc=train_acc,
            grad_norm=sums.grad_norm.item() / self.world,  # the same in every replica
            seconds=seconds,
            train_seconds=train_seconds,
            compile_seconds=compile_seconds,
            eval_seconds=seconds - train_seconds,
            images_per_second=(N - images_before) / max(1e-9, train_seconds - compile_seconds),
            peak_memory_bytes=peak_memory(self.device),
            micro_batch=self.micro_batch,
            checkpoint=None,
            kept_epochs=(),
            extra=extra,
        )
        return self._commit(metrics)

    def _train_steps(self, on_progress: OnProgress, save_every_seconds: float) -> float:
        """Take the steps that the epoch in progress still needs, and wait for them; the seconds that compiling took."""
        N, batch_size = len(self.labels), self.config.train.batch_size
        saved = time.perf_counter()
        order = self._order().to(self.device)  # once: a copy per step would wait for the step before
        compile_seconds = 0.0
        unchecked: list[Tensor] = []
        while self.position < self.steps_per_epoch:
            step_started = time.perf_counter()
            unchecked.append(self.optimize(order[self.position * batch_size : (self.position + 1) * batch_size]))
            self.position += 1
            self.step += 1
            done = min(self.position * batch_size, N)
            if not self.compiled:
                self.wait()
                compile_seconds, self.compiled = time.perf_counter() - step_started, True
            if self.device.type == "cpu" or len(unchecked) == GPU_CHECK_EVERY or done == N:
                self._check_finite(unchecked)
                unchecked = []
            on_progress("trained", done, N)
            # Replicas hold partial sums and would have to agree on when; they are committed between epochs only.
            due = self.world == 1 and time.perf_counter() - saved > save_every_seconds
            if due and done < N and not unchecked:
                saved = time.perf_counter()
                self.checkpoints.save_state(self._state_dict(), epoch=self.epoch, step=self.step)
        self.wait()
        return compile_seconds

    # --- one step ---

    def optimize(self, chosen: Tensor) -> Tensor:
        """One optimizer step on the images `chosen`, indices on the device.

        Return the norm of its gradient before clipping, on the device; NaN where the loss is not finite.

        Where the device's memory ends, halve the micro-batch and do the step again: same global batch, same gradient.
        """
        batch = self._batch(chosen)
        while True:
            try:
                loss, bpd = self._accumulate(batch, len(chosen))
                break
            except RuntimeError as error:
                # Replicas would have to agree on the new size; a trial of several processes fails instead.
                if not is_out_of_memory(error) or self.micro_batch == 1 or self.world > 1:
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            release_memory()
            self.micro_batch = math.ceil(self.micro_batch / 2)
            logger.warning("out of memory at step %d: micro-batches of %d from now on", self.step + 1, self.micro_batch)
        norm, of_stages = self.grad_norms()
        if (limit := self.config.train.grad_clip) is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), limit, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.sums = Sums(
            self.sums.objective + loss,
            self.sums.bpd + bpd,
            torch.maximum(self.sums.grad_norm, norm),
            torch.maximum(self.sums.stage_norms, of_stages),
        )
        # An infinite loss may have a finite gradient. Times zero it is NaN, and a finite one changes nothing; looking
        # at it here would wait for the device.
        return norm + 0.0 * (loss + bpd)

    def _accumulate(self, batch: Batch, images: int) -> tuple[Tensor, Tensor]:
        """Add up the gradient of the mean loss over the global batch, in micro-batches of this process's share."""
        share = len(batch.labels) // self.world
        begin, end = self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share
        loss, bpd = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for start in range(begin, end, self.micro_batch):
            stop = min(start + self.micro_batch, end)
            wait = self.world > 1 and stop < end  # replicas exchange gradients once, with the last micro-batch
            with self.accelerator.no_sync(self.replicated) if wait else contextlib.nullcontext():
                total, loss_sum, bpd_sum = self.loss(*batch.part(start, stop))
                self.accelerator.backward(total * (self.world / images))  # replicas are averaged: make it a sum again
            loss += loss_sum
            bpd += bpd_sum
        return loss, bpd

    def _batch(self, chosen: Tensor) -> Batch:
        """Gather and augment a global batch, drawing the randomness of all of it in every process alike."""
        train, device = self.config.train, self.device
        B = train.batch_size
        # A stream for each step: nothing of it has to be kept, or lost, between a kill and the resumption.
        noise = seeds.generator(self.config.seed, Purpose.STEP, self.step, device=device)
        padding = chosen[:1].expand(B - len(chosen))
        index = torch.cat([chosen, padding])
        images, labels = self.images[index], self.labels[index]
        if train.flip:
            images = augment.flip(images, torch.rand(B, generator=noise, device=device) < 0.5)
        if train.shift:
            limit = train.shift
            offsets = torch.randint(-limit, limit + 1, (B, 2), generator=noise, device=device)
            images = augment.shift(images, offsets)
        withheld = torch.zeros(B, dtype=torch.bool, device=device)
        if train.label_dropout > 0:
            withheld = torch.rand(B, generator=noise, device=device) < train.label_dropout
        weights = (torch.arange(B, device=device) < len(chosen)).float()
        masks = self.model.dropout_masks(B, noise)
        others, classes = train.class_loss_others, self.dataset.nr_classes
        drawn = others is not None and others < classes - 1  # else all of them are seen
        seen = drawn_others(labels, classes, others, noise) if drawn and others is not None else None
        batch = Batch(images, labels, withheld, weights, masks, seen)
        surplus = -B % self.world
        return batch if surplus == 0 else batch.padded(surplus)

    def _order(self) -> Tensor:
        """The order of the images in the epoch in progress; it follows from seed and epoch alone."""
        generator = seeds.generator(self.config.seed, Purpose.ORDER, self.epoch)
        return torch.randperm(len(self.labels), generator=generator)

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

    def _evaluate(self, on_progress: OnProgress) -> tuple[Evaluation, float | None]:
        """The validation split, and the accuracy on the fixed subset of the training images."""
        evaluation = self._evaluated(self.dataset.validation, on_progress)
        subset = self.train_subset
        return evaluation, self._evaluated(subset, on_progress).accuracy if len(subset) else None

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
            )
        except LikelihoodError as error:
            raise TrainingError(
                f"the network has diverged in epoch {self.epoch}: {error}; {self._remedy(self.epoch - 1)}"
            ) from error

    def _fid_is_due(self) -> bool:
        every = self.config.eval.fid_every
        return every > 0 and (self.epoch % every == 0 or self.epoch == self.config.train.epochs)

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

    def _extra(self, evaluation: Evaluation) -> dict[str, float]:
        model = self._evaluated_model()
        with torch.no_grad():
            fusion = model.fusion.diagnostics(model.label.table())
        distances = diagnostics.class_distances(model, self.dataset.class_names)
        return evaluation.class_accuracies(self.dataset.class_names) | fusion | distances

    def _on_test(self, on_progress: OnProgress) -> dict[str, float | str]:
        """After the last epoch the accuracy on the test images, where their labels are known.

        A trial does not fail by images that nothing is chosen by: where they cannot be scored, the reason is given.
        """
        if self.epoch < self.config.train.epochs or not self.dataset.test.labelled:
            return {}
        try:
            return {"test_acc": self._evaluated(self.dataset.test, on_progress).accuracy}
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
        return {f"grad_norm.{stage}": norm for stage, norm in zip(self.grad_norms.stages, norms, strict=True)}

    def _commit(self, metrics: EpochMetrics) -> EpochMetrics:
        for alarm in alarms.of_epoch(metrics.row()):
            logger.warning("epoch %d: %s", metrics.epoch, alarm)
        if self.score is not None:
            score, error = self.score(metrics)
            metrics = metrics.replaced(score=score, score_error=error)
        if self.accelerator.is_main_process:
            metrics = self.checkpoints.save_epoch(
                self._state_dict(),
                self._evaluated_model().state_dict(),
                metrics,
                image_shape=self.dataset.image_shape,
                nr_classes=self.dataset.nr_classes,
            )
        if self.world > 1:
            self.accelerator.wait_for_everyone()
        return metrics

    def wait(self) -> None:
        """Wait until the device has done all that it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # --- resuming ---

    def _state_dict(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch},
            "scaler": None if scaler is None else scaler.state_dict(),
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "sums": self.sums._asdict(),
            "micro_batch": self.micro_batch,
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        """Take in a state that lies on the CPU; each part of it goes where it is needed.

        The optimizer leaves its counts of steps where they are and reads them in every step; a GPU would be waited for.
        """
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            if state["ema"] is None:  # the average begins with the weights
                self.ema.module.load_state_dict(state["model"])
            else:
                self.ema.load_state_dict(state["ema"])
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        self._load_optimizer(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        # A state of release 0.1 has no norms of stages: theirs begin here.
        self.sums = self.sums._replace(**{name: total.to(self.device) for name, total in state["sums"].items()})
        self.micro_batch = state["micro_batch"] or self.micro_batch

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
            group.update(own | {"lr": lr * factor})


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
    if device.type == "cpu" and "bf16" in (config.train.precision, config.eval.precision) and not has_bf16_units():
        logger.warning("precision bf16: this CPU has no units for it, so that it is many times slower than fp32")


def has_bf16_units() -> bool:
    """Whether this machine's CPU multiplies bf16 itself; without, matrix products take some forty times as long."""
    found = torch.cpu.get_capabilities()
    return found["architecture"] != "x86_64" or any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: the device's since it was last reset, or on a CPU the process's since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
