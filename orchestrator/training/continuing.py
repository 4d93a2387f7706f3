"""A trial that goes on from where another one, or a file of weights, ended: its configuration, and what it begins with.

It is a trial of its own. Its identity holds its parent's id, what was changed, its total of epochs and the SHA-256 of
the weights that it begins with. Its epochs are numbered on from its parent's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cpcnn_core import checkpoint_index
from cpcnn_core.checkpoint import CheckpointFolder, fingerprint, load_weights, read_state
from cpcnn_core.checkpoint_index import DamagedIndexError
from cpcnn_core.config import LOCATIONS, OF_THE_TOTAL, ConfigError, Scalar, TrialConfig, check_field
from cpcnn_core.data import Dataset
from cpcnn_core.errors import CheckpointError
from cpcnn_core.optim import lr_factor
from cpcnn_core.starter import import_starter
from cpcnn_core.train import begin_state
from orchestrator.records import trial_ids
from orchestrator.records.location import on_disk, size
from orchestrator.records.states import meaning_of
from orchestrator.records.store import Row, Store, StoreError, as_int, config_of
from orchestrator.text import calling
from orchestrator.text.formatting import plain
from orchestrator.training import trainer

_NETWORK = "the weights that go on are of the network as it was"
_DATA = "a trial goes on with the data that it began with"
_REFUSED: Mapping[str, str] = {
    "train.epochs": "--more-epochs says how many more there are, --epochs how many in all",
    "train.data_dependent_init": "it sets weights before the first step, and the weights are there",
    "source": "it is an imported file's",
    "protocol": "it is this release's",
}
_MAY_CHANGE = frozenset({"model.dropout", "model.dropout_kind", "seed", *LOCATIONS})
_OF_FILE = ("model.nr_resnet", "model.nr_filters", "model.nr_logistic_mix")


@dataclass(frozen=True)
class Length:
    """How long a trial is to go on: for so many more epochs, or up to so many in all."""

    more: int | None
    total: int | None

    def after(self, epochs: int) -> int:
        """The total, after so many epochs. Raise ConfigError where that is not one number, and more."""
        if (self.more is None) == (self.total is None):
            raise ConfigError("--from: say with --more-epochs how many more, or with --epochs how many in all")
        total = self.total if self.more is None else epochs + self.more
        assert total is not None
        if total <= epochs:
            raise ConfigError(f"--epochs {total}: is the total, and {epochs} are there; --more-epochs adds to them")
        return total


@dataclass(frozen=True)
class Start:
    """A trial that continues another one, and what it begins with."""

    config: TrialConfig
    weights: dict[str, Tensor]
    known: dict[str, Any] | None  # the training state that its parent ended with
    parent: TrialConfig | None  # None where the weights came from a file
    remarks: tuple[str, ...]

    def begin(self, store: Store) -> None:
        """Put into the trial's folder what it begins with, unless it has begun. Only for who alone trains it.

        The index comes last: killed before, it is put there again.
        """
        trial_id = self.config.trial_id
        if store.is_remote and _has_begun(store, trial_id):
            return
        state = begin_state(self.known, self.weights, self.config, None if self.parent is None else self.parent.train)
        CheckpointFolder(store.training_folder(trial_id), self.config).begin(state)


def is_file(source: str) -> bool:
    """Whether what is named is a file, rather than a trial's id or the beginning of one."""
    if re.fullmatch(r"[0-9a-f]{1,12}", source) is None:
        return True
    return len(source) < trial_ids.WHOLE and Path(source).is_file()


def of_trial(store: Store, trial_id: str, length: Length, given: Mapping[str, Scalar]) -> Start:
    """The trial that continues the one of this id, with some settings changed.

    Raise ConfigError for what cannot be changed, StoreError where the trial cannot be continued.
    """
    config, epoch = _ended(store, trial_id)
    check_settings(config, given)
    weights = _last_weights(store, trial_id, epoch)
    imported = config.source is not None
    before, steps = (0, 0) if imported else (as_int(epoch["epoch"]), as_int(epoch["step"]))
    known, reason = (None, "it is an imported file's") if imported else _state(store, trial_id, before)
    lineage: dict[str, Scalar] = {
        "lineage.parent": trial_id,
        "lineage.root": config.lineage.root or trial_id,
        "lineage.weights": fingerprint(weights if known is None else known["model"]),
        "lineage.epochs_before": before,
        "lineage.steps_before": steps,
    }
    total: dict[str, Scalar] = {"train.epochs": length.after(before), "source": None}
    child = trainer.with_one_extractor(config.with_settings({**given, **lineage, **total}))
    other = child.train.optimizer != config.train.optimizer
    child = child.with_settings({"lineage.fresh_optimizer": known is None or other})
    remarks = _remarks(child, config, known, reason)
    return Start(child, weights, known, config, remarks)


def of_file(file: Path, length: Length, given: Mapping[str, Scalar]) -> Start:
    """The trial that goes on from the weights in a file of the starter code. Raise CheckpointError or ConfigError."""
    for name in _OF_FILE:
        if name in given:
            raise ConfigError(f"--set {name}: is read off the shapes in {file}; leave it out")
    if "model.fusion" not in given:
        raise ConfigError(f"--from {file}: say with --set model.fusion=NAME which fusion the file's network has")
    refused = _reasons(name for name in given if name in _REFUSED)
    if refused:
        raise ConfigError("\n".join(refused))
    total: dict[str, Scalar] = {"train.epochs": length.after(0)}
    config = trainer.identified(
        trainer.with_one_extractor(TrialConfig.from_flat({"data.name": "cpen455", **given, **total}))
    )
    dataset: Dataset = trainer.dataset(config.data)
    try:
        found = import_starter(file, config, image_shape=dataset.image_shape, nr_classes=dataset.nr_classes)
    except CheckpointError as error:
        way_out = calling.again("trial", "import", str(file), "--fusion", str(given["model.fusion"]))
        raise CheckpointError(
            f"{error}\nA file of other names is imported first, and continued under its trial's id: {way_out}"
        ) from None
    weights = found.model.state_dict()
    lineage: dict[str, Scalar] = {"lineage.weights": fingerprint(weights), "lineage.fresh_optimizer": True}
    child = found.config.with_settings(lineage)
    said = "it does not say for how long it was trained; epochs are counted from here"
    return Start(child, weights, None, None, (*found.remarks, said, _begins_anew(child, "a file of weights has none")))


def recorded(store: Store, config: TrialConfig) -> Start:
    """What a recorded trial that continues another one began with, from its parent in the same folder.

    Raise StoreError or CheckpointError where that is not there any more.
    """
    lineage = config.lineage
    if lineage.parent is None:
        raise StoreError(
            f"trial {config.trial_id} continues a file of weights; run it again by the command that began it, "
            "`trial --from FILE`, with another --name"
        )
    if not store.attempts_of(lineage.parent):
        raise StoreError(f"{store.folder}: has no trial {lineage.parent}, which trial {config.trial_id} continues")
    epoch = next((row for row in store.epochs_of(lineage.parent) if row["epoch"] == lineage.epochs_before), None)
    parent = config_of(store.attempts_of(lineage.parent)[-1])
    if parent.source is not None:
        epoch = store.epochs_of(lineage.parent)[-1]
    if epoch is None:
        raise StoreError(f"{store.folder}: trial {lineage.parent} has no epoch {lineage.epochs_before} any more")
    weights = _last_weights(store, lineage.parent, epoch)
    known, reason = (None, None) if parent.source else _state(store, lineage.parent, lineage.epochs_before)
    if known is None and not lineage.fresh_optimizer:
        raise StoreError(f"{store.folder}: trial {lineage.parent}, which trial {config.trial_id} continues: {reason}")
    if fingerprint(weights if known is None else known["model"]) != lineage.weights:
        raise CheckpointError(
            f"{store.folder}: trial {lineage.parent} has other weights after epoch {lineage.epochs_before} than those "
            f"that trial {config.trial_id} began with"
        )
    return Start(config, weights, known, parent, ())


def begin(store: Store, config: TrialConfig) -> None:
    """Put there what a trial begins with that continues another one of the same folder, unless it has begun."""
    if not _has_begun(store, config.trial_id):
        recorded(store, config).begin(store)


def _has_begun(store: Store, trial_id: str) -> bool:
    """Whether the trial has a state to go on from, perhaps behind a URL, from where it will be fetched.

    There an index without a state comes first, and a machine may die before the state follows.
    """
    for name in (checkpoint_index.INDEX, checkpoint_index.INDEX_BEFORE):
        file = store.checkpoint_folder(trial_id) / name
        with suppress(FileNotFoundError, DamagedIndexError):
            if checkpoint_index.parse_files(file.read_bytes(), file)["states"]:
                return True
    return False


def check_settings(config: TrialConfig, given: Mapping[str, Scalar]) -> None:
    """Raise ConfigError for each setting that a trial which continues another one cannot change."""
    has = config.flat()
    changed = [name for name, value in given.items() if name in _REFUSED or has.get(name) != value]
    if refused := _reasons(changed):
        raise ConfigError("\n".join(refused))


def _reasons(names: Iterable[str]) -> list[str]:
    """What is wrong with changing these fields, a line for each that cannot change. Raise ConfigError for no field."""
    names = list(names)
    for name in names:
        check_field(name)
    reasons = {name: _reason(name) for name in names}
    return [f"--set {name}: cannot change when a trial goes on; {why}" for name, why in reasons.items() if why]


def _reason(name: str) -> str | None:
    """Why the field cannot change; None where it may."""
    if name in _REFUSED:
        return _REFUSED[name]
    if name in _MAY_CHANGE:
        return None
    section = name.partition(".")[0]
    return {"model": _NETWORK, "data": _DATA}.get(section)


# --- the parent


def _ended(store: Store, trial_id: str) -> tuple[TrialConfig, Row]:
    """The trial's configuration and its last epoch. Raise StoreError where it cannot be continued as it is."""
    attempts = store.attempts_of(trial_id)
    if not attempts:
        raise StoreError(f"{store.folder}: no trial {trial_id}")
    state, config = attempts[-1]["state"], config_of(attempts[-1])
    if not meaning_of(state).ended:
        raise StoreError(
            f"trial {trial_id} is {state}: it has not come to its end; the command that began it goes on with it"
        )
    config.check_protocol()
    epochs = store.epochs_of(trial_id)
    if not epochs:
        raise StoreError(f"trial {trial_id} is {state} without a finished epoch: there is nothing to go on from")
    return config, epochs[-1]


def _last_weights(store: Store, trial_id: str, epoch: Row) -> dict[str, Tensor]:
    """The weights of the trial's epoch. Raise StoreError where they are gone, CheckpointError where damaged."""
    file = None if epoch["checkpoint"] is None else store.folder / str(epoch["checkpoint"])
    if file is None or size(file) is None:
        raise StoreError(f"{store.folder}: the weights of trial {trial_id} after epoch {epoch['epoch']} are gone")
    with on_disk(file) as here:
        return load_weights(here, origin=file).model.state_dict()


def _state(store: Store, trial_id: str, epoch: int) -> tuple[dict[str, Any] | None, str | None]:
    """The training state that the trial ended this epoch with; None and the reason where none is left."""
    folder = store.checkpoint_folder(trial_id)
    file = folder / checkpoint_index.INDEX
    try:
        states = checkpoint_index.parse_files(file.read_bytes(), file)["states"]
    except (FileNotFoundError, DamagedIndexError) as error:
        return None, f"its index cannot be read ({error})"
    reason = "no training state of its end is left"
    for name in sorted((name for name, entry in states.items() if entry["epoch"] == epoch), reverse=True):
        try:
            with on_disk(folder / name) as here:
                state = read_state(here, states[name]["sha256"], epoch=epoch)
        except (FileNotFoundError, CheckpointError) as error:
            reason = str(error)
            continue
        if state["position"] == 0:  # else it is of the epoch after, in which the trial failed
            return state, None
    return None, reason


# --- what is said


def _remarks(
    child: TrialConfig, parent: TrialConfig, known: Mapping[str, Any] | None, reason: str | None
) -> tuple[str, ...]:
    """Sentences on what does not simply go on."""
    said = []
    if known is None:
        said.append(_begins_anew(child, str(reason)))
    elif child.lineage.fresh_optimizer:
        said.append(
            f"train.optimizer={child.train.optimizer}: its state begins anew, since another one was used so far"
        )
    if known is not None and child.train.ema_decay is not None and known["ema"] is None:
        said.append("train.ema_decay: the average of the weights begins with the weights as they are")
    if known is not None and child.train.ema_decay is None and parent.train.ema_decay is not None:
        said.append("train.ema_decay=null: the weights themselves go on, not their average, which was evaluated so far")
    if child.train.schedule in OF_THE_TOTAL:
        said.append(_restarts(child, parent))
    return tuple(said)


def _begins_anew(child: TrialConfig, reason: str) -> str:
    """What begins anew where no training state is known."""
    average = " and the average of the weights begin" if child.train.ema_decay is not None else " begins"
    return f"the optimizer's state{average} anew: {reason}"


def _restarts(child: TrialConfig, parent: TrialConfig) -> str:
    """What becomes of a learning rate whose course depends on the total."""
    total, before = child.train.epochs, child.lineage.epochs_before
    here = child.train.lr * lr_factor(child.train, before, 1)
    there = parent.train.lr * lr_factor(parent.train, before, 1)
    return (
        f"train.schedule={child.train.schedule} runs over all {total} epochs: the learning rate goes on at "
        f"{plain(here)}, where it was {plain(there)} after epoch {before}. This is a warm restart, not what a trial of "
        f"{total} epochs from the start would have done; --set train.schedule=constant with a train.lr avoids it"
    )
