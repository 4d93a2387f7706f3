"""What a sweep's checkpoints may take on disk: where they take more, the least valuable ones are deleted.

Never deleted are a trial's last weights, its best ones by any metric, and its last training state. First goes the
training state before the last of each trial that has ended, which is there in case the last is damaged; then weights,
by how far they are from being the best of their trial. Rows come before files: a kill in between leaves a file that no
row names, which is the first to go the next time, and never a row that names no file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cpcnn_core.errors import UserError
from cpcnn_core.keeping import epoch_places
from orchestrator.records import ranking
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Store, as_int

LOOK_SECONDS = 5.0  # between two looks at the disk

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]i?)?b?", re.IGNORECASE)
_WEIGHTS = re.compile(r"weights-(\d+)\.safetensors")


class SizeError(UserError, ValueError):
    """What is no size."""


def parse_size(text: str) -> int:
    """`5GB`, `500 MB` or `2.5GiB` in bytes. Raise SizeError."""
    match = _SIZE.fullmatch(text.strip())
    size = 0 if match is None else int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if not size:
        raise SizeError(f"--disk {text}: expected a size, as 5GB, 500MB or 2.5GiB")
    return size


@dataclass(frozen=True)
class _File:
    """A file that may be deleted, and the epoch whose row names it; 0 where none does."""

    path: Path
    trial_id: str
    epoch: int
    order: tuple[int, int, int]  # the smallest goes first


class Room:
    """Keeps the checkpoints of a sweep on disk within a number of bytes. Only for its driver, who writes the rows."""

    def __init__(self, store: Store, limit: int, *, every: float = LOOK_SECONDS) -> None:
        self._store = store
        self._limit = limit
        self._every = every
        self._looked = -float("inf")
        self._warned = False

    def make(self, running: Collection[str]) -> str | None:
        """Delete what is over the limit; a sentence, once, where what is never deleted is already over it.

        `running` are the trials that this driver runs: of others that have not ended, somebody else writes the rows.
        """
        if time.monotonic() - self._looked < self._every:
            return None
        self._looked = time.monotonic()
        over = self._size() - self._limit
        if over <= 0:
            return None
        for file in sorted(self._candidates(running), key=lambda file: file.order):
            if over <= 0:
                return None
            size = _size_of(file.path)
            if file.epoch:
                self._store.forget_weights(file.trial_id, file.epoch)
            file.path.unlink(missing_ok=True)
            over -= size
        if over <= 0 or self._warned:
            return None
        self._warned = True
        return (
            f"--disk: the last and the best weights and the last states of all trials take {over / 1e9:.3g} GB more "
            f"than {self._limit / 1e9:.3g} GB, and are never deleted"
        )

    def _size(self) -> int:
        return sum(_size_of(path) for path in self._folder.glob("*/*"))

    @property
    def _folder(self) -> Path:
        return self._store.training_folder("any").parent

    def _candidates(self, running: Collection[str]) -> Iterator[_File]:
        entries, _ = ranking.read([self._store])
        for entry in entries:
            if entry.meaning.ended or entry.trial_id in running:
                yield from self._of_trial(entry, is_running=entry.trial_id in running)

    def _of_trial(self, entry: Entry, *, is_running: bool) -> Iterator[_File]:
        folder = self._store.training_folder(entry.trial_id)
        # Of a trial that failed in the middle of an epoch, the state before the last one is what it can go on from.
        if not is_running and entry.trial["state"] in {"COMPLETE", "PRUNED"}:
            for state in sorted(folder.glob("state-*.pt"))[:-1]:
                yield _File(state, entry.trial_id, 0, (0, 0, 0))
        named = {as_int(row["epoch"]) for row in entry.epochs if row["checkpoint"] is not None}
        last = max((as_int(row["epoch"]) for row in entry.epochs), default=0)
        places = epoch_places(entry.epochs)
        for file in folder.glob("weights-*.safetensors"):
            match = _WEIGHTS.fullmatch(file.name)
            epoch = 0 if match is None else int(match[1])
            if not 0 < epoch < last or places.get(epoch) == 0:
                continue  # the last, the best, or one whose row is still to come
            if epoch in named:
                yield _File(file, entry.trial_id, epoch, (2, -places.get(epoch, len(places)), epoch))
            else:
                yield _File(file, entry.trial_id, 0, (1, 0, epoch))


def _size_of(path: Path) -> int:
    """Bytes of a file; none of one that a running trial has deleted or renamed meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
