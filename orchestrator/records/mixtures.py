"""A folder of results holds trials of one data set, under one protocol: others are refused before anything is written.

What sweep.json says counts, and what the rows say: trials that were run by hand have asked nothing, and sweep.json may
be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cpcnn_core.config import PROTOCOL, DataConfig, Scalar, TrialConfig
from orchestrator.records import data_kinds
from orchestrator.records.store import Store, StoreError
from orchestrator.records.sweep_file import SweepRecord

_DIGEST = "data.digest"
_PROTOCOL = "protocol"


class MixtureError(StoreError):
    """Trials that do not go into the folder, since those in it are of other data or another protocol."""


def check(store: Store, config: TrialConfig, *, way_out: str) -> None:
    """Raise MixtureError where the folder holds trials of other data, or of another protocol, than the configuration.

    `way_out` is what the caller's command offers instead, after "or": "give this trial another --name".
    """
    check_protocol(store, way_out=way_out)
    check_data(store, config.data, config.data.digest, way_out=way_out)


def check_protocol(store: Store, *, way_out: str) -> None:
    """Raise MixtureError where the folder was begun under another protocol than that of this release."""
    sweep = store.read_sweep() or SweepRecord()
    others = [protocol for protocol in _held(store, sweep, _PROTOCOL) if protocol != PROTOCOL]
    if not others:
        return
    commits = [*_commits_of_rows(store, others), *(run.git_commit for run in sweep.runs)]
    known = [str(commit) for commit in commits if commit]
    release = f" (commit {known[-1]})" if known else ""
    raise MixtureError(
        f"{store.folder}: was begun under protocol {_listed(others)}, and this release trains and measures by protocol "
        f"{PROTOCOL}, which gives other numbers. To go on with it takes the release that began it{release}; to begin "
        f"anew, {way_out}. status, best, report and export read it as it is"
    )


def check_data(store: Store, data: DataConfig, digest: str | None, *, way_out: str) -> None:
    """Raise MixtureError where the folder holds trials of other data than those at `data`, which have this digest."""
    others = [held for held in _held(store, store.read_sweep() or SweepRecord(), _DIGEST) if held != digest]
    if not others:
        return
    where = f" at {data.root}" if data.root is not None else f" {data.name}"
    raise MixtureError(
        f"{store.folder}: holds trials of other data: their digest is {_listed(others)}, that of the data{where} is "
        f"{_listed([digest])}. Trials of different data do not go into one folder; name the place of its data with "
        f"--set data.root=PATH, or {way_out}"
    )


def _held(store: Store, sweep: SweepRecord, column: str) -> list[Scalar]:
    """The values of data.digest, or of the protocol, that sweep.json and the rows have, each once."""
    found: list[Scalar] = []
    if sweep.asked is not None and column == _PROTOCOL:
        found.append(sweep.asked.protocol)
    elif _DIGEST in sweep.settings:
        found.append(sweep.settings[_DIGEST])
    trials = store.latest_attempts().columns
    if len(trials):
        found += [value for (value,) in data_kinds.kinds_of(trials, (column,))]
    return list(dict.fromkeys(found))


def _commits_of_rows(store: Store, protocols: Sequence[Scalar]) -> Iterable[Scalar]:
    rows = sorted(store.latest_attempts().rows(), key=lambda row: str(row["started"]))
    return [row.get("git_commit") for row in rows if (row.get(_PROTOCOL) or 1) in protocols]


def _listed(values: Iterable[Scalar]) -> str:
    return " and ".join("not recorded" if value is None else str(value) for value in values)
