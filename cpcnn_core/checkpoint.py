"""Checkpoints: evaluated weights to keep, and training state to resume from.

A trial's folder holds

    index.json                 the commit point: which files count, their SHA-256, the metrics of every finished epoch
    index.before.json          the one before it
    weights-0003.safetensors   the weights that epoch 3 was evaluated with, its config and metrics in the header
    state-00000390.pt          all that training needs to go on after optimizer step 390

Every file is written under a temporary name, synced and renamed, the index last. A file that does not match its
checksum is named in the log and passed over in favour of the one before.
"""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from cpcnn_core import seeds
from cpcnn_core.config import TrialConfig
from cpcnn_core.errors import CheckpointError as CheckpointError
from cpcnn_core.files import sha256, write_atomically
from cpcnn_core.metrics import OF_IMAGES, EpochMetrics, ruler_of
from cpcnn_core.model import ConditionalPixelCNN

logger = logging.getLogger(__name__)

KEPT_BEST_BY = {"val_acc": "max", "val_bpd": "min", "score": "max", "fid": "min", "fid_infinity": "min", "kid": "min"}
"""The metrics whose best epoch keeps its weights; one that was not measured keeps nothing."""

KEPT_STATES = 2  # the last, and the one before in case the last is damaged
_FORMAT = 1
_INDEX, _INDEX_BEFORE = "index.json", "index.before.json"


def build_model(config: TrialConfig, image_shape: tuple[int, int, int], nr_classes: int) -> ConditionalPixelCNN:
    """A network initialised from the config's seed alone; the global generators stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.seed(config.seed, seeds.Purpose.WEIGHTS))
        return ConditionalPixelCNN(config.model, image_shape, nr_classes)


# --- weights ---


@dataclass(frozen=True)
class Weights:
    """A loaded weights file."""

    model: ConditionalPixelCNN
    config: TrialConfig
    epoch: int
    metrics: dict[str, Any]
    notes: dict[str, Any]


def save_weights(
    path: Path,
    state_dict: dict[str, Tensor],
    *,
    config: TrialConfig,
    image_shape: tuple[int, int, int],
    nr_classes: int,
    epoch: int,
    metrics: dict[str, Any],
    notes: dict[str, Any] | None = None,
) -> None:
    """Write weights as safetensors, with all that is needed to rebuild the network in the header."""
    header = {
        "format": _FORMAT,
        "config": config.model_dump(mode="json"),
        "image_shape": list(image_shape),
        "nr_classes": nr_classes,
        "epoch": epoch,
        "metrics": metrics,
        "notes": notes or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    content = safetensors_bytes(tensors, metadata={"cpcnn": json.dumps(header)})
    write_atomically(path, lambda stream: stream.write(content))


def load_weights(path: Path) -> Weights:
    """Rebuild the network that a weights file holds. Raise CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state_dict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    if "cpcnn" not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file, but its header holds no trial; weights come from a sweep, a trial or best"
        )
    header = json.loads(metadata["cpcnn"])
    config = TrialConfig.from_tree(header["config"])
    channels, height, width = header["image_shape"]
    model = build_model(config, (channels, height, width), header["nr_classes"])
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: weights do not fit the network of their own config: {error}") from None
    return Weights(model.eval(), config, header["epoch"], header["metrics"], header["notes"])


# --- training state ---


class CheckpointFolder:
    """The checkpoints of one trial."""

    def __init__(self, folder: Path, config: TrialConfig) -> None:
        self.folder = folder
        self.config = config
        self._index = self._read_index()
        if self._index["trial_id"] != config.trial_id:
            raise CheckpointError(
                f"{folder}: holds the checkpoints of trial {self._index['trial_id']}, not of {config.trial_id}; "
                "give each trial a folder of its own"
            )

    @property
    def history(self) -> list[EpochMetrics]:
        """Metrics of every finished epoch that the newest usable state has behind it."""
        return [EpochMetrics.from_record(record) for record in self._index["history"]]

    def load_state(self) -> dict[str, Any] | None:
        """The newest undamaged training state, on the CPU, or None. Cuts the history back to it."""
        for name in sorted(self._index["states"], reverse=True):
            entry = self._index["states"][name]
            reason = self._damage(name, entry["sha256"])
            if reason is None:
                state: dict[str, Any] = torch.load(self.folder / name, map_location="cpu", weights_only=True)
                self._index["history"] = self._index["history"][: entry["epoch"]]
                return state
            logger.warning("checkpoint %s: %s; going back to the one before", self.folder / name, reason)
        self._index["history"] = []
        return None

    def save_state(self, state: dict[str, Any], *, epoch: int, step: int) -> None:
        """Commit a training state in the middle of an epoch, after `epoch` finished ones."""
        self._add_state(state, epoch, step)
        self._commit()

    def save_epoch(
        self,
        state: dict[str, Any] | None,
        weights: dict[str, Tensor],
        metrics: EpochMetrics,
        *,
        image_shape: tuple[int, int, int],
        nr_classes: int,
        notes: dict[str, Any] | None = None,
    ) -> EpochMetrics:
        """Commit a finished epoch; return its metrics with the fields that say what is on disk filled in.

        Imported weights have no `state` to resume from. `notes` go into the header of the weights file.
        """
        history = [*self.history, metrics]
        keep = kept_epochs(history)
        name = weights_name(metrics.epoch)
        save_weights(
            self.folder / name,
            weights,
            config=self.config,
            image_shape=image_shape,
            nr_classes=nr_classes,
            epoch=metrics.epoch,
            metrics=metrics.row(),
            notes=notes,
        )
        metrics = metrics.replaced(checkpoint=name, kept_epochs=keep)
        self._index["history"].append(metrics.record())
        self._index["weights"] = {
            weights_name(epoch): self._index["weights"].get(weights_name(epoch)) for epoch in keep
        } | {name: sha256(self.folder / name)}
        if state is not None:
            self._add_state(state, metrics.epoch, metrics.step)
        self._commit()
        return metrics

    def _add_state(self, state: dict[str, Any], epoch: int, step: int) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        name = f"state-{step:08d}.pt"
        write_atomically(self.folder / name, lambda stream: stream.write(buffer.getbuffer()))
        states = self._index["states"] | {name: {"sha256": sha256(self.folder / name), "epoch": epoch}}
        self._index["states"] = {kept: states[kept] for kept in sorted(states)[-KEPT_STATES:]}

    def _commit(self) -> None:
        content = json.dumps(self._index, indent=1).encode()
        if (self.folder / _INDEX).exists():
            before = (self.folder / _INDEX).read_bytes()
            write_atomically(self.folder / _INDEX_BEFORE, lambda stream: stream.write(before))
        write_atomically(self.folder / _INDEX, lambda stream: stream.write(content))
        known = {*self._index["states"], *self._index["weights"]}
        for pattern in ("weights-*.safetensors", "state-*.pt", ".*.tmp"):
            for file in self.folder.glob(pattern):
                if file.name not in known:
                    file.unlink()

    def _damage(self, name: str, checksum: str) -> str | None:
        path = self.folder / name
        if not path.exists():
            return "missing"
        return None if sha256(path) == checksum else "damaged (its SHA-256 is not the recorded one)"

    def _read_index(self) -> dict[str, Any]:
        """The index, the one before where it is damaged, or a fresh one."""
        for name in (_INDEX, _INDEX_BEFORE):
            path = self.folder / name
            try:
                index = json.loads(path.read_text())
                known = index["format"] == _FORMAT
            except FileNotFoundError:
                continue
            except (ValueError, TypeError, KeyError) as error:
                logger.warning("checkpoint index %s: damaged (%r); going back to the one before", path, error)
                continue
            if not known:
                raise CheckpointError(f"{path}: written in format {index['format']}, this version reads {_FORMAT}")
            return dict(index)
        return {"format": _FORMAT, "trial_id": self.config.trial_id, "history": [], "weights": {}, "states": {}}


def weights_name(epoch: int) -> str:
    """The file name of an epoch's weights."""
    return f"weights-{epoch:04d}.safetensors"


def kept_epochs(history: list[EpochMetrics]) -> tuple[int, ...]:
    """The epochs whose weights stay: the best by each of `KEPT_BEST_BY` (the earliest of equals), and the last."""
    keep = {history[-1].epoch}
    # Resumed on another machine, a trial may go on with other features; its earlier FIDs do not compare with those.
    rows: list[dict[str, Any]] = [epoch.row() for epoch in history]
    ruler = next((ruler_of(row) for row in reversed(rows) if row["fid_extractor"] is not None), None)
    for metric, direction in KEPT_BEST_BY.items():
        values = [
            (float(value), row["epoch"])
            for row in rows
            if (value := row.get(metric)) is not None and (metric not in OF_IMAGES or ruler_of(row) == ruler)
        ]
        if values:
            sign = 1 if direction == "min" else -1
            keep.add(min(values, key=lambda pair: (sign * pair[0], pair[1]))[1])
    return tuple(sorted(keep))
