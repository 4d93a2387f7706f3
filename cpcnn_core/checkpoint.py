"""Checkpoints: evaluated weights to keep, and training state to resume from.

A trial's folder holds

    index.json                 the commit point: which files count, their SHA-256, the metrics of every finished epoch
    index.before.json          the one before it
    weights-0003.safetensors   the weights that epoch 3 was evaluated with, its config and metrics in the header
    state-00000390.pt          all that training needs to go on after optimizer step 390

Every file is written under a temporary name, synced and renamed, the index last. A file that does not match its
checksum is named in the log and passed over in favour of the one before.

Training states are large. They are copied to the CPU and written by a thread, while training or the evaluation of the
epoch goes on. A state counts once the index names it; what it is worth, a finished epoch or a step within one, the
index says too, so that the state after an epoch's last step is written once.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from cpcnn_core import checkpoint_index, seeds, tensor_files
from cpcnn_core.checkpoint_index import FORMAT, INDEX, INDEX_BEFORE, DamagedIndexError, Location
from cpcnn_core.class_names import numbers
from cpcnn_core.config import ConfigError, Scalar, TrialConfig
from cpcnn_core.errors import CheckpointError as CheckpointError
from cpcnn_core.files import sha256, write_atomically
from cpcnn_core.keeping import kept_epochs
from cpcnn_core.metrics import EpochMetrics
from cpcnn_core.model import ConditionalPixelCNN

logger = logging.getLogger(__name__)

KEPT_STATES = 2  # the last, and the one before in case the last is damaged
_METADATA = "cpcnn"  # the key of our header in that of safetensors
_EXPECTED = "expected weights that a sweep, a trial or best wrote"


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
    class_names: tuple[str, ...]  # numbers, where the file's release did not write them


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
    class_names: Sequence[str] | None = None,
) -> None:
    """Write weights as safetensors, with all that is needed to rebuild the network in the header."""
    header = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "image_shape": list(image_shape),
        "nr_classes": nr_classes,
        "class_names": list(class_names or numbers(nr_classes)),
        "epoch": epoch,
        "metrics": metrics,
        "notes": notes or {},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    content = safetensors_bytes(tensors, metadata={_METADATA: json.dumps(header)})
    write_atomically(path, lambda stream: stream.write(content))


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)

    format: int
    config: dict[str, Any]
    image_shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    nr_classes: Annotated[int, Field(ge=1)]
    class_names: list[str] | None = None  # files of earlier releases have none
    epoch: Annotated[int, Field(ge=0)]
    metrics: dict[str, Any]
    notes: dict[str, Any]


def load_weights(path: Path, *, origin: Location | None = None) -> Weights:
    """Rebuild the network that a weights file holds, on the CPU.

    `origin` is what the file at `path` is a copy of: errors name it, and what lies beside it records the checksum.

    Raise CheckpointError where the file is not the one whose SHA-256 is recorded beside it, its header is broken or of
    another network than its tensors, or a tensor holds values that are not finite.
    """
    origin = path if origin is None else origin
    recorded = checkpoint_index.recorded_checksum(origin)
    if recorded is not None and path.is_file() and sha256(path) != recorded[0]:
        raise CheckpointError(
            f"{origin}: damaged, its SHA-256 is not the one that {recorded[1]} beside it records; copy it again from "
            "where it came, or take another epoch's weights"
        )
    tensors, metadata = tensor_files.read_safetensors(path, expected=_EXPECTED, origin=origin)
    header, config = _read_header(origin, metadata)
    tensor_files.require_weights(origin, tensors)
    model = _rebuilt(origin, header, config, tensors)
    tensor_files.require_finite(origin, tensors)
    model.load_state_dict(tensors)
    names = numbers(header.nr_classes) if header.class_names is None else tuple(header.class_names)
    if len(set(names)) != header.nr_classes or len(names) != header.nr_classes:
        raise CheckpointError(f"{origin}: its header has {len(set(names))} names for {header.nr_classes} classes")
    return Weights(model.eval(), config, header.epoch, header.metrics, header.notes, names)


def is_ours(metadata: Mapping[str, str]) -> bool:
    """Whether this is the metadata of a weights file that `save_weights` wrote."""
    return _METADATA in metadata


def _read_header(origin: Location, metadata: Mapping[str, str]) -> tuple[_Header, TrialConfig]:
    if not is_ours(metadata):
        raise CheckpointError(
            f"{origin}: a safetensors file, but its header holds no trial; weights come from a sweep, a trial or best"
        )
    try:
        found = json.loads(metadata[_METADATA])
        _check_format(origin, found)
        header = _Header.model_validate(found)
        return header, TrialConfig.from_tree(header.config)
    except CheckpointError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = ".".join(map(str, first["loc"])) + f": {first['msg'].lower()}"
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
    raise CheckpointError(f"{origin}: its header is broken ({reason}); {_EXPECTED}")


def _check_format(origin: Location, header: object) -> None:
    written_in = header.get("format") if isinstance(header, dict) else None
    if isinstance(written_in, int) and written_in != FORMAT:
        raise CheckpointError(f"{origin}: written in format {written_in}, this version reads {FORMAT}")


def _rebuilt(
    origin: Location, header: _Header, config: TrialConfig, tensors: Mapping[str, Tensor]
) -> ConditionalPixelCNN:
    """A network of the header's sizes, into which the tensors fit."""
    channels, height, width = header.image_shape
    # Sizes are numbers of tensors or of their values; those of a broken header would take all memory and hours.
    most = sum(tensor.numel() for tensor in tensors.values())
    sizes = [value for value in _scalars(config.model.model_dump()) if isinstance(value, int)]
    if config.model.nr_resnet > len(tensors) or any(
        size > most for size in (*sizes, header.nr_classes, *header.image_shape)
    ):
        raise CheckpointError(f"{origin}: its header is of a larger network than its {len(tensors)} tensors")
    try:
        model = build_model(config, (channels, height, width), header.nr_classes)
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        reason = tensor_files.reason(error)
        raise CheckpointError(f"{origin}: the network of its header cannot be built: {reason}") from None
    wanted = model.state_dict()
    problems = [
        *(f"{name} is missing" for name in wanted if name not in tensors),
        *(f"{name} is unknown" for name in tensors if name not in wanted),
        *(
            f"{name} is {tuple(tensors[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{origin}: its tensors do not fit the network of its own header: {tensor_files.some(problems)}"
        )
    return model


def _scalars(tree: Mapping[str, Any]) -> list[Scalar]:
    return [x for value in tree.values() for x in (_scalars(value) if isinstance(value, Mapping) else [value])]


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of weights by their names, types, shapes and values, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._known: dict[str, str] = {}  # states that this process has read or written: their checksums

    @property
    def history(self) -> list[EpochMetrics]:
        """Metrics of every finished epoch that the newest usable state has behind it."""
        return [EpochMetrics.from_record(record) for record in self._index["history"]]

    def load_state(self) -> dict[str, Any] | None:
        """The newest undamaged training state, on the CPU, or None. Cuts the history back to it.

        Raise CheckpointError where its weights are not finite.
        """
        for name in sorted(self._index["states"], reverse=True):
            entry = self._index["states"][name]
            try:
                state = read_state(self.folder / name, entry["sha256"], epoch=entry["epoch"])
            except CheckpointError as error:
                logger.warning("checkpoint %s; going back to the one before", error)
                continue
            # Not passed over: training would come to the same weights again.
            tensor_files.require_finite(self.folder / name, _weights_of(state))
            self._index["history"] = self._index["history"][: entry["epoch"] - self.config.lineage.epochs_before]
            self._known[name] = entry["sha256"]
            return state
        self._index["history"] = []
        return None

    @property
    def is_begun(self) -> bool:
        """Whether there is a state to go on from, however damaged."""
        return bool(self._index["states"])

    def begin(self, state: dict[str, Any]) -> None:
        """Commit what a trial begins with that continues another one, unless it has begun. See `train.begin_state`.

        One that has not finished an epoch begins again where its state is damaged.
        """
        if not self.is_begun or (not self.history and self.load_state() is None):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.save_state(state, epoch=state["epoch"], step=state["step"])

    def save_state(self, state: dict[str, Any], *, epoch: int, step: int) -> None:
        """Commit a training state in the middle of an epoch, after `epoch` finished ones."""
        self.write_state(state, epoch=epoch, step=step, commit=True)
        self.wait()

    def write_state(self, state: dict[str, Any], *, epoch: int, step: int, commit: bool) -> None:
        """Copy a training state to the CPU, and have a thread write it and, with `commit`, commit it.

        Nothing is written that this process has read or written already. Raise what the write before raised.
        """
        self.wait()
        name = _state_name(step)
        if self._known.get(name) is None:
            copied = _on_cpu(state)
            self._writing = self._pool.submit(self._write, copied, step, epoch if commit else None)
        elif commit:
            self.commit_state(epoch=epoch, step=step)

    def commit_state(self, *, epoch: int, step: int) -> None:
        """Have the state that was written after `step` count, with `epoch` finished epochs behind it."""
        self.wait()
        if _state_name(step) not in self._index["states"]:
            self._name_state(epoch, step)
            self._commit()

    def wait(self) -> None:
        """Wait until nothing is being written. Raise what that raised."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Wait until nothing is being written; what that raised is said in the log, for something else went wrong."""
        try:
            self.wait()
        except Exception as error:  # noqa: BLE001 - whatever writing raises
            logger.error("%s: the training state was not written: %s", self.folder, error)  # noqa: TRY400
        self._pool.shutdown()

    def save_epoch(
        self,
        state: dict[str, Any] | None,
        weights: dict[str, Tensor],
        metrics: EpochMetrics,
        *,
        image_shape: tuple[int, int, int],
        nr_classes: int,
        class_names: Sequence[str] | None = None,
        notes: dict[str, Any] | None = None,
    ) -> EpochMetrics:
        """Commit a finished epoch; return its metrics with the fields that say what is on disk filled in.

        What training resumes from is `state`, or without one what `write_state` wrote after the epoch's last step.
        Imported weights have neither. `notes` go into the header of the weights file.
        """
        self.wait()
        history = [*self.history, metrics]
        there = {*self._weights_there(), metrics.epoch}
        keep = kept_epochs(history, self.config.train, there)
        name = weights_name(metrics.epoch)
        save_weights(
            self.folder / name,
            weights,
            config=self.config,
            image_shape=image_shape,
            nr_classes=nr_classes,
            class_names=class_names,
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
            self._write(state, metrics.step, None)
        self._name_state(metrics.epoch, metrics.step)
        self._commit()
        return metrics

    def _weights_there(self) -> set[int]:
        """The epochs whose weights were kept so far, here or where this folder is mirrored."""
        return {int(name.removeprefix("weights-").partition(".")[0]) for name in self._index["weights"]}

    def _write(self, state: dict[str, Any], step: int, epoch: int | None) -> None:
        """Write a state's file; commit it where it is said how many epochs are finished."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content, name = buffer.getbuffer(), _state_name(step)
        write_atomically(self.folder / name, lambda stream: stream.write(content))
        self._known[name] = hashlib.sha256(content).hexdigest()
        if epoch is not None:
            self._name_state(epoch, step)
            self._commit()

    def _name_state(self, epoch: int, step: int) -> None:
        """Have the index name the state after `step`, if there is one, with so many finished epochs behind it."""
        checksum = self._known.get(name := _state_name(step))
        if checksum is not None:
            states = self._index["states"] | {name: {"sha256": checksum, "epoch": epoch}}
            self._index["states"] = {kept: states[kept] for kept in sorted(states)[-KEPT_STATES:]}

    def _commit(self) -> None:
        content = json.dumps(self._index, indent=1).encode()
        if (self.folder / INDEX).exists():
            before = (self.folder / INDEX).read_bytes()
            write_atomically(self.folder / INDEX_BEFORE, lambda stream: stream.write(before))
        write_atomically(self.folder / INDEX, lambda stream: stream.write(content))
        known = {*self._index["states"], *self._index["weights"]}
        for pattern in ("weights-*.safetensors", "state-*.pt", ".*.tmp"):
            for file in self.folder.glob(pattern):
                if file.name not in known:
                    file.unlink()

    def _read_index(self) -> dict[str, Any]:
        """The index, the one before where it is damaged, or a fresh one."""
        for name in (INDEX, INDEX_BEFORE):
            path = self.folder / name
            try:
                return checkpoint_index.parse(path.read_bytes(), path)
            except FileNotFoundError:
                continue
            except DamagedIndexError as error:
                logger.warning("checkpoint index %s: damaged (%s); going back to the one before", path, error)
        return {"format": FORMAT, "trial_id": self.config.trial_id, "history": [], "weights": {}, "states": {}}


def read_state(path: Path, checksum: str, *, epoch: int) -> dict[str, Any]:
    """The training state that goes with so many finished epochs, on the CPU.

    Raise CheckpointError where it is missing or not the one with this SHA-256.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    if hashlib.sha256(content).hexdigest() != checksum:
        raise CheckpointError(f"{path}: damaged (its SHA-256 is not the recorded one)")
    state = tensor_files.read_state(content, path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a training state")
    if state.get("position") and state["epoch"] + 1 == epoch:  # written before the epoch was evaluated
        state |= {"epoch": epoch, "position": 0, "sums": {}}
    return state


def _weights_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's weights and their average in a training state."""
    parts = {part: state.get(part) for part in ("model", "ema")}
    return {
        f"{part}.{name}": value
        for part, values in parts.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _state_name(step: int) -> str:
    return f"state-{step:08d}.pt"


def _on_cpu(part: Any) -> Any:  # Any: whatever a state is made of
    """A copy of a training state that what is trained on does not change."""
    if isinstance(part, Tensor):
        return part.detach().to("cpu", copy=True)
    if isinstance(part, Mapping):
        return {name: _on_cpu(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return type(part)(_on_cpu(value) for value in part)
    return part


def weights_name(epoch: int) -> str:
    """The file name of an epoch's weights."""
    return f"weights-{epoch:04d}.safetensors"
