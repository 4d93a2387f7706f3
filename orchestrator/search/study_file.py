"""The file of an Optuna study, read once and from then on only written.

Optuna's own storage reads every trial that has not ended from the file again for each question that a sampler asks,
which took half of a driver's time. A study has one driver, so that what it wrote is what the file holds.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL, NullPool, event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from cpcnn_core.errors import UserError
from orchestrator.records import location

ERRORS = (SQLAlchemyError, StorageInternalError)
"""What is raised where the file cannot be read or written."""


WAY_OUT = "Move it away and run the command again: the study is rebuilt from the tables"

_OPTUNAS = {"studies", "version_info", "alembic_version"}  # those that it makes first, and all its files have


class StudyError(UserError):
    """A study that cannot be opened, or that cannot go on."""


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Raise StudyError, with the file's name, where it cannot be written."""
    try:
        yield
    except ERRORS as error:
        raise StudyError(f"{path}: cannot be written: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """What was wrong, in a line: the first one of what SQLite said, with its own name for it where there is one."""
    found = error.__cause__ or error
    name = getattr(getattr(found, "orig", found), "sqlite_errorname", None)  # tells kinds of "disk I/O error" apart
    first = (str(found).splitlines() or [type(error).__name__])[0]
    if name == "SQLITE_FULL":  # what it makes of ENOSPC; the disk is as full for the file of a table, which says so
        return f"{first}, {name}: {os.strerror(errno.ENOSPC)}"
    return f"{first}, {name}" if name else first


def url(path: Path) -> str:
    """The URL of a study's file, for whoever opens it by way of SQLAlchemy: Optuna, optuna-dashboard."""
    # Optuna formats its URLs as templates; the braces are quoted as well.
    return URL.create("sqlite", database=str(path)).render_as_string()


class StudyFile(InMemoryStorage):
    """A storage that reads from memory, and writes to the file first. One process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        """Read the file, or begin one. Raise one of ERRORS, or StudyError where it is another program's."""
        super().__init__()
        revision, release = _written_by(path)
        if revision is None:
            _begin(path)
        try:
            # Where tables are missing that this release has, they are of another one, and not for us to make.
            _unpooled(path, skip_table_creation=True)
        except RuntimeError:
            raise StudyError(
                f"{path}: was begun by Optuna {release or 'of an unknown release'}, with tables of revision "
                f"{revision}, which Optuna {optuna.__version__} does not read. {WAY_OUT}"
            ) from None
        self._file = RDBStorage(url(path), skip_compatibility_check=True, skip_table_creation=True)
        with ExitStack() as unless_read:
            unless_read.callback(self.close)
            shared = location.is_shared(path)
            event.listen(self._file.engine, "connect", _keep_safe if shared else _write_ahead)
            self._let_go()  # of the connection that is not tuned
            self._read()
            unless_read.pop_all()

    def _read(self) -> None:
        self._studies_there: dict[int, int] = {}  # by the number of a study in memory, that in the file
        self._trials_there: dict[int, int] = {}
        for study in self._file.get_all_studies():
            here = super().create_new_study(study.directions, study.study_name)
            self._studies_there[here] = study._study_id
            for name, value in study.user_attrs.items():
                super().set_study_user_attr(here, name, value)
            for name, value in study.system_attrs.items():
                super().set_study_system_attr(here, name, value)
            for trial in self._file.get_all_trials(study._study_id, deepcopy=False):
                self._trials_there[super().create_new_trial(here, trial)] = trial._trial_id

    def close(self) -> None:
        """Let go of the file."""
        self._let_go()

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Begin a study."""
        there = self._file.create_new_study(directions, study_name)
        here = super().create_new_study(directions, study_name)
        self._studies_there[here] = there
        return here

    def delete_study(self, study_id: int) -> None:
        """Delete a study."""
        self._file.delete_study(self._studies_there.pop(study_id))
        super().delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: object) -> None:
        """Set an attribute of the study."""
        self._file.set_study_user_attr(self._studies_there[study_id], key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # Optuna exports no type for it
        """Set one of Optuna's own attributes of the study."""
        self._file.set_study_system_attr(self._studies_there[study_id], key, value)
        super().set_study_system_attr(study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Begin a trial, or add one as it is."""
        there = self._file.create_new_trial(self._studies_there[study_id], template_trial)
        here = super().create_new_trial(study_id, template_trial)
        self._trials_there[here] = there
        return here

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter of a trial."""
        self._file.set_trial_param(self._trials_there[trial_id], param_name, param_value_internal, distribution)
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Say how a trial stands. Return False where it was to begin and had begun."""
        if not self._file.set_trial_state_values(self._trials_there[trial_id], state, values):
            return False
        return super().set_trial_state_values(trial_id, state, values)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the value of an epoch of a trial."""
        self._file.set_trial_intermediate_value(self._trials_there[trial_id], step, intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: object) -> None:
        """Set an attribute of a trial."""
        self._file.set_trial_user_attr(self._trials_there[trial_id], key, value)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # Optuna exports no type for it
        """Set one of Optuna's own attributes of a trial."""
        self._file.set_trial_system_attr(self._trials_there[trial_id], key, value)
        super().set_trial_system_attr(trial_id, key, value)

    def _let_go(self) -> None:
        self._file.scoped_session.remove()
        self._file.engine.dispose()


def _unpooled(path: Path, *, skip_table_creation: bool = False) -> None:
    """Have Optuna make a file's tables, or check them, and hold no connection, whether it raises or not.

    A pool would be left to the garbage collector where it raises, and a connection that is closed that late takes the
    next file's journal with it.
    """
    options: dict[str, Any] = {"poolclass": NullPool}  # Any: as Optuna has it
    RDBStorage(url(path), options, skip_table_creation=skip_table_creation).scoped_session.remove()


def _begin(path: Path) -> None:
    """Make a study's file with all its tables, or none.

    With a part of them, as a full disk or a kill leaves it, Optuna would go on: without the index of names, it makes a
    second study of the same one.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    _unpooled(new)
    for journal in ("-journal", "-wal", "-shm"):  # of what was there: SQLite would take it for the new file's
        path.with_name(path.name + journal).unlink(missing_ok=True)
    new.replace(path)


def _written_by(path: Path) -> tuple[str | None, str | None]:
    """The revision of the file's tables, and Optuna's release that began it; no revision where it was never finished.

    Raise StudyError where it holds something else, and one of ERRORS where it is no database.
    """
    if not path.exists():
        return None, None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            if tables and not tables & _OPTUNAS:
                listed = ", ".join(sorted(tables)[:3])
                raise StudyError(f"{path}: is a database of another program, with the tables {listed}. {WAY_OUT}")
            return (
                _first(connection, "select version_num from alembic_version") if "alembic_version" in tables else None,
                _first(connection, "select library_version from version_info") if "version_info" in tables else None,
            )
    except sqlite3.Error as error:
        raise DatabaseError(None, None, error) from error  # as SQLAlchemy would


def _first(connection: sqlite3.Connection, query: str) -> str | None:
    row = connection.execute(query).fetchone()
    return None if row is None else str(row[0])


def _write_ahead(connection: sqlite3.Connection, _: object) -> None:
    # The write-ahead log needs no fsync for each of a trial's parameters, and is as safe against a kill.
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")


def _keep_safe(connection: sqlite3.Connection, _: object) -> None:
    # Where that log does not work, its memory being shared by one machine's processes alone.
    connection.execute("pragma journal_mode = truncate")
    connection.execute("pragma synchronous = full")
