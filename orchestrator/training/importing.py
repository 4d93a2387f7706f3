"""A checkpoint of the course's starter code as a trial of its own: evaluated and recorded like every other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpcnn_core import devices, evaluate, quality
from cpcnn_core.checkpoint import CheckpointFolder
from cpcnn_core.config import PROTOCOL, ConfigError, Scalar, TrialConfig
from cpcnn_core.data import Dataset
from cpcnn_core.errors import CheckpointError, LikelihoodError
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.files import sha256
from cpcnn_core.metrics import EpochMetrics, of_evaluation
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.quality import Drawn
from cpcnn_core.starter import Choices, Imported, import_starter
from orchestrator.process import signals
from orchestrator.records import beginning, kinds, mirror, mixtures
from orchestrator.records.location import remove_tree
from orchestrator.records.recording import Recording
from orchestrator.records.store import OPTION_PREFIX, Store, StoreError
from orchestrator.text.formatting import plain
from orchestrator.training import trainer

EPOCH = 1  # a checkpoint does not say how long it was trained; its state counts as the one epoch of its trial


_OF_THE_FILE = "it is read off the file's shapes"
_NOT_SET = {
    "model.fusion": "--fusion says it",
    "model.nr_resnet": _OF_THE_FILE,
    "model.nr_filters": _OF_THE_FILE,
    "model.nr_logistic_mix": _OF_THE_FILE,
    "model.dropout": "nothing is trained, and evaluation has no dropout",
    "model.dropout_kind": "nothing is trained, and evaluation has no dropout",
    "model.norm": "starter code's networks have none",
    "eval.every": "the file is evaluated once",
    "source": "it is the SHA-256 of the file",
    "protocol": f"this release measures by protocol {PROTOCOL}",
}
"""Why a field cannot be set for an import."""


def check_settings(settings: Mapping[str, Scalar]) -> None:
    """Raise ConfigError for a setting that has no effect on a checkpoint: its row would claim what is not so."""
    reasons = {name: _NOT_SET.get(name) for name in settings}
    reasons |= dict.fromkeys((name for name in settings if name.startswith("train.")), "nothing is trained")
    reasons |= dict.fromkeys((name for name in settings if name.startswith("lineage.")), "it continues no trial")
    refused = [f"--set {name}: cannot be set for an import; {reason}" for name, reason in reasons.items() if reason]
    if refused:
        raise ConfigError("\n".join(refused))


def _check_options(file: Path, given: TrialConfig, found: TrialConfig) -> None:
    """Raise ConfigError for an option of the fusion that was given, and that the file's shapes say otherwise."""
    has = found.flat()
    for name, value in given.flat().items():
        if name.startswith(OPTION_PREFIX) and has.get(name) != value:
            raise ConfigError(
                f"--set {name}: {plain(value)} was given, and by its shapes {file} has {plain(has.get(name))}; leave "
                "it out"
            )


def import_trial(
    file: Path,
    config: TrialConfig,
    store: Store,
    *,
    choices: Choices,
    say: Callable[[str], None],
    way_out: str = "name another folder",
) -> tuple[TrialConfig, EpochMetrics]:
    """Read `file`, evaluate it on the validation split, and record it. Raise CheckpointError, DataError, ConfigError.

    Raise MixtureError, with the way out, where the folder holds trials of other data or of another protocol.

    The trial's identity holds the file's SHA-256, so that importing it again replaces what the first import recorded.
    What the file cannot tell (how it was trained) keeps the configuration's defaults in the table; `source` marks the
    row as imported. `say` hears what is not taken as the file has it.
    """
    started = time.perf_counter()
    dataset = trainer.dataset(config.data)
    mixtures.check(store, config.with_settings({trainer.DIGEST: dataset.digest}), way_out=way_out)
    imported = import_starter(
        file, config, image_shape=dataset.image_shape, nr_classes=dataset.nr_classes, choices=choices
    )
    _check_options(file, config, imported.config)
    for remark in imported.remarks:
        say(remark)
    config = imported.config.with_settings(
        {"source": sha256(file), "train.epochs": EPOCH, trainer.DIGEST: dataset.digest}
    )
    measured = _measured(file, imported, config, dataset, started)
    with beginning.begun(store, config.trial_id):
        kinds.introduce(store, "imported", kinds.IMPORTED, class_names=dataset.class_names)
        recording = Recording(store, config, number=None, place=trainer.place())
    try:
        metrics = _kept(store, config, imported, dataset, measured)
    except KeyboardInterrupt as error:
        with suppress(StoreError, OSError):
            recording.finish("INTERRUPTED", stopped=signals.why(error))
        raise
    recording.add(metrics, trainer.place())
    recording.finish("COMPLETE")
    return config, metrics


@dataclass(frozen=True)
class _Measured:
    """What an evaluation of the file gave."""

    metrics: EpochMetrics
    result: Evaluation
    drawn: Drawn | None  # for FID, where it is measured


def _measured(file: Path, imported: Imported, config: TrialConfig, dataset: Dataset, started: float) -> _Measured:
    """Evaluate the file's network; `started` is when the import began. Raise CheckpointError where it has diverged."""
    device = trainer.device()
    model = imported.model.to(device)
    # Whether FID can be measured at all is found out before anything that takes long.
    evaluator = quality.evaluator(config, dataset, device) if config.eval.fid_every else None
    result, on_train = _evaluated(file, model, config, dataset)
    of_split: dict[str, Any] = dict(of_evaluation(result))  # Any: fields of EpochMetrics, each with its type
    of_split |= {"val_images": len(result.names), "val_images_of": len(dataset.validation)}
    of_classes: dict[str, float] = {}
    drawn = None
    if evaluator is not None:
        drawn = quality.draw(model, config.eval.fid_images_per_class, seed=config.seed)
        of_images, of_classes = quality.metrics(evaluator.measure(drawn, seed=config.seed), dataset.class_names)
        of_split |= of_images
    seconds = time.perf_counter() - started
    metrics = EpochMetrics.of(
        of_split,
        epoch=EPOCH,
        step=0,
        lr=None,
        train_loss=None,
        train_bpd=None,
        train_acc=None if on_train is None else on_train.accuracy,
        grad_norm=None,
        seconds=seconds,
        train_seconds=0.0,
        compile_seconds=0.0,
        eval_seconds=seconds,
        images_per_second=0.0,
        peak_memory_bytes=devices.peak_memory(next(model.parameters()).device),
        micro_batch=0,
        checkpoint=None,
        kept_epochs=(),
        extra=result.class_accuracies(dataset.class_names) | of_classes | model.fusion.diagnostics(model.label.table()),
    )
    return _Measured(metrics, result, drawn)


def _evaluated(
    file: Path, model: ConditionalPixelCNN, config: TrialConfig, dataset: Dataset
) -> tuple[Evaluation, Evaluation | None]:
    """Evaluate on the validation images that are scored and, where it is asked for, on some of the training split."""
    prior = evaluate.log_prior(config.eval.prior, dataset.train.labels, dataset.nr_classes)
    subset = evaluate.fixed_subset(dataset.train, config.eval.train_images, config.seed)
    validation = evaluate.scored(dataset.validation, config.eval.max_images)
    batch_size, bf16 = config.eval.batch_size, config.eval.precision == "bf16"
    try:
        result = evaluate.evaluate(model, validation, prior, batch_size=batch_size, bf16=bf16)
        on_train = evaluate.evaluate(model, subset, prior, batch_size=batch_size, bf16=bf16) if len(subset) else None
    except LikelihoodError as error:
        raise CheckpointError(f"{file}: {error}; such a network says nothing") from None
    return result, on_train


def _kept(store: Store, config: TrialConfig, imported: Imported, dataset: Dataset, measured: _Measured) -> EpochMetrics:
    """Write predictions, samples and weights; return the metrics, which then say where the weights are."""
    trainer.keep_predictions(store, config.trial_id, EPOCH, measured.result)
    if measured.drawn is not None:
        store.write_samples(config.trial_id, EPOCH, measured.drawn.write_grid)
    # An earlier import was perhaps with another --rename.
    remove_tree(store.training_folder(config.trial_id))
    remove_tree(store.checkpoint_folder(config.trial_id))
    with mirror.opened(store, config.trial_id) as mirrored:
        metrics = CheckpointFolder(store.training_folder(config.trial_id), config).save_epoch(
            None,
            imported.model.state_dict(),
            measured.metrics,
            image_shape=dataset.image_shape,
            nr_classes=dataset.nr_classes,
            class_names=dataset.class_names,
            notes=imported.layout.as_notes(),
        )
        if mirrored is not None:
            mirrored.publish(last=True)
    return metrics
