"""Which sweeps of a results folder a choice is made among, where the user does not name them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cpcnn_core.suggest import nearest
from orchestrator.choosing.candidates import ChoiceError
from orchestrator.records import arrays, data_kinds
from orchestrator.records.data_kinds import DATA, Data
from orchestrator.records.kinds import IN_WORDS, Kind, kind_of
from orchestrator.records.location import Folder
from orchestrator.records.store import Store, StoreError, as_scalar, sweeps
from orchestrator.records.sweep_file import Asked, SweepRecord
from orchestrator.text import calling

# A choice is made of the first kind of these that there is one of.
_CHOSEN_FROM: tuple[Kind, ...] = ("sweep", "trials", "imported", "confirmation", "replays")

# What runs of the same question may differ in beside what those of a trial may: the seed, and what is compared as data.
_NOT_ASKED = frozenset({"seed", "data.digest", "protocol"})


_NO_EPOCH = "no epoch yet"


@dataclass(frozen=True)
class Selection:
    """The sweeps, and the others with the reason why they are none of them."""

    stores: tuple[Store, ...]
    kind: Kind | None = None  # of all of them; None where the user named them
    left_out: Mapping[str, str] = field(default_factory=dict)  # by name

    @property
    def imports(self) -> bool:
        """Whether checkpoints that were imported into these folders are meant as well."""
        return self.kind not in {"sweep", "trials"}

    @property
    def sentence(self) -> str | None:
        """What was chosen from, and what was not; None where the user said it."""
        if self.kind is None:
            return None
        sentence = f"Chosen from {_listed(store.folder.name for store in self.stores)}"
        if self.kind != "sweep":
            sentence += f" ({IN_WORDS[self.kind]}; no sweep has an epoch)"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(name)
        if not reasons:
            return f"{sentence}."
        rest = "; ".join(f"{_listed(names)} ({reason})" for reason, names in reasons.items())
        return f"{sentence}. Left out: {rest}. --sweep NAME chooses from what it names."

    def describe(self) -> dict[str, object]:
        """As JSON."""
        return {"sweeps": [store.folder.name for store in self.stores], "left_out": dict(self.left_out)}


@dataclass(frozen=True)
class _Folder:
    """What is known of a folder of results without its trials."""

    store: Store
    record: SweepRecord  # its sweep.json
    kind: Kind

    @property
    def name(self) -> str:
        return self.store.folder.name

    @property
    def question(self) -> str:
        """What it asked, by which two sweeps are of one question."""
        asked = self.record.asked or Asked()
        settings = {key: value for key, value in asked.identifying_settings.items() if key not in _NOT_ASKED}
        return json.dumps([asked.space, settings, asked.objective], sort_keys=True)

    @property
    def asked(self) -> str:
        """When it was asked last, in UTC; so far as it says."""
        times = [self.record.created, *(run.started for run in self.record.runs)]
        return max((time for time in times if time), default="")


def select(results: Folder, names: Sequence[str]) -> Selection:
    """The sweeps of these names; without one those of the latest question, as far as they are of the same data.

    Two sweeps ask the same question if space, settings and objective are the same, whatever their names, seeds and
    samplers and wherever the data lies. Imported checkpoints, replays and confirmations are left out, and so are trials
    that were run by hand, which ask nothing; where there is no sweep, they are what is chosen from, in this order:
    trials, imported checkpoints, confirmations, replays. Raise ChoiceError where a name is not there, or nothing is.
    """
    found = {store.folder.name: store for store in sweeps(results)}
    if not found:
        raise ChoiceError(f"{results}: holds no sweep; {calling.again('sweep', 'digits')} runs one")
    for name in names:
        if name not in found:
            raise ChoiceError(f"--sweep {name}: no such sweep in {results}{nearest(name, found)}")
    if names:
        return Selection(tuple(found[name] for name in dict.fromkeys(names)))
    folders, left_out = _read(found.values())
    if not folders:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items() if reason != _NO_EPOCH)
        raise ChoiceError(f"{results}: no trial has finished an epoch yet{f' ({why})' if why else ''}")
    kind = next(kind for kind in _CHOSEN_FROM if any(folder.kind == kind for folder in folders))
    among = [folder for folder in folders if folder.kind == kind]
    left_out |= {folder.name: IN_WORDS[folder.kind] for folder in folders if folder.kind != kind}
    if kind == "sweep":
        latest = max(among, key=lambda folder: folder.asked)
        left_out |= {folder.name: "another question" for folder in among if folder.question != latest.question}
        among = [folder for folder in among if folder.question == latest.question]
    if kind in {"sweep", "trials"}:
        among, others = _of_the_latest_data(among)
        left_out |= others
    order = {name: at for at, name in enumerate(found)}
    return Selection(
        tuple(folder.store for folder in among), kind, dict(sorted(left_out.items(), key=lambda item: order[item[0]]))
    )


def _read(stores: Iterable[Store]) -> tuple[list[_Folder], dict[str, str]]:
    """The folders that have an epoch, and the others with the reason."""
    folders, left_out = [], {}
    for store in stores:
        name = store.folder.name
        try:
            record = store.read_sweep()
        except StoreError:
            left_out[name] = "its sweep.json cannot be read; move it away, and its command writes it anew"
            continue
        kind = kind_of(name, record)
        if store.has_epochs():
            folders.append(_Folder(store, record or SweepRecord(), kind))
        else:
            left_out[name] = _NO_EPOCH
    return folders, left_out


def _of_the_latest_data(among: Sequence[_Folder]) -> tuple[list[_Folder], dict[str, str]]:
    """Those whose trials are about the same data as those of the latest, and the others with what differs."""
    if len(among) == 1:
        return list(among), {}
    data: dict[str, set[Data]] = {}
    began: dict[str, str] = {}
    for folder in among:
        trials = folder.store.latest_attempts().columns
        data[folder.name] = set(data_kinds.kinds_of(trials, DATA))
        begun = [] if folder.kind == "sweep" and folder.asked else arrays.times(trials["started"])
        began[folder.name] = max([folder.asked, *(str(as_scalar(time)) for time in begun)])
    latest = max(among, key=lambda folder: began[folder.name])
    alike = [folder for folder in among if data[folder.name] == data[latest.name]]
    others = {
        folder.name: _other_data(data[folder.name], data[latest.name])
        for folder in among
        if data[folder.name] != data[latest.name]
    }
    return alike, others


def _other_data(data: set[Data], latest: set[Data]) -> str:
    if len(data) != 1 or len(latest) != 1:
        return "other data"
    [own], [other] = data, latest
    return f"{data_kinds.described(own, other)} instead of {data_kinds.described(other, own)}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
