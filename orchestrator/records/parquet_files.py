"""One Parquet file of a sweep's folder: written whole, and read where it is one of ours."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from orchestrator.records import layout, migrations
from orchestrator.records.errors import StoreError
from orchestrator.records.location import RemoteError
from orchestrator.records.place import Place

logger = logging.getLogger(__name__)

UNREADABLE = "not readable as Parquet"


class ParquetFiles:
    """Reads and writes Parquet files of any version."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._warned: set[str] = set()  # damaged files that were named already

    def write(self, name: str, table: pa.Table) -> None:
        """Write a file. Raise StoreError."""
        stamped = migrations.stamped(table)
        self._place.write(name, lambda stream: pq.write_table(stamped, stream))

    def read(
        self, name: str, required: Iterable[str], columns: list[str] | None = None, tag: str | None = None
    ) -> tuple[pa.Table | None, str | None]:
        """A file's rows, or why there are none; neither where it is not there. Raise StoreError out of reach."""
        path = self._place.path(name)
        try:
            with self._place.opened(name, tag, may_be_large=layout.is_compacted(name)) as file:
                there = file.schema_arrow.names
                missing = [column for column in required if column not in there]
                if missing:
                    return None, f"{path}: a foreign file, passed over; it has no column {', '.join(missing)}"
                version = migrations.version_of(file.schema_arrow)
                if version > migrations.SCHEMA:
                    return None, f"{path}: passed over; a newer version of this program wrote it (schema {version})"
                # Columns may have had other names in a version from which there are steps.
                whole = columns is None or any(step.concerns(there) for step in migrations.steps(version))
                table = file.read(None if whole else [column for column in columns or () if column in there])
                table = migrations.migrated(table, version)
        except FileNotFoundError:
            return None, None
        except RemoteError as error:
            raise StoreError(str(error)) from error
        except (OSError, ValueError, pa.ArrowException) as error:
            return None, f"{path}: {UNREADABLE}, passed over ({str(error).splitlines()[0]})"
        return table if columns is None else table.select(
            [column for column in columns if column in table.column_names]
        ), None

    def read_trial(self, name: str, trial_id: str) -> pa.Table | None:
        """The rows of one trial in a compacted file, None where there is no such file."""
        path = self._place.path(name)
        try:
            # Sorted by trial, the file's own statistics lead to the few row groups that may hold it.
            table = self._place.rows(name, [("trial_id", "==", trial_id)])
            return migrations.migrated(table, migrations.version_of(table.schema))
        except RemoteError as error:
            raise StoreError(str(error)) from error
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            if name not in self._warned:  # else each epoch of a trial would say it
                self._warned.add(name)
                logger.warning("%s: %s, passed over (%s)", path, UNREADABLE, str(error).splitlines()[0])
            return None
