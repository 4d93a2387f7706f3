"""Asking a sweep's driver to end one trial: a file for each in the sweep's folder, which the driver looks for.

So it works from every machine that sees the folder or the bucket, and needs no port. A request stays until the trial
has ended, however often the driver is killed in between.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Container
from contextlib import suppress

from orchestrator.records import layout, location
from orchestrator.records.provenance import now
from orchestrator.records.store import Store, StoreError

WHY = "the user asked for it with `stop`"

_DISK_SECONDS, _URL_SECONDS = 1.0, 10.0  # between two looks
_NAME = re.compile(r"(?P<trial_id>[0-9a-f]{12})\.json")


def ask(store: Store, trial_id: str) -> None:
    """Ask the driver of this sweep to end the trial. Raise StoreError."""
    content = json.dumps({"asked": now(), "by": f"pid {os.getpid()} on {platform.node()}"}).encode()
    file = _file(store, trial_id)
    try:
        location.write_atomically(file, lambda stream: stream.write(content))
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror or error}") from None


def withdraw(store: Store, trial_id: str) -> None:
    """Take a request back, or be done with it; one that is not there is no error."""
    with suppress(OSError):  # it asks for nothing of a trial that has ended
        _file(store, trial_id).unlink(missing_ok=True)


class StopRequests:
    """The trials of a sweep that its driver is asked to end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._every = _URL_SECONDS if store.is_remote else _DISK_SECONDS
        self._next = 0.0
        self._asked: frozenset[str] = frozenset()

    def look(self) -> Container[str]:
        """Their ids, as they were at most a few seconds ago."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            with suppress(OSError):  # out of reach for a moment; what cannot be written ends the sweep elsewhere
                found = map(_NAME.fullmatch, location.names(self._store.folder / layout.STOP))
                self._asked = frozenset(match["trial_id"] for match in found if match)
        return self._asked

    def done(self, trial_id: str) -> None:
        """The trial has ended."""
        if trial_id in self._asked:
            withdraw(self._store, trial_id)
            self._asked -= {trial_id}


def _file(store: Store, trial_id: str) -> location.Folder:
    return store.folder / layout.STOP / f"{trial_id}.json"
