"""Exporting a checkpoint: a folder with weights, configuration and metrics, checked before it gets its name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cpcnn_core import checkpoint, evaluate, starter
from cpcnn_core.config import Scalar
from orchestrator import provenance, training
from orchestrator.leaderboard import Entry

TOLERANCE = 1e-4

WEIGHTS, CONFIG, METRICS = "weights.safetensors", "config.json", "metrics.json"
STARTER_WEIGHTS = "conditional_pixelcnn.pth"  # the same tensors as the course's starter code stores them


class ExportError(Exception):
    """An export that cannot be made."""


class MismatchError(ExportError):
    """Exported weights that do not reproduce what was recorded."""


@dataclass(frozen=True)
class Exported:
    """What lies in `folder`, and how well the recorded metrics were reproduced."""

    folder: Path
    checked: Mapping[str, tuple[float, float]]  # by metric: recorded, measured again


def export(
    entry: Entry, epoch: Mapping[str, Any], metric: str, out: Path, *, force: bool = False, data_root: Scalar = None
) -> Exported:
    """Copy the epoch's weights with their configuration and metrics to `out`, once they measure what was recorded.

    Raise ExportError where `out` is taken and not to be replaced, MismatchError where `metric` (or, where evaluation
    does not give it, any metric that it gives) differs by more than 1e-4. In both cases `out` is as it was.
    """
    if out.exists() and not force:
        raise ExportError(f"{out}: exists; --force replaces it, --out DIR puts the export elsewhere")
    if out.exists() and any(out.iterdir()) and not all((out / name).is_file() for name in (WEIGHTS, METRICS)):
        raise ExportError(f"{out}: holds something that is no export of ours; --force replaces only those")
    source = entry.store.folder / str(epoch["checkpoint"])
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    try:
        weights = temporary / WEIGHTS
        try:
            shutil.copyfile(source, weights)
        except FileNotFoundError:
            raise ExportError(f"{source}: the table names this checkpoint, but it is gone") from None
        loaded = checkpoint.load_weights(weights)
        again = _evaluate(loaded, data_root)
        checked = _check(again, epoch, metric, str(entry.trial["device"]))
        starter.export_starter(temporary / STARTER_WEIGHTS, loaded.model.cpu(), starter.Layout.of_notes(loaded.notes))
        _write_json(temporary / CONFIG, loaded.config.model_dump(mode="json"))
        _write_json(
            temporary / METRICS,
            {
                "sweep": entry.store.folder.name,
                "trial_id": entry.trial_id,
                "chosen_by": metric,
                "recorded": dict(epoch),
                "measured_again": {name: measured for name, (_, measured) in checked.items()},
                "confusion": again.confusion.tolist(),  # rows: true classes, columns: predicted ones
                "trained": {key: entry.trial[key] for key in ("git_commit", "host", "device", "started", "ended")},
                "exported": {"at": provenance.now(), "git_commit": provenance.git_commit()},
                "versions": provenance.versions(),
            },
        )
        temporary.chmod(0o755)
        _replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Exported(out, checked)


def _evaluate(loaded: checkpoint.Weights, data_root: Scalar) -> evaluate.Evaluation:
    """Measure the validation split again."""
    config = loaded.config if data_root is None else loaded.config.with_settings({"data.root": data_root})
    data = training.dataset(config.data)
    return evaluate.evaluate(
        loaded.model.to(_device()),
        data.validation,
        evaluate.log_prior(config.eval.prior, data.train.labels, data.nr_classes),
        batch_size=config.eval.batch_size,
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check(
    evaluation: evaluate.Evaluation, epoch: Mapping[str, Any], metric: str, device: str
) -> dict[str, tuple[float, float]]:
    """Recorded and measured, by metric. Raise MismatchError."""
    again = evaluation.metrics()
    checked = {name: (float(epoch[name]), value) for name, value in again.items() if epoch.get(name) is not None}
    for name in [metric] if metric in checked else checked:
        recorded, measured = checked[name]
        if not abs(recorded - measured) <= TOLERANCE:
            raise MismatchError(
                f"{epoch['checkpoint']}: {name} was recorded as {recorded:.6f} on {device}, the exported weights give "
                f"{measured:.6f} on {_device()}; nothing was exported. Data, code or weights are not the same"
            )
    return checked


def _write_json(path: Path, content: object) -> None:
    with path.open("w") as stream:
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
