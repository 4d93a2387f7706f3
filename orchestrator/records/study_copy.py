"""The study of a sweep: a database on a disk of the driver's machine, and a copy of it where the results are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.records import layout, location
from orchestrator.records.place import Place

_LOGS = ("-wal", "-shm", "-journal")


class StudyCopy:
    """The study's file and its copy."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @cached_property
    def file(self) -> Path:
        """The driver's study, on a disk of its machine; elsewhere than in the folder it is published there."""
        return location.own_disk(self._place.folder) / layout.STUDY_FILE

    def set_aside(self) -> None:
        """Give the study's files another name, so that the next one to open it starts a new one."""
        number = 1
        while (aside := self.file.with_name(f"study-{number}.db")).exists():
            number += 1
        for suffix in (*_LOGS, ""):  # the log of what is not yet in the file goes with it
            file = self.file.with_name(self.file.name + suffix)
            if file.exists():
                file.replace(aside.with_name(aside.name + suffix))

    def publish(self) -> None:
        """Put a copy of the study, as it is now, where the results are. Raise StoreError."""
        if self._place.path(layout.STUDY_FILE) == self.file or not self.file.exists():
            return
        with TemporaryDirectory() as folder:
            copy = Path(folder) / layout.STUDY_FILE
            # Not the file's bytes: half of what the study knows may be in its write-ahead log.
            with closing(sqlite3.connect(self.file)) as study, closing(sqlite3.connect(copy)) as published:
                study.backup(published)
                published.execute("pragma journal_mode = delete")  # so that a reader need not write beside it
            content = copy.read_bytes()
        # Those of a file that had the name before would be taken for this one's.
        self._place.remove(f"{layout.STUDY_FILE}{suffix}" for suffix in _LOGS)
        self._place.write_soon(layout.STUDY_FILE, lambda stream: stream.write(content))
