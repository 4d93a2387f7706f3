"""The exported folder: all that is handed in, checked before the folder gets its name."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpcnn_core import checkpoint, evaluate, starter
from cpcnn_core.class_names import MOST_MEASURED
from cpcnn_core.config import Scalar, TrialConfig
from cpcnn_core.data import Dataset, Split, to_model
from cpcnn_core.errors import CpcnnError, LikelihoodError, RunError, UserError
from cpcnn_core.evaluation import Evaluation
from cpcnn_core.fid import Distance
from cpcnn_core.files import sha256
from cpcnn_core.metrics import of_evaluation
from cpcnn_core.model import ConditionalPixelCNN
from cpcnn_core.sources import SOURCES
from orchestrator.exporting import agreement, card, model_file, submission
from orchestrator.exporting.agreement import RELATIVE_TOLERANCE, TOLERANCE
from orchestrator.exporting.export_record import Accuracy, Choice, ExportRecord
from orchestrator.records import location, provenance
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row, as_scalar
from orchestrator.text.names import identifier
from orchestrator.training import trainer

_COMPARED = 16  # validation images on which model.py must give what the network gives

WEIGHTS, CONFIG, METRICS = "weights.safetensors", "config.json", "metrics.json"
CARD, CHECKSUMS = "model_card.md", "SHA256SUMS"
STARTER_WEIGHTS = "conditional_pixelcnn.pth"  # the same tensors as the course's starter code stores them


class ExportError(UserError):
    """An export that cannot be made."""


class MismatchError(RunError):
    """Exported weights that do not reproduce what was recorded."""


@dataclass(frozen=True)
class Exported:
    """What lies in `folder`, and how well the recorded metrics were reproduced."""

    folder: Path
    checked: Mapping[str, tuple[float, float]]  # by metric: recorded, measured again
    as_graded: Mapping[str, float] | None  # the same on unrounded pixels, where the trial's are rounded
    predicts: bool  # the test images, where there are any


def usual(entry: Entry, epoch: Row, metric: str) -> Path:
    """Where an epoch is exported to unless the user says otherwise: a folder within the sweep's, on this machine."""
    sweep = entry.store.folder
    exports = location.beside(sweep.parent) / sweep.name / "exports"
    return exports / f"{identifier(metric)}-{entry.trial_id}-{epoch['epoch']:04d}"


def export(
    entry: Entry,
    epoch: Row,
    metric: str,
    out: Path,
    *,
    force: bool = False,
    data_root: Scalar = None,
    choice: Choice | None = None,
) -> Exported:
    """Write the epoch's weights and all that is handed in with them to `out`, once they measure what was recorded.

    `choice` is what `best` says of how the epoch was chosen. The folder is loaded in a fresh process, which has to find
    the same metrics and predictions, before it gets its name.

    Raise ExportError where `out` is taken and not to be replaced, or cannot be written; MismatchError where `metric`
    (or, where evaluation does not give it, any metric that it gives) differs by more than 1e-4, or on another device
    than the trial's bpd or predictions do. In each case `out` is as it was.
    """
    _check_free(out, force=force)
    source = entry.store.folder / str(epoch["checkpoint"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    except OSError as error:
        raise ExportError(f"{out}: cannot be written: {error.strerror}; --out DIR puts the export elsewhere") from None
    try:
        found = _fill(temporary, source, entry, epoch, metric, data_root, choice)
        _write_checksums(temporary)
        verify_in_fresh_process(temporary, data_root)
        temporary.chmod(0o755)
        _replace(temporary, out)
    except LikelihoodError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ExportError(f"{source}: {error}; such a network says nothing, and nothing was exported") from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Exported(out, found.checked, found.as_graded, found.accuracy["test"].of > 0)


def _check_free(out: Path, *, force: bool) -> None:
    """Raise ExportError where `out` is taken, unless by an export that is to be replaced."""
    if not out.exists():
        return
    if not force:
        raise ExportError(f"{out}: exists; --force replaces it, --out DIR puts the export elsewhere")
    if not out.is_dir():
        raise ExportError(f"{out}: is a file; --out names a folder")
    if any(out.iterdir()) and not all((out / name).is_file() for name in (WEIGHTS, METRICS)):
        raise ExportError(f"{out}: holds something that is no export of ours; --force replaces only those")


@dataclass(frozen=True)
class _Again:
    """What the weights measure again."""

    evaluation: Evaluation
    accuracy: Mapping[str, Accuracy]  # by split
    checked: Mapping[str, tuple[float, float]]
    as_graded: Mapping[str, float] | None
    distance: Distance | str  # of the images handed in, or why there is none


def _fill(
    folder: Path,
    source: location.Folder,
    entry: Entry,
    epoch: Row,
    metric: str,
    data_root: Scalar,
    choice: Choice | None,
) -> _Again:
    """Write all but the checksums. Raise ExportError, MismatchError, LikelihoodError."""
    try:
        location.fetch(source, folder / WEIGHTS)
    except FileNotFoundError:
        raise ExportError(f"{source}: the table names this checkpoint, but it is gone") from None
    loaded = checkpoint.load_weights(folder / WEIGHTS, origin=source)
    config = _located(loaded.config, data_root)
    data = trainer.dataset(config.data)
    evaluation = _evaluate(loaded, config, data, _scored(config, data))
    if (different := agreement.disagreement(entry, epoch, metric, evaluation)) is not None:
        raise MismatchError(
            f"{epoch['checkpoint']}: {different}; nothing was exported. Data, code or weights are not the same"
        )
    checked = agreement.compared(epoch, evaluation)
    as_graded = _as_graded(loaded, config)
    predicted = submission.predictions(loaded.model, config, data) if len(data.test) else None
    accuracy = _accuracy(loaded, config, data, evaluation, predicted)
    drawn = submission.draw(loaded.model, config)
    distance = submission.measure(drawn, config, data, trainer.device())
    submission.write_samples(folder, drawn)
    if predicted is not None:
        submission.write_predictions(folder, predicted, None if isinstance(distance, str) else distance.value)
    layout = starter.Layout.of_notes(loaded.notes, source)
    starter.export_starter(folder / STARTER_WEIGHTS, loaded.model.cpu(), layout)
    has_model_file = _write_model_file(folder / model_file.NAME, loaded.model, config, data, layout)
    _write_json(folder / CONFIG, loaded.config.model_dump(mode="json"))
    again = _Again(evaluation, accuracy, checked, as_graded, distance)
    record = _record(entry, epoch, again, metric, choice, data)
    _write_json(folder / METRICS, record.as_json())
    (folder / CARD).write_text(
        card.written(entry, loaded.config, record, data, has_model_file=has_model_file), encoding="utf-8"
    )
    return again


def _write_model_file(
    path: Path, model: ConditionalPixelCNN, config: TrialConfig, data: Dataset, layout: starter.Layout | None
) -> bool:
    """Write the network as a file of its own, where it has one. Raise MismatchError where that gives other outputs."""
    prior = evaluate.log_prior(config.eval.prior, data.train.labels, data.nr_classes)
    text = model_file.written(model, prior, layout, class_names=data.class_names)
    if text is None:
        return False
    some, labels = (part[:_COMPARED] for part in (data.validation.images, data.validation.labels))
    difference = model_file.difference(text, starter.starter_state_dict(model, layout), model, to_model(some), labels)
    if difference > TOLERANCE:
        raise MismatchError(f"{path}: gives other outputs than the network, by {difference:.2g}; nothing was exported")
    path.write_text(text, encoding="utf-8")
    return True


def _record(entry: Entry, epoch: Row, again: _Again, metric: str, choice: Choice | None, data: Dataset) -> ExportRecord:
    return ExportRecord(
        sweep=entry.store.folder.name,
        trial_id=entry.trial_id,
        chosen_by=metric,
        choice=choice,
        recorded=_recorded(epoch),
        measured_again={name: measured for name, (_, measured) in again.checked.items()},
        accuracy=again.accuracy,
        as_graded=again.as_graded,
        class_names=data.class_names,
        confusion=again.evaluation.confusion.tolist() if data.nr_classes <= MOST_MEASURED else None,
        submission=_fid(again.distance)
        | {"images_per_class": submission.per_class(data.nr_classes), "test_images": len(data.test)},
        is_imported=entry.is_imported,
        origin={key: as_scalar(entry.trial[key]) for key in ("git_commit", "host", "device", "started", "ended")},
        exported={"at": provenance.now(), "git_commit": provenance.git_commit()},
        versions=provenance.versions(),
    )


def _recorded(epoch: Row) -> dict[str, Scalar]:
    """The epoch's row, without the columns in which other fusions log."""
    return {
        name: as_scalar(value) for name, value in epoch.items() if value is not None or not name.startswith("fusion.")
    }


def sentences(done: Exported, entry: Entry, epoch: Row, metric: str) -> list[str]:
    """What the user is told of an export."""
    compared = done.checked.get(metric)
    agreed = f": {metric} {compared[0]:.6f} recorded, {compared[1]:.6f} measured again" if compared else ""
    is_imported = entry.is_imported
    what = f"imported checkpoint {entry.trial_id}" if is_imported else f"epoch {epoch['epoch']} of {entry.trial_id}"
    told = [f"Exported {what}{agreed}."]
    if done.as_graded is not None:
        told.append(
            "Its pixels are rounded, and so are those of the predictions handed in. The course's scripts do not "
            f"round: they would give the weights val_acc {done.as_graded['val_acc']:.6f}, val_bpd "
            f"{done.as_graded['val_bpd']:.6f}."
        )
    if not done.predicts:
        told.append("The data set has no test images, so that there are no predictions of them to hand in.")
    return [*told, f"  {done.folder} ({CARD} says what is in it)"]


def verify(folder: Path, data_root: Scalar = None) -> dict[str, float]:
    """Load an exported folder and see that it is whole and reproduces its own numbers. Return the metrics.

    Raise MismatchError where a file is missing, broken or not what its checksum says, or predictions or metrics differ;
    DataError or ConfigError where the data is not at hand.
    """
    try:
        return _verify(folder, data_root)
    except CpcnnError:
        raise
    except KeyError as error:
        raise MismatchError(f"{folder}: is no whole export; its files do not say {error}") from None
    except (OSError, ValueError) as error:
        raise MismatchError(str(error)) from None


def _verify(folder: Path, data_root: Scalar) -> dict[str, float]:
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        expected, name = line.split("  ", 1)
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise MismatchError(f"{folder / name}: is not the file that was exported; its checksum differs")
    loaded = checkpoint.load_weights(folder / WEIGHTS)
    config = _located(loaded.config, data_root)
    if TrialConfig.from_tree(json.loads((folder / CONFIG).read_text(encoding="utf-8"))) != loaded.config:
        raise MismatchError(f"{folder / CONFIG}: is not the configuration of the weights beside it")
    data = trainer.dataset(config.data)
    record = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    found = of_evaluation(_evaluate(loaded, config, data, _scored(config, data)))
    for name, value in record["measured_again"].items():
        again = found.get(name, math.nan)  # this release may lack a metric that the exporting one had
        # It may be another device than the one that exported; predictions are compared below.
        if not agreement.nearly_same(name, again, value):
            raise MismatchError(f"{folder}: {name} was {value:.6f} when exported, the loaded weights give {again:.6f}")
    if len(data.test):
        _check_predictions(folder, record, submission.predictions(loaded.model, config, data), data)
    return found


def _check_predictions(
    folder: Path, record: Mapping[str, Any], predicted: submission.Predictions, data: Dataset
) -> None:
    """Raise MismatchError where the files say otherwise of the test images."""
    logits, before = np.load(folder / submission.LOGITS), submission.read_predictions(folder)
    if not agreement.same_predictions(before, predicted.rows, predicted.logits) or not np.allclose(
        logits, predicted.logits.numpy(), rtol=RELATIVE_TOLERANCE, atol=TOLERANCE
    ):
        raise MismatchError(f"{folder}: the loaded weights predict the test images otherwise than its files say")
    _check_test_accuracy(folder, record, predicted, data)


def _check_test_accuracy(
    folder: Path, record: Mapping[str, Any], predicted: submission.Predictions, data: Dataset
) -> None:
    """Raise MismatchError where metrics.json says another one; that of an earlier release says none."""
    said = record.get("accuracy", {}).get("test", {}).get("value")
    again = predicted.accuracy(data.test)
    if said is not None and (again is None or not agreement.nearly_same("test_acc", again, said)):
        raise MismatchError(
            f"{folder}: the test accuracy was {said:.6f} when exported, the loaded weights give {again}"
        )


def verify_in_fresh_process(folder: Path, data_root: Scalar = None) -> None:
    """`verify`, in a process that knows nothing but the folder. Raise MismatchError with what it says."""
    where = [] if data_root is None else ["--data-root", str(data_root)]
    command = [sys.executable, "-m", "orchestrator.export", str(folder.absolute()), *where]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise MismatchError(
            f"the exported folder does not hold when it is loaded afresh: {last[0]}; nothing was exported"
        )


def _located(config: TrialConfig, data_root: Scalar) -> TrialConfig:
    return config if data_root is None else config.with_settings({"data.root": data_root})


def _fid(distance: Distance | str) -> dict[str, Scalar]:
    if isinstance(distance, str):
        return {"fid": None, "fid_error": distance}
    return {
        "fid": distance.value,
        "fid_error": None,
        "fid_standard_error": distance.standard_error,
        "fid_extractor": distance.extractor,
        "fid_images": distance.images,
        "fid_reference": distance.reference,
    }


def _write_checksums(folder: Path) -> None:
    """A file that `sha256sum -c` reads."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def _accuracy(
    loaded: checkpoint.Weights,
    config: TrialConfig,
    data: Dataset,
    evaluation: Evaluation,
    predicted: submission.Predictions | None,
) -> dict[str, Accuracy]:
    """The accuracy on the training images that `train_acc` is of, on the validation images and on the test images."""
    some = evaluate.fixed_subset(data.train, config.eval.train_images, config.seed)
    of_train = _evaluate(loaded, config, data, some).accuracy if len(some) else None
    of_test = None if predicted is None else predicted.accuracy(data.test)
    hidden = "not known: the data set hides the labels" if len(data.test) else "the data set has no test images"
    return {
        "train": Accuracy(
            value=of_train,
            images=len(some),
            of=len(data.train),
            reason=None if len(some) else "not measured: eval.train_images is 0",
        ),
        "validation": Accuracy(value=evaluation.accuracy, images=len(evaluation.names), of=len(data.validation)),
        "test": Accuracy(
            value=of_test,
            images=0 if of_test is None else len(data.test),
            of=len(data.test),
            reason=hidden if of_test is None else None,
        ),
    }


def _scored(config: TrialConfig, data: Dataset) -> Split:
    """The validation images by which the trial was measured."""
    return evaluate.scored(data.validation, config.eval.max_images)


def _evaluate(loaded: checkpoint.Weights, config: TrialConfig, data: Dataset, split: Split) -> Evaluation:
    """Measure a split of the data again."""
    return evaluate.evaluate(
        loaded.model.to(trainer.device()),
        split,
        evaluate.log_prior(config.eval.prior, data.train.labels, data.nr_classes),
        batch_size=config.eval.batch_size,
        bf16=config.eval.precision == "bf16",
    )


def _as_graded(loaded: checkpoint.Weights, config: TrialConfig) -> dict[str, float] | None:
    """The validation metrics on the pixels that the course's scripts grade on; None where they are the trial's own."""
    quantize = SOURCES[config.data.name].graded_with.get("data.quantize", config.data.quantize)
    if quantize or not config.data.quantize:
        return None
    unrounded = trainer.dataset(config.data.model_copy(update={"quantize": False}))
    if unrounded.validation.images.dtype == torch.uint8:  # nothing was resized, so nothing was rounded
        return None
    found = of_evaluation(_evaluate(loaded, config, unrounded, _scored(config, unrounded)))
    return {name: found[name] for name in ("val_acc", "val_bpd")}


def _write_json(path: Path, content: object) -> None:
    with path.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def _replace(temporary: Path, out: Path) -> None:
    """Give the folder its name. A folder that has it already goes only once the new one is complete."""
    if not out.exists():
        temporary.rename(out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".old"))
    out.rename(old / out.name)
    temporary.rename(out)
    shutil.rmtree(old)
