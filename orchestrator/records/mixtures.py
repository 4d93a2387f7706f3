"""A folder of results holds trials of one data set, under one protocol: others are refused before anything is written.

What sweep.json says counts, and what the rows say: trials that were run by hand have asked nothing, and sweep.json may
be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cpcnn_core.config import PROTOCOL, DataConfig, Scalar, TrialConfig
from orchestrator.records import data_kinds
from orchestrator.records.location import Folder
from orchestrator.records.store import Store, StoreError, as_scalar, as_time
from orchestrator.records.sweep_file import SweepRecord
from orchestrator.records.tables import Table

_DIGEST = "data.digest"
_PROTOCOL = "protocol"


class MixtureError(StoreError):
    """Trials that do not go into the folder, since those in it are of other data or another protocol."""


@dataclass(frozen=True)
class Held:
    """What a folder holds, by sweep.json and its rows, which are read once."""

    folder: Folder
    sweep: SweepRecord
    trials: Table  # the last attempt of each

    @classmethod
    def of(cls, store: Store) -> Held:
        """What is in the store's folder now."""
        return cls(store.folder, store.read_sweep() or SweepRecord(), store.latest_attempts())

    def check_protocol(self, *, way_out: str) -> None:
        """Raise MixtureError where the folder was begun under another protocol than that of this release."""
        asked = [] if self.sweep.asked is None else [self.sweep.asked.protocol]
        others = [protocol for protocol in self._values(_PROTOCOL, asked) if protocol != PROTOCOL]
        if not others:
            return
        commits = [*self._commits_of_rows(others), *(run.git_commit for run in self.sweep.runs)]
        known = [str(commit) for commit in commits if commit]
        release = f" (commit {known[-1]})" if known else ""
        raise MixtureError(
            f"{self.folder}: was begun under protocol {_listed(others)}, and this release trains and measures by "
            f"protocol {PROTOCOL}, which gives other numbers. To go on with it takes the release that began "
            f"it{release}; to begin anew, {way_out}. status, best, report and export read it as it is"
        )

    def check_data(self, data: DataConfig, digest: str | None, *, way_out: str) -> None:
        """Raise MixtureError where the folder's trials are of other data than those at `data`, with this digest."""
        asked = [self.sweep.settings[_DIGEST]] if _DIGEST in self.sweep.settings else []
        others = [known for known in self._values(_DIGEST, asked) if known != digest]
        if not others:
            return
        where = f" at {data.root}" if data.root is not None else f" {data.name}"
        raise MixtureError(
            f"{self.folder}: holds trials of other data: their digest is {_listed(others)}, that of the data{where} is "
            f"{_listed([digest])}. Trials of different data do not go into one folder; name the place of its data with "
            f"--set data.root=PATH, or {way_out}"
        )

    def _values(self, column: str, asked: Sequence[Scalar]) -> list[Scalar]:
        """What was `asked`, and the values that the rows have, each once."""
        trials = self.trials.columns
        of_rows = [value for (value,) in data_kinds.kinds_of(trials, (column,))] if len(trials) else []
        return list(dict.fromkeys([*asked, *of_rows]))

    def _commits_of_rows(self, protocols: Sequence[Scalar]) -> Iterable[Scalar]:
        known = [row for row in self.trials.rows() if row["started"] is not None]  # a foreign file may not say
        rows = sorted(known, key=lambda row: as_time(row["started"]))
        return [as_scalar(row.get("git_commit")) for row in rows if (row.get(_PROTOCOL) or 1) in protocols]


def check(store: Store, config: TrialConfig, *, way_out: str) -> None:
    """Raise MixtureError where the folder holds trials of other data, or of another protocol, than the configuration.

    `way_out` is what the caller's command offers instead, after "or": "give this trial another --name".
    """
    held = Held.of(store)
    held.check_protocol(way_out=way_out)
    held.check_data(config.data, config.data.digest, way_out=way_out)


def _listed(values: Iterable[Scalar]) -> str:
    return " and ".join("not recorded" if value is None else str(value) for value in values)
