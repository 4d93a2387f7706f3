"""MLflow as a view of a sweep."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from orchestrator.records.location import Folder
from orchestrator.records.ranking import Entry
from orchestrator.records.store import Row, Store, as_int, as_number, as_time
from orchestrator.text.formatting import plain
from orchestrator.views.sections import sectioned, tag
from orchestrator.views.tracker import metrics_of, settings_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_FOLDER = "mlflow"
_TAG = "cpcnn.trial_id"
_ELSEWHERE = "MLFLOW_TRACKING_URI"  # MLflow's own variable: a server, or a store of the user's
_COLUMNS = ("val_acc", "val_bpd", "fid", "score")  # at each trial's best epoch


def look(store: Store, _mode: str = "") -> str | None:
    """What to type to see a sweep in it; None where the user has a server."""
    return None if _ELSEWHERE in os.environ else f"mlflow ui --backend-store-uri {shlex.quote(_database(store))}"


class Mlflow:
    """A run of MLflow per trial, in an experiment per sweep; in `mlflow/` unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, store: Store, mode: str = "") -> None:
        self._store = store
        self._runs: dict[str, str] = {}  # by trial

    def epoch(self, trial: Entry, row: Row, samples: Folder | None) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        run, epoch, time = self._run(trial), as_int(row["epoch"]), _milliseconds(trial, row)
        found = {tag(sectioned(name)): value for name, value in metrics_of(row).items()}
        self._client.log_batch(run, metrics=[Metric(name, value, time, epoch) for name, value in found.items()])
        if samples is not None:
            with TemporaryDirectory() as folder:
                file = Path(folder) / f"epoch-{epoch:04d}.png"
                file.write_bytes(samples.read_bytes())
                self._client.log_artifact(run, str(file), "samples")

    def end(self, trial: Entry, best: Row | None) -> None:
        """See `Tracker`."""
        run = self._run(trial)
        for name in ("state", "error", "stopped"):
            self._client.set_tag(run, name, str(trial.trial[name] or ""))
        if best is not None:
            epoch, time, shown = as_int(best["epoch"]), _milliseconds(trial, best), metrics_of(best)
            for name in (name for name in _COLUMNS if name in shown):
                self._client.log_metric(run, f"best/{name}", shown[name], time, epoch)
        ended = "FINISHED" if trial.trial["state"] in {"COMPLETE", "PRUNED"} else "KILLED"
        self._client.set_terminated(run, "FAILED" if trial.meaning.failed else ended)
        del self._runs[trial.trial_id]

    def close(self) -> None:
        """See `Tracker`."""
        self._runs.clear()

    @cached_property
    def _client(self) -> MlflowClient:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing of a sweep goes where nobody sent it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own, of SQLAlchemy 2.1
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table that it makes
            if _ELSEWHERE in os.environ:
                return MlflowClient()
            (self._store.local_mirror / _FOLDER).mkdir(exist_ok=True)
            client = MlflowClient(_database(self._store))
            client.get_experiment_by_name(self._store.folder.name)  # only now does it open its store
            return client

    @cached_property
    def _experiment(self) -> str:
        name = self._store.folder.name
        if (there := self._client.get_experiment_by_name(name)) is not None:
            return str(there.experiment_id)
        files = None if _ELSEWHERE in os.environ else (self._store.local_mirror / _FOLDER / "artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=files))

    def _run(self, trial: Entry) -> str:
        if trial.trial_id not in self._runs:
            self._runs[trial.trial_id] = self._found(trial) or self._begun(trial)
        return self._runs[trial.trial_id]

    def _found(self, trial: Entry) -> str | None:
        """The run that an earlier process began."""
        for run in self._client.search_runs([self._experiment], f"tags.`{_TAG}` = '{trial.trial_id}'"):
            self._client.update_run(run.info.run_id, status="RUNNING")
            return str(run.info.run_id)
        return None

    def _begun(self, trial: Entry) -> str:
        from mlflow.entities import Param

        run = self._client.create_run(
            self._experiment, start_time=_started(trial), run_name=trial.trial_id, tags={_TAG: trial.trial_id}
        )
        settings = [Param(tag(name), plain(value)) for name, value in settings_of(trial).items()]
        self._client.log_batch(run.info.run_id, params=settings)
        return str(run.info.run_id)


def _database(store: Store) -> str:
    """The store that lies beside the results, as a URL."""
    from sqlalchemy import URL  # MLflow needs it anyway

    return URL.create("sqlite", database=str(store.local_mirror / _FOLDER / "mlflow.db")).render_as_string()


def _started(trial: Entry) -> int:
    return round(1000 * as_time(trial.trial["started"]).timestamp())


def _milliseconds(trial: Entry, row: Row) -> int:
    """When the epoch ended, as far as its rows tell; the same for whoever shows it, so that nothing is there twice."""
    until = [each for each in trial.epochs if as_int(each["epoch"]) <= as_int(row["epoch"])]
    return _started(trial) + round(1000 * sum(as_number(each.get("seconds")) or 0.0 for each in until))
